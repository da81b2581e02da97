"""Blended tiles: each with its own statistics, overlapping by half."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.inference.test_whole_statistics import noise, scores_of

from unetari import Model, UNetConfig, predict
from unetari.core.blending import blending_weights, patch_of, plan_blended
from unetari.core.network import reach_of
from unetari.core.spec import ModelSpec
from unetari.core.tiles import Span
from unetari.errors import ConfigError, OutOfMemoryError, ShapeError
from unetari.inference.job import prepare
from unetari.inference.predict import collect, run
from unetari.inference.runner import Runner
from unetari.storage.images import open_image

MakeModel = Callable[..., Model]
# Every such run warns; what it says is tested below.
pytestmark = pytest.mark.filterwarnings("ignore:The model uses")


@pytest.mark.parametrize("conv_mode", ["same", "valid"])
@pytest.mark.parametrize("size", [1, 40, 64, 65, 100, 333])
def test_tiles_overlap_by_half_and_weights_add_up_to_one(size: int, conv_mode: str) -> None:
    config = UNetConfig(n_blocks=2, conv_mode=conv_mode)
    whole = [Span(0, size), Span(0, 200)]
    plan = plan_blended((size, 200), config, tile_shape=(64, 64), region=whole)
    assert all(reach.rule.allows(64) for reach in reach_of(config)) or conv_mode == "valid"
    for axis, (tiles, weights) in enumerate(
        zip(plan.axes, blending_weights(plan, config), strict=True)
    ):
        total = np.zeros(plan.shape[axis])
        for tile, weight in zip(tiles, weights, strict=True):
            assert weight.min() > 0
            assert tile.local.size == tile.inner.size
            total[tile.inner.slice] += weight
        np.testing.assert_allclose(total, 1, rtol=1e-6)
        for one, other in pairwise(tiles):
            assert one.inner.stop - other.inner.start >= one.inner.size // 2
        assert tiles[0].inner.start == 0
        assert tiles[-1].inner.stop == plan.shape[axis]


def blend_plainly(model: Model, image: NDArray[Any], tile_shape: tuple[int, ...]) -> Any:
    """Blend as one would who has all memory of the world."""
    config = model.spec.config
    region = [Span(0, size) for size in image.shape]
    plan = plan_blended(image.shape, config, tile_shape=tile_shape, region=region)
    total = np.zeros((config.out_channels, *image.shape))
    weights = [list(each) for each in blending_weights(plan, config)]
    for tile, parts in zip(plan, product(*weights), strict=True):
        window = np.ones(())
        for part in parts:
            window = window[..., None] * part
        box = tuple(span.slice for span in tile.inner)
        total[(slice(None), *box)] += window * scores_of(model, image[box])
    return total


@pytest.mark.parametrize(
    ("options", "shape", "tile_shape"),
    [
        ({"normalization": "instance"}, (150, 133), (64, 48)),
        ({"normalization": "group2", "out_channels": 1}, (70, 200), (64, 64)),
        ({"normalization": "group2", "dim": 3, "n_blocks": 2}, (21, 40, 37), (8, 16, 24)),
        ({"normalization": "instance", "conv_mode": "valid"}, (90, 77), (100, 100)),
    ],
    ids=str,
)
def test_bands_give_the_mean_of_all_tiles(
    make_model: MakeModel,
    options: dict[str, Any],
    shape: tuple[int, ...],
    tile_shape: tuple[int, ...],
) -> None:
    model = make_model(**options)
    image = noise(*shape)
    plan: dict[str, Any] = {
        "tile_shape": tile_shape,
        "norm_statistics": "blended",
        "scores": True,
        "device": "cpu",
    }
    job = prepare(image, model, **plan)
    assert "blended" in job.warnings[0]
    rows = [(result.where[0], result.progress) for result in run(job)]
    assert len(rows) == job.plan.grid[0] > 1  # each band at once
    assert [where.stop for where, _ in rows[:-1]] == [where.start for where, _ in rows[1:]]
    found = collect(job)
    assert found.scores is not None
    if options.get("conv_mode") != "valid":  # whose tiles see what lies around them
        np.testing.assert_allclose(found.scores, blend_plainly(model, image, tile_shape), atol=1e-5)
    labels = found.scores[0] > 0.5 if len(found.scores) == 1 else found.scores.argmax(axis=0)
    np.testing.assert_array_equal(found.labels, labels)
    assert not found.record.exact
    assert found.record.halo == (0,) * len(shape)
    region = tuple(slice(size // 3, size - 3) for size in shape)
    part = predict(image, model, region=region, **plan)
    np.testing.assert_allclose(part.scores, found.scores[(slice(None), *region)], atol=1e-6)  # type: ignore[arg-type]


def test_frames_and_rescaling(make_model: MakeModel) -> None:
    model = make_model(normalization="instance")
    series = np.stack([noise(90, 70), 40 * noise(90, 70) ** 2])
    plan: dict[str, Any] = {
        "tile_shape": (48, 48),
        "norm_statistics": "blended",
        "scores": True,
        "device": "cpu",
        "scale": (1.3, 0.8),
    }
    found = predict(series, model, axes="TYX", **plan)
    for at, image in enumerate(series):
        alone = predict(image, model, **plan)
        assert found.scores is not None
        np.testing.assert_allclose(found.scores[:, at], alone.scores, atol=1e-6)  # type: ignore[arg-type]
    # One tile is the whole image, which is what the other modes compute, too.
    plan["tile_shape"] = (400, 400)
    one = predict(series[0], model, **plan)
    tile = predict(series[0], model, **{**plan, "norm_statistics": "tile"})
    assert one.record.exact
    np.testing.assert_allclose(one.scores, tile.scores, atol=1e-5)  # type: ignore[arg-type]


def test_borders_show_less_than_those_of_tiles(make_model: MakeModel, shared: Path) -> None:
    image = open_image(shared / "data/stardist_samples/img2d.tif").data
    model = make_model(normalization="group2", method="percentile")
    plan: dict[str, Any] = {"tile_shape": (128, 128), "device": "cpu"}
    tiles = predict(image, model, **plan).record.seams
    blended = predict(image, model, norm_statistics="blended", **plan).record.seams
    assert tiles is not None
    assert blended is not None
    assert 0 < blended.mean_difference < tiles.mean_difference
    assert blended.largest_difference < 0.7 * tiles.largest_difference


def test_tiles_are_as_large_as_training_patches() -> None:
    config = UNetConfig(normalization="instance", n_blocks=3)
    assert patch_of(ModelSpec(config=config)) == (192, 192)
    known = ModelSpec(config=config, training={"options": {"patch_size": [90, 100]}})
    assert patch_of(known) == (92, 100)
    assert patch_of(ModelSpec(config=config.replace(dim=3))) == (32, 64, 64)
    odd = ModelSpec(config=config, training={"options": {"patch_size": "large"}})
    assert patch_of(odd) == (192, 192)


def test_what_cannot_work(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(normalization="instance")
    with pytest.raises(ShapeError, match="Tile size 3 is too small"):
        prepare(noise(60, 60), model, norm_statistics="blended", tile_shape=(3, 3))
    with pytest.raises(ConfigError, match="instance or group normalization"):
        prepare(noise(60, 60), make_model(), norm_statistics="blended")

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr("unetari.inference.blend.Blend.add", full)
    with pytest.raises(OutOfMemoryError, match=r"cpu\. Free memory.*smaller tiles"):
        predict(noise(60, 60), model, norm_statistics="blended", device="cpu")


def test_it_can_be_stopped(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(normalization="instance")
    job = prepare(
        noise(150, 133), model, norm_statistics="blended", tile_shape=(48, 48), device="cpu"
    )
    computed: list[int] = []
    push = Runner.push

    def watched(self: Runner, *arguments: Any) -> Any:
        computed.append(1)
        return push(self, *arguments)

    monkeypatch.setattr(Runner, "push", watched)
    results = run(job, should_stop=lambda: len(computed) > 8)
    next(results)
    with pytest.raises(StopIteration) as end:
        next(results)
    assert end.value.value.status == "cancelled"
    assert 0 < end.value.value.progress < 0.5
