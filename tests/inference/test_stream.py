"""An image that comes in pieces gives what it gives as a whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.inference.test_lean import configs, make_network
from torch import Tensor

from unetari.core.config import UNetConfig
from unetari.core.network import reach_of
from unetari.errors import ShapeError
from unetari.inference.lean import LeanUNet


def push_all(network: LeanUNet, image: Tensor, part: list[slice], cuts: list[int]) -> list[Tensor]:
    stream = network.stream(image.shape[2:], part)
    pieces = [image[:, :, start:stop] for start, stop in pairwise([0, *cuts, image.shape[2]])]
    return [scores for piece in pieces for scores in stream.push(piece)]


def check(config: UNetConfig, data: st.DataObject) -> None:
    if not config.tiles_exactly:
        config = config.replace(normalization="batch")
    network = make_network(config)
    rules = [reach.rule for reach in reach_of(config)]
    sizes = [rule.above(rule.smallest + data.draw(st.integers(1, 40))) for rule in rules]
    image = torch.randn(1, config.in_channels, *sizes)
    cuts = data.draw(st.sets(st.integers(1, sizes[0] - 1)))
    with torch.inference_mode():
        expected = network(image)
        part = []
        for size in expected.shape[2:]:
            start = data.draw(st.integers(0, size - 1))
            part.append(slice(start, data.draw(st.integers(start + 1, size))))
        found = push_all(LeanUNet(network), image, part, sorted(cuts))
    torch.testing.assert_close(
        torch.cat(found, dim=2), expected[(..., *part)], atol=2e-5, rtol=1e-5
    )


@given(config=configs(2), data=st.data())
@settings(max_examples=60)
def test_2d(config: UNetConfig, data: st.DataObject) -> None:
    check(config, data)


@given(config=configs(3), data=st.data())
@settings(max_examples=40)
def test_3d(config: UNetConfig, data: st.DataObject) -> None:
    check(config, data)


def test_rows_that_do_not_belong_are_refused() -> None:
    network = LeanUNet(make_network(UNetConfig(n_blocks=2, start_filters=4)))
    stream = network.stream((32, 32))
    with pytest.raises(ShapeError, match="full width"):
        stream.push(torch.zeros(1, 1, 8, 30))
    with pytest.raises(ShapeError, match="48 in all"):
        network.stream((32, 32)).push(torch.zeros(1, 1, 48, 32))
    whole = LeanUNet(
        make_network(UNetConfig(n_blocks=2, start_filters=4, normalization="instance"))
    )
    with pytest.raises(ShapeError, match="all rows at once"):
        whole.stream((32, 32)).push(torch.zeros(1, 1, 8, 32))
