"""Tiled equals whole, option by option; `test_exact_random.py` tries them together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.inference.wholes import whole_pass

from unetari import predict
from unetari.core.config import UP_MODES
from unetari.core.network import reach_of
from unetari.inference.winograd import Winograd
from unetari.model.checkpoint import Model

MakeModel = Callable[..., Model]


def whole_scores(model: Model, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of one plain forward pass."""
    logits = whole_pass(model.network, image[None], model.spec.config)
    return np.asarray(torch.from_numpy(logits).softmax(0).numpy())


def check(model: Model, shape: tuple[int, ...], seed: int = 0) -> None:
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    smallest = reach_of(model.spec.config)[0].smallest_tile
    tile = [smallest + 16] * len(shape)
    axes = "YX" if len(shape) == 2 else "ZYX"
    result = predict(image, model, axes=axes, tile_shape=tile, scores=True, device="cpu")
    assert result.scores is not None
    assert result.record.n_tiles > 1
    np.testing.assert_allclose(result.scores, whole_scores(model, image), atol=1e-5)
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


@pytest.mark.parametrize("conv_mode", ["same", "valid"])
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"dim": 2, "n_blocks": 3, "start_filters": 24}, (157, 203)),
        ({"dim": 2, "n_blocks": 2, "start_filters": 24, "activation": "elu"}, (157, 203)),
        (
            {
                "dim": 2,
                "n_blocks": 2,
                "start_filters": 24,
                "up_mode": "bilinear",
                "block_order": "conv-norm-act",
            },
            (157, 203),
        ),
        ({"dim": 3, "n_blocks": 2, "start_filters": 8}, (37, 45, 29)),
        ({"dim": 3, "n_blocks": 2, "start_filters": 8, "planar_blocks": (0,)}, (11, 45, 29)),
    ],
)
def test_large_convolutions(
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    shape: tuple[int, ...],
    conv_mode: str,
) -> None:
    """Those of large images are computed in another way, here however small they are."""
    monkeypatch.setattr("unetari.inference.winograd.LEAST_SIZE", 0)
    monkeypatch.setattr("unetari.inference.runner.agree", lambda *_: True)
    calls, compute = [], Winograd.__call__

    def count(self: Winograd, x: torch.Tensor, rows_padded: bool) -> torch.Tensor:
        calls.append(x.shape)
        return compute(self, x, rows_padded)

    monkeypatch.setattr(Winograd, "__call__", count)
    check(make_model(conv_mode=conv_mode, **options), shape)
    assert len(calls) > 10


@pytest.mark.parametrize("n_blocks", [1, 2, 4, 5])
def test_depths(make_model: MakeModel, n_blocks: int) -> None:
    model = make_model(n_blocks=n_blocks, start_filters=2)
    check(model, (2 * reach_of(model.spec.config)[0].smallest_tile + 3, 71))


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
    np.testing.assert_allclose(result.scores, whole_scores(model, image), atol=1e-5)
