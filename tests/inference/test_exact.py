"""Tiled equals whole, for every option of the network and any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unetari import predict
from unetari.core.config import UP_MODES
from unetari.core.sizes import Reach
from unetari.model.checkpoint import Model

MakeModel = Callable[..., Model]


def whole_pass(model: Model, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """One plain forward pass over the reflected image, without any of our tiling."""
    config = model.spec.config
    reach = Reach.of(config)
    margin = reach.loss + reach.trim
    sizes = [reach.rule.above(size + 2 * margin) for size in image.shape]
    pads = [(margin, full - size - margin) for full, size in zip(sizes, image.shape, strict=True)]
    mode = "reflect" if min(image.shape) > 1 else "edge"
    padded = np.pad(image, pads, mode=mode)  # type: ignore[call-overload]
    with torch.no_grad():
        logits = model.network(torch.from_numpy(padded)[None, None])[0]
    crop = [slice(reach.trim, reach.trim + size) for size in image.shape]
    scores = logits[(slice(None), *crop)].softmax(0)
    return np.asarray(scores.numpy())


def check(model: Model, shape: tuple[int, ...], seed: int = 0) -> None:
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    smallest = Reach.of(model.spec.config).smallest_tile
    tile = [smallest + 16] * len(shape)
    axes = "YX" if len(shape) == 2 else "ZYX"
    result = predict(image, model, axes=axes, tile_shape=tile, scores=True, device="cpu")
    assert result.scores is not None
    assert result.record.n_tiles > 1
    expected = whole_pass(model, image)
    np.testing.assert_allclose(result.scores, expected, atol=1e-5)
    # Softmax rounds logits that differ in their last bits to the same score.
    chosen = np.take_along_axis(result.scores, result.labels[None].astype(int), axis=0)[0]
    np.testing.assert_array_equal(chosen, result.scores.max(0))


@pytest.mark.parametrize("normalization", ["none", "batch"])
@pytest.mark.parametrize("conv_mode", ["same", "valid"])
@pytest.mark.parametrize("up_mode", UP_MODES[2])
def test_2d(make_model: MakeModel, normalization: str, conv_mode: str, up_mode: str) -> None:
    model = make_model(normalization=normalization, conv_mode=conv_mode, up_mode=up_mode)
    check(model, (157, 203))


@pytest.mark.parametrize("conv_mode", ["same", "valid"])
@pytest.mark.parametrize("up_mode", UP_MODES[3])
def test_3d(make_model: MakeModel, conv_mode: str, up_mode: str) -> None:
    model = make_model(dim=3, n_blocks=2, conv_mode=conv_mode, up_mode=up_mode, start_filters=2)
    check(model, (37, 45, 29))


@pytest.mark.parametrize("n_blocks", [1, 2, 4, 5])
def test_depths(make_model: MakeModel, n_blocks: int) -> None:
    model = make_model(n_blocks=n_blocks, start_filters=2)
    check(model, (2 * Reach.of(model.spec.config).smallest_tile + 3, 71))


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (7, 150), (129, 128)])
def test_odd_sizes(make_model: MakeModel, shape: tuple[int, int]) -> None:
    check(make_model(), shape)


def test_one_voxel_axes_of_a_volume(make_model: MakeModel) -> None:
    check(make_model(dim=3, n_blocks=2, start_filters=2), (1, 90, 1))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3)])
def test_smaller_than_a_tile(make_model: MakeModel, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model = make_model()
    result = predict(image, model, axes="YX", scores=True, device="cpu")
    assert result.scores is not None
    np.testing.assert_allclose(result.scores, whole_pass(model, image), atol=1e-5)


def test_bit_for_bit_in_double_precision(make_model: MakeModel) -> None:
    """Only the order of float32 sums tells tiled from whole: in float64 nothing is left."""
    model = make_model()
    network = model.network.double()
    image = np.random.default_rng(0).normal(size=(150, 170))
    try:
        check_double(network, image, model)
    finally:
        network.float()


def check_double(network: Any, image: NDArray[np.float64], model: Model) -> None:
    from unetari.core.tiles import mirror, plan_tiles

    def forward(outer: Any) -> NDArray[np.float64]:
        grid = np.ix_(*(mirror(s, n) for s, n in zip(outer, image.shape, strict=True)))
        with torch.no_grad():
            result = network(torch.from_numpy(image[grid])[None, None])
        return np.asarray(result[0].numpy())

    whole = forward(plan_tiles(image.shape, model.spec.config)[0].outer)
    for tile in plan_tiles(image.shape, model.spec.config, tile_shape=(64, 64)):
        part = forward(tile.outer)[(slice(None), *(s.slice for s in tile.local))]
        expected = whole[(slice(None), *(s.slice for s in tile.inner))]
        np.testing.assert_allclose(part, expected, atol=1e-14)
