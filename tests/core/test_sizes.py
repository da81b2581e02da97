"""The valid-depth rule, the sizes a network takes, and how far it sees."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unetari.core.config import UNetConfig
from unetari.core.shapes import (
    compute_max_depth,
    compute_possible_shapes,
    receptive_field,
    valid_output_size,
)
from unetari.core.sizes import Reach, max_valid_blocks
from unetari.errors import ShapeError
from unetari.model.unet import UNet


def test_the_articles_example() -> None:
    assert compute_max_depth(1920) == [1920, 960, 480, 240, 120, 60, 30, 15]


def test_the_articles_possible_shapes() -> None:
    possible = compute_possible_shapes(10, 512, 8)
    assert list(possible) == [256, 384, 512]
    assert possible[384] == [384, 192, 96, 48, 24, 12, 6, 3]


@pytest.mark.parametrize(
    ("size", "levels"), [(1, [1]), (2, [2]), (3, [3]), (4, [4, 2]), (511, [511]), (6, [6, 3])]
)
def test_small_and_odd_sizes(size: int, levels: list[int]) -> None:
    assert compute_max_depth(size) == levels


@given(size=st.integers(1, 10_000), max_depth=st.integers(1, 12))
def test_levels_follow_the_rule(size: int, max_depth: int) -> None:
    levels = compute_max_depth(size, max_depth)
    allowed = [n for n in range(max_depth) if size % 2**n == 0 and size / 2**n > 1]
    assert levels[1:] == [size // 2**n for n in allowed if n > 0]
    assert len(levels) <= max_depth


@given(low=st.integers(1, 200), extent=st.integers(0, 100), depth=st.integers(1, 8))
@settings(max_examples=30)
def test_possible_shapes_are_those_of_that_depth(low: int, extent: int, depth: int) -> None:
    possible = compute_possible_shapes(low, low + extent, depth)
    for size in range(low, low + extent + 1):
        assert (size in possible) == (len(compute_max_depth(size, depth)) == depth)


@pytest.mark.parametrize("size", [0, -8])
def test_refuses_sizes_below_one(size: int) -> None:
    with pytest.raises(ShapeError, match=f"size={size}"):
        compute_max_depth(size)


def test_refuses_a_depth_below_one() -> None:
    with pytest.raises(ShapeError, match="depth=0"):
        compute_possible_shapes(10, 20, 0)


def test_the_papers_valid_size() -> None:
    assert valid_output_size(572, UNetConfig(n_blocks=5, conv_mode="valid")) == 388


def test_refused_valid_size_names_the_nearest() -> None:
    with pytest.raises(ShapeError, match="508 and 524"):
        valid_output_size(512, UNetConfig(n_blocks=5, conv_mode="valid"))


def test_refused_tiny_valid_size_names_the_smallest() -> None:
    config = UNetConfig(n_blocks=5, conv_mode="valid")
    smallest = Reach.of(config).rule.smallest
    with pytest.raises(ShapeError, match=f"do: {smallest}"):
        valid_output_size(10, config)


def test_same_convolution_keeps_the_size() -> None:
    assert valid_output_size(64, UNetConfig()) == 64
    with pytest.raises(ShapeError, match="56 and 64"):
        valid_output_size(60, UNetConfig())


def _output_size(network: UNet, size: int) -> int | None:
    """Return what a real pass gives, None where the network refuses or fails."""
    width = Reach.of(network.config).rule.smallest
    try:
        with torch.inference_mode():
            return int(network(torch.zeros(1, 1, width, size)).shape[-1])
    except (ShapeError, RuntimeError):
        return None


@pytest.mark.parametrize("conv_mode", ["same", "valid"])
@pytest.mark.parametrize("n_blocks", [1, 2, 3])
def test_sizes_are_those_the_network_takes(n_blocks: int, conv_mode: str) -> None:
    config = UNetConfig(n_blocks=n_blocks, conv_mode=conv_mode, start_filters=1)
    network = UNet(config).eval()
    rule = Reach.of(config).rule
    for size in range(1, 70):
        expected = valid_output_size(size, config) if rule.allows(size) else None
        assert _output_size(network, size) == expected, size


@given(
    size=st.integers(1, 3000),
    n_blocks=st.integers(1, 10),
    conv_mode=st.sampled_from(["same", "valid"]),
)
def test_nearest_sizes_fit_and_are_nearest(size: int, n_blocks: int, conv_mode: str) -> None:
    rule = Reach.of(UNetConfig(n_blocks=n_blocks, conv_mode=conv_mode, start_filters=1)).rule
    below, above = rule.below(size), rule.above(size)
    assert above >= size
    assert rule.allows(above)
    assert not any(rule.allows(other) for other in range(size, above))
    if below is None:
        assert size < rule.smallest == above
    else:
        assert rule.allows(below)
        assert not any(rule.allows(other) for other in range(below + 1, size + 1))


@given(size=st.integers(1, 2000))
def test_most_blocks_with_valid_convolution(size: int) -> None:
    blocks = max_valid_blocks(size, UNetConfig())
    networks = [UNetConfig(n_blocks=n, start_filters=1, conv_mode="valid") for n in range(1, 11)]
    taking = [c.n_blocks for c in networks if Reach.of(c).rule.allows(size)]
    assert blocks == max(taking, default=0)


def _probe(config: UNetConfig) -> int:
    """Widest dependence of central outputs on the inputs, found by spreading NaN along X."""
    multiple = Reach.of(config).multiple
    reach = receptive_field(config) + 4 * multiple
    size = Reach.of(config).rule.above(2 * reach)
    height = Reach.of(config).rule.smallest
    depth = [height] * (config.dim - 2)
    network = UNet(config).eval()
    image = torch.zeros(1, 1, *depth, height, size)
    outputs: dict[int, list[int]] = {}
    with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=False):
        width = network(image).shape[-1]
        targets = range(width // 2, width // 2 + multiple)
        for column in range(size):
            probe = image.clone()
            probe[..., column] = torch.nan
            hit = network(probe).isnan().flatten(0, -2).any(0)
            for target in targets:
                if hit[target]:
                    outputs.setdefault(target, []).append(column)
    return max(max(columns) - min(columns) + 1 for columns in outputs.values())


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize(
    ("dim", "n_blocks", "up_mode", "conv_mode"),
    [
        (2, 1, "transposed", "same"),
        (2, 2, "transposed", "same"),
        (2, 2, "transposed", "valid"),
        (2, 2, "nearest", "same"),
        (2, 2, "bilinear", "same"),
        (2, 2, "bilinear", "valid"),
        (2, 2, "bicubic", "same"),
        (3, 2, "trilinear", "same"),
        (3, 2, "transposed", "same"),
        (2, 3, "transposed", "same"),
        (2, 3, "bilinear", "same"),
        (2, 3, "bicubic", "same"),
        (2, 3, "bilinear", "valid"),
    ],
)
def test_receptive_field_is_what_a_probe_finds(
    dim: int, n_blocks: int, up_mode: str, conv_mode: str
) -> None:
    config = UNetConfig(
        dim=dim, n_blocks=n_blocks, up_mode=up_mode, conv_mode=conv_mode, start_filters=1
    )
    assert receptive_field(config) == _probe(config)


@pytest.mark.parametrize("normalization", ["none", "batch", "instance"])
def test_receptive_field_leaves_statistics_out(normalization: str) -> None:
    assert receptive_field(UNetConfig(normalization=normalization)) == 100


@pytest.mark.parametrize("size", [0, -4, 2.5, "x", True, None])
def test_sizes_that_are_no_counts_are_refused(size: Any) -> None:
    rule = f"size={size!r} must be a whole number from 1"
    with pytest.raises(ShapeError, match=re.escape(rule)):
        compute_max_depth(size)
    with pytest.raises(ShapeError, match="low="):
        compute_possible_shapes(size, 64, 2)
