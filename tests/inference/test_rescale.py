"""Rescaled prediction: as a whole-image pass of the rescaled image, whatever the tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

import unetari.inference.rescale as rescale_module
from unetari import predict, predict_tiles
from unetari.core.network import reach_of
from unetari.core.scaling import Scaling
from unetari.core.source import ImageSource
from unetari.core.tiles import Span, read_mirrored
from unetari.errors import OutOfMemoryError, ShapeError
from unetari.inference.job import prepare
from unetari.inference.memory import choose_tiling
from unetari.inference.predict import drain_into, run
from unetari.inference.rescale import rescale
from unetari.inference.runner import Runner
from unetari.model.checkpoint import Model

MakeModel = Callable[..., Model]
factors = st.sampled_from([0.3, 0.5, 0.73, 1.0, 1.4, 2.0, 2.71, 3.0])


def grid(shape: Sequence[int], step: Sequence[float]) -> NDArray[np.float64]:
    """Where the voxels of a grid of `shape` lie in a grid that is `step` times as coarse."""
    axes = [(np.arange(n) + 0.5) * by - 0.5 for n, by in zip(shape, step, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def rescaled_by_scipy(image: NDArray[np.float32], scale: Sequence[float]) -> NDArray[np.float32]:
    """The whole image, smoothed as scikit-image does, at the centres of the new voxels."""
    steps = [1 / factor for factor in scale]
    shape = [max(1, round(n * f + 1e-9)) for n, f in zip(image.shape, scale, strict=True)]
    smooth = ndimage.gaussian_filter(image, [max(0, (s - 1) / 2) for s in steps], mode="mirror")
    found = ndimage.map_coordinates(smooth, grid(shape, steps), order=1, mode="mirror")
    return np.asarray(found, np.float32)


def whole_pass(
    model: Model, image: NDArray[np.float32], scale: Sequence[float]
) -> NDArray[np.float32]:
    """Probabilities by one plain pass of the rescaled image, without any of our resampling."""
    seen = rescaled_by_scipy(image, scale)
    rule = reach_of(model.spec.config)[0].rule
    pads = [(0, rule.above(size) - size) for size in seen.shape]
    rows = np.ix_(*(_mirrored(sum(pad) + n, n) for pad, n in zip(pads, seen.shape, strict=True)))
    with torch.no_grad():
        scores = model.network(torch.from_numpy(seen[rows])[None, None])[0].softmax(0).numpy()
    scores = scores[(slice(None), *(slice(0, n) for n in seen.shape))]
    back = grid(image.shape, scale)
    return np.stack([ndimage.map_coordinates(c, back, order=1, mode="nearest") for c in scores])


def _mirrored(length: int, size: int) -> NDArray[np.intp]:
    return np.pad(np.arange(size), (0, length - size), mode="reflect" if size > 1 else "edge")


def noise(shape: Sequence[int], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_block_is_cut_out_of_the_rescaled_image(data: st.DataObject) -> None:
    dim = data.draw(st.integers(2, 3))
    shape = data.draw(st.tuples(*[st.integers(1, 40 // dim)] * dim))
    scale = data.draw(st.tuples(*[factors] * dim).filter(lambda f: set(f) != {1.0}))
    image = noise(shape)
    scaling = Scaling.of(shape, scale)
    assert scaling is not None
    box = []
    for size in scaling.rescaled_shape:
        start = data.draw(st.integers(0, size - 1))
        box.append(Span(start, data.draw(st.integers(start + 1, size))))

    def read(context: Sequence[Span]) -> NDArray[np.float32]:
        return read_mirrored(
            lambda part: image[tuple(span.slice for span in part)][None], context, shape
        )

    with mock.patch.object(rescale_module, "MOST_VOXELS", data.draw(st.sampled_from([1, 50, 999]))):
        found = rescale(read, scaling, box)
    expected = rescaled_by_scipy(image, scale)
    assert expected.shape == scaling.rescaled_shape
    np.testing.assert_allclose(found[0], expected[tuple(s.slice for s in box)], atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("normalization", ["none", "batch"])
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_tiled_is_whole(make_model: MakeModel, normalization: str, data: st.DataObject) -> None:
    dim = data.draw(st.integers(2, 3))
    blocks = data.draw(st.integers(1, 3 if dim == 2 else 2))
    model = make_model(dim=dim, n_blocks=blocks, start_filters=2, normalization=normalization)
    longest = 70 if dim == 2 else 24
    shape = data.draw(st.tuples(*[st.sampled_from([1, 2, 7]) | st.integers(8, longest)] * dim))
    scale = data.draw(st.tuples(*[factors] * dim))
    check(model, noise(shape), scale)


def check(model: Model, image: NDArray[np.float32], scale: Sequence[float]) -> None:
    dim = model.spec.config.dim
    axes = "ZYX"[-dim:]
    smallest = reach_of(model.spec.config, rim=1)[0].smallest_tile
    tile = [smallest + 4 * reach_of(model.spec.config)[0].multiple] * dim
    tiled = predict(image, model, axes=axes, scale=scale, tile_shape=tile, scores=True)
    assert tiled.scores is not None
    expected = whole_pass(model, image, scale)
    np.testing.assert_allclose(tiled.scores, expected, atol=2e-5)
    np.testing.assert_array_equal(tiled.labels, tiled.scores.argmax(0))


@pytest.mark.parametrize("up_mode", ["transposed", "nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("conv_mode", ["same", "valid"])
@pytest.mark.parametrize("scale", [(0.5, 2.0), (1.7, 0.6)])
def test_tiled_is_whole_for_any_network(
    make_model: MakeModel, conv_mode: str, up_mode: str, scale: tuple[float, float]
) -> None:
    model = make_model(conv_mode=conv_mode, up_mode=up_mode, start_filters=2)
    image = noise((150, 83))
    reach = reach_of(model.spec.config, rim=1)[0]
    part = [reach.smallest_tile + 8 * reach.multiple] * 2
    whole = predict(image, model, axes="YX", scale=scale, tile_shape=(10**4,) * 2, scores=True)
    tiled = predict(image, model, axes="YX", scale=scale, tile_shape=part, scores=True)
    assert whole.record.n_tiles == 1 < tiled.record.n_tiles
    assert whole.scores is not None
    assert tiled.scores is not None
    np.testing.assert_allclose(tiled.scores, whole.scores, atol=1e-5)


def test_labels_partition_the_image_and_lie_in_their_region(make_model: MakeModel) -> None:
    model = make_model(n_blocks=2)
    image = noise((3, 61, 90))
    region = (slice(1, 3), slice(13, 50), slice(1, 2))
    whole = predict(image, model, axes="TYX", scale=(2.3, 0.4)).labels
    job = prepare(image, model, axes="TYX", scale=(2.3, 0.4), region=region, tile_shape=(24, 24))
    written = np.zeros(job.labels_shape, np.uint8)
    found = np.zeros_like(written)
    for result in run(job):
        written[result.where] += 1
        found[result.where] = result.labels
    assert (written == 1).all()
    np.testing.assert_array_equal(found, whole[region])


def test_channels_frames_and_what_is_not_in_memory(make_model: MakeModel) -> None:
    model = make_model(in_channels=2, n_blocks=2, method="percentile", scope="frame")
    image = (1000 * (noise((2, 3, 40, 2, 50)) + 5)).astype(np.uint16)
    chunked = da.from_array(image, chunks=(1, 1, 20, 1, 17))
    options: dict[str, Any] = {"axes": "TZYCX", "scale": (1.5, 0.5), "scores": True}
    expected = predict(image, model, **options)
    found = predict(chunked, model, tile_shape=(40, 24), **options)
    assert found.labels.shape == (2, 3, 40, 50)
    assert found.scores is not None
    assert expected.scores is not None
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    one = predict(image[1, 2], model, axes="YCX", scale=(1.5, 0.5)).labels
    np.testing.assert_array_equal(found.labels[1, 2], one)


def test_only_blocks_are_read(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one rescaled voxel stands for many."""
    monkeypatch.setattr(rescale_module, "MOST_VOXELS", 5000)
    reads = []

    class Watched:
        shape = (900, 700)
        dtype = np.dtype(np.uint8)

        def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.uint8]:
            sizes = [part.stop - part.start for part in key]
            reads.append(sizes[0] * sizes[1])
            return np.ones(sizes, np.uint8)

    model = make_model(n_blocks=2, method="none")
    labels = predict(Watched(), model, axes="YX", scale=(0.1, 0.2)).labels
    assert labels.shape == (900, 700)
    assert max(reads[1:]) <= 5000  # the first is for the number of channels


def test_statistics_are_those_of_the_image(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bright voxel that smoothing takes away still counts as the maximum."""
    image = np.zeros((64, 64), np.float32)
    image[32, 32] = 100
    push, seen = Runner.push, list[Tensor]()

    def watched(self: Runner, block: Any, rows: Tensor, decide: Any) -> Any:
        seen.append(rows)
        return push(self, block, rows, decide)

    monkeypatch.setattr(Runner, "push", watched)
    predict(image, make_model(method="minmax"), axes="YX", scale=(0.25, 0.25))
    assert 0 < max(rows.max() for rows in seen) < 0.2


def test_holes_do_not_spread(make_model: MakeModel) -> None:
    image = noise((40, 40))
    holes = image.copy()
    holes[10, 10], holes[20, 20], holes[30, 30] = np.nan, np.inf, -np.inf
    filled = image.copy()
    finite = holes[np.isfinite(holes)]
    filled[10, 10], filled[20, 20], filled[30, 30] = finite.min(), finite.max(), finite.min()
    model = make_model(method="range", scope="image")
    options: dict[str, Any] = {"axes": "YX", "scale": (0.5, 0.5), "scores": True}
    found, expected = predict(holes, model, **options), predict(filled, model, **options)
    assert found.scores is not None
    assert expected.scores is not None
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_short_memory_does_not_change_the_result(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(n_blocks=2)
    image = noise((60, 70))
    expected = predict(image, model, axes="YX", scale=(1.5, 1.5)).labels
    push = Runner.push

    def forgetful(self: Runner, block: Any, rows: Tensor, decide: Any) -> Any:
        if rows.numel() > 8 * 60:
            raise OutOfMemoryError("A test.")
        return push(self, block, rows, decide)

    monkeypatch.setattr(Runner, "push", forgetful)
    found = predict(image, model, axes="YX", scale=(1.5, 1.5))
    np.testing.assert_array_equal(found.labels, expected)
    assert found.record.strip == 4
    assert found.record.tile_shape[1] <= 120


def test_a_run_stops_between_reading_and_computing(make_model: MakeModel) -> None:
    calls = 0

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 30

    job = prepare(noise((90, 90)), make_model(), axes="YX", scale=(2, 2), tile_shape=(72, 72))
    labels = np.zeros(job.labels_shape, job.labels_dtype)
    record = drain_into(run(job, should_stop=should_stop), labels)
    assert record.status == "cancelled"
    assert record.tiles_done < job.n_tiles


def test_the_record_says_the_factors(make_model: MakeModel) -> None:
    model, image = make_model(), noise((40, 40))
    assert predict(image, model, axes="YX", scale=(0.5, 2)).record.scale == (0.5, 2.0)
    assert predict(image, model, axes="YX").record.scale is None


def test_a_factor_of_one_changes_nothing(make_model: MakeModel) -> None:
    model, image = make_model(), noise((40, 50))
    plain = predict(image, model, axes="YX", scores=True)
    same = predict(image, model, axes="YX", scale=(1, 1), scores=True)
    np.testing.assert_array_equal(same.scores, plain.scores)


@pytest.mark.parametrize("scale", [(0, 1), (1e-9, 1), (1e9, 1), (1,), "2x2"])
def test_bad_factors_are_refused_before_work_starts(make_model: MakeModel, scale: Any) -> None:
    with pytest.raises(ShapeError, match="scale="):
        predict_tiles(noise((40, 40)), make_model(), axes="YX", scale=scale)


def test_what_is_said_of_memory_counts_them_too(make_model: MakeModel) -> None:
    image = np.zeros((400, 400), np.uint8)
    small = prepare(image, make_model(), scale=(0.25, 0.25))
    assert small.peak_bytes > 400 * 400 * 4 * 4


def test_memory_counts_the_voxels_of_the_image(make_model: MakeModel) -> None:
    config = make_model(dim=3).spec.config
    shape = (200, 200, 200)
    scaling = Scaling.of((2000, 2000, 2000), (0.1, 0.1, 0.1))
    plain = choose_tiling(shape, config, budget=2**31, on_cpu=False).tile_shape
    tile = choose_tiling(shape, config, budget=2**31, on_cpu=False, scaling=scaling).tile_shape
    written = [size - 2 * reach_of(config)[0].margin for size in tile]
    assert np.prod(written) * 1000 < 2**31
    assert np.prod(tile) < np.prod(plain)


def test_a_source_with_its_own_axes(make_model: MakeModel) -> None:
    source = ImageSource(noise((40, 3, 50)), "YCX", channel=1)
    found = predict(source, make_model(), scale=(2, 2)).labels
    assert found.shape == (40, 50)
