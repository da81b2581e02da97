"""Axes, regions, normalization, cancelling, memory: the way through the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unetari import predict, predict_tiles, save_model
from unetari.core.source import ImageSource
from unetari.errors import AxesError, OutOfMemoryError, ShapeError
from unetari.inference import runner
from unetari.inference.decide import Decisions, TileResult
from unetari.inference.job import prepare
from unetari.inference.predict import collect, drain_into, run
from unetari.model.checkpoint import Model

MakeModel = Callable[..., Model]
RNG = np.random.default_rng(0)


def scores(image: Any, model: Model, **options: Any) -> NDArray[np.float32]:
    result = predict(image, model, scores=True, device="cpu", **options).scores
    assert result is not None
    return result


def noise(*shape: int) -> Any:
    return RNG.integers(0, 4000, shape, dtype=np.uint16)


def test_2d_network_runs_slice_by_slice(make_model: MakeModel) -> None:
    model = make_model(method="zscore", scope="frame")
    image = noise(2, 3, 40, 50)
    result = predict(image, model, axes="TZYX", device="cpu")
    assert result.labels.shape == image.shape
    for t, z in np.ndindex(2, 3):
        alone = predict(image[t, z], model, axes="YX", device="cpu")
        np.testing.assert_array_equal(result.labels[t, z], alone.labels)


def test_3d_network_runs_over_time(make_model: MakeModel) -> None:
    model = make_model(dim=3, n_blocks=2, method="minmax", scope="frame")
    image = noise(2, 12, 20, 24)
    result = predict(image, model, axes="TZYX", device="cpu")
    alone = predict(image[1], model, axes="ZYX", device="cpu")
    np.testing.assert_array_equal(result.labels[1], alone.labels)


def test_axes_in_any_order(make_model: MakeModel) -> None:
    model = make_model(in_channels=2, method="minmax")
    image = noise(4, 2, 40, 50)
    result = predict(image, model, axes="TCYX", device="cpu").labels
    moved = predict(np.moveaxis(image, (0, 1), (2, 0)), model, axes="CYTX", device="cpu").labels
    np.testing.assert_array_equal(np.moveaxis(moved, 1, 0), result)


def test_selected_channel_and_grey(make_model: MakeModel) -> None:
    model = make_model()
    image = noise(3, 40, 50)
    chosen = predict(image, model, axes="CYX", channel=1, device="cpu").labels
    np.testing.assert_array_equal(chosen, predict(image[1], model, axes="YX", device="cpu").labels)
    rgb = np.moveaxis(image, 0, -1)
    assert predict(rgb, model, axes="YXS", grey=True, device="cpu").labels.shape == (40, 50)


def test_three_channels_into_one_is_refused_before_work(make_model: MakeModel) -> None:
    with pytest.raises(ShapeError, match="3 channels"):
        prepare(noise(3, 40, 50), make_model(), axes="CYX")


def test_region_gives_the_values_of_the_whole_image(make_model: MakeModel) -> None:
    model = make_model(method="percentile")
    image = noise(3, 150, 170)
    whole = scores(image, model, axes="ZYX")
    region = (slice(1, 2), slice(37, 101), slice(3, 169))
    part = scores(image, model, axes="ZYX", region=region)
    assert part.shape == (2, 1, 64, 166)
    np.testing.assert_allclose(part, whole[(slice(None), *region)], atol=1e-5)


def test_slice_of_a_volume_sees_its_neighbours(make_model: MakeModel) -> None:
    model = make_model(dim=3, n_blocks=2)
    image = noise(30, 40, 44).astype(np.float32) / 4000
    whole = scores(image, model, axes="ZYX")
    region = (slice(14, 15), slice(None), slice(None))
    part = scores(image, model, axes="ZYX", region=region)
    np.testing.assert_allclose(part, whole[:, 14:15], atol=1e-5)


@pytest.mark.parametrize(
    "region",
    [
        (slice(0, 0), slice(None)),
        (slice(None),),
        (slice(0, 40, 2), slice(None)),
        (slice(0, 8.5), slice(None)),
        (3, 4),
        3,
    ],
)
def test_bad_region(make_model: MakeModel, region: Any) -> None:
    with pytest.raises(ShapeError, match="region"):
        prepare(noise(40, 50), make_model(), axes="YX", region=region)


@pytest.mark.parametrize("method", ["percentile", "zscore", "minmax"])
def test_normalization_does_not_see_the_tiling(make_model: MakeModel, method: str) -> None:
    model = make_model(method=method)
    image = noise(150, 170)
    image[:60] //= 40
    tile = (56, 60)
    assert prepare(image, model, tile_shape=tile).n_tiles > 1
    np.testing.assert_allclose(
        scores(image, model), scores(image, model, tile_shape=tile), atol=1e-5
    )


def test_non_finite_values_do_not_spread(make_model: MakeModel) -> None:
    image = noise(60, 60).astype(np.float32)
    image[3, 4], image[20, 21], image[40, 41] = np.nan, np.inf, -np.inf
    assert np.isfinite(scores(image, make_model(method="percentile"))).all()


def test_single_output_channel_is_a_sigmoid(make_model: MakeModel) -> None:
    result = predict(noise(40, 50) / 4000, make_model(out_channels=1), scores=True, device="cpu")
    assert result.scores is not None
    assert result.scores.shape == (1, 40, 50)
    np.testing.assert_array_equal(result.labels, result.scores[0] > 0.5)


def test_more_than_256_classes_take_two_bytes(make_model: MakeModel) -> None:
    job = prepare(noise(16, 16), make_model(out_channels=300, n_blocks=1), device="cpu")
    assert job.labels_dtype == np.uint16
    assert collect(job).labels.dtype == np.uint16


def test_the_users_model_is_left_alone(make_model: MakeModel) -> None:
    model = make_model()
    model.network.train()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    predict(noise(40, 50), model, device="cpu")
    assert model.network.training
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("image", [None, "image.tif", Path("image.tif"), [[1], [1, 2]]])
def test_what_is_no_array_is_refused(make_model: MakeModel, image: Any) -> None:
    with pytest.raises(AxesError, match="no array"):
        predict(image, make_model())


def test_torch_tensors_and_lists_are_arrays(make_model: MakeModel) -> None:
    image = noise(16, 20).astype(np.float32)
    expected = predict(image, make_model(), device="cpu").labels
    for other in (torch.from_numpy(image), image.tolist()):
        np.testing.assert_array_equal(predict(other, make_model(), device="cpu").labels, expected)


def test_source_and_axes_do_not_mix(make_model: MakeModel) -> None:
    with pytest.raises(AxesError, match="ImageSource"):
        predict(ImageSource(noise(40, 50), "YX"), make_model(), axes="YX")


def test_record_tells_what_was_done(make_model: MakeModel) -> None:
    model = make_model(method="percentile")
    result = predict(noise(150, 170), model, tile_shape=(64, 64), device="cpu")
    record = result.record
    assert record.status == "finished"
    assert record.tiles_done == record.n_tiles > 1
    assert record.model == model.spec.replace(training={})
    assert record.model_sha256 == model.sha256
    assert type(record)(**record.model_dump(mode="json")) == record


def test_record_tells_when_the_run_started(make_model: MakeModel) -> None:
    results = predict_tiles(noise(150, 170), make_model(), tile_shape=(64, 64), device="cpu")
    next(results)
    first_tile = datetime.now().astimezone()
    started = datetime.fromisoformat(drain_into(results, np.zeros((150, 170), np.uint8)).started)
    assert started <= first_tile < started + timedelta(minutes=1)


def test_model_from_a_path(make_model: MakeModel, tmp_path: Path) -> None:
    path = save_model(make_model(), tmp_path / "model.safetensors")
    image = noise(40, 50)
    by_path = predict(image, path, device="cpu").labels
    np.testing.assert_array_equal(by_path, predict(image, make_model(), device="cpu").labels)


def test_labels_survive_a_failing_measurement_of_seams(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OutOfMemoryError("full")

    monkeypatch.setattr("unetari.inference.engine.measure_seams", fail)
    model = make_model(normalization="instance", n_blocks=2)
    job = prepare(noise(150, 170), model, tile_shape=(88, 88), device="cpu")
    record = collect(job).record
    assert record.status == "finished"
    assert record.seams is None


def test_cancel_before_the_first_tile(make_model: MakeModel) -> None:
    job = prepare(noise(150, 170), make_model(method="zscore"), device="cpu")
    labels = np.zeros(job.labels_shape, np.uint8)
    record = drain_into(run(job, should_stop=lambda: True), labels)
    assert record.status == "cancelled"
    assert record.tiles_done == 0


def test_cancel_between_layers_keeps_finished_tiles(make_model: MakeModel) -> None:
    model = make_model()
    job = prepare(noise(150, 170), model, tile_shape=(64, 64), device="cpu")
    asked, finished = count(), list[TileResult]()

    def within_the_third_tile() -> bool:
        return len(finished) == 2 and next(asked) > 5

    for result in run(job, should_stop=within_the_third_tile):
        finished.append(result)
    assert len(finished) == 2 < job.n_tiles


def fail_above(voxels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    push = runner.Runner.push

    def limited(self: runner.Runner, block: Any, rows: Any, decide: Any) -> Any:
        if rows[0, 0].numel() > voxels:
            raise OutOfMemoryError("full.")
        return push(self, block, rows, decide)

    monkeypatch.setattr(runner.Runner, "push", limited)


def test_out_of_memory_shrinks_the_tile(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(method="percentile")
    image = noise(201, 333)
    expected = scores(image, model)
    fail_above(90 * 90, monkeypatch)
    job = prepare(image, model, scores=True, device="cpu")
    written = np.zeros(job.labels_shape, int)
    for result in run(job):
        written[result.where] += 1
    assert (written == 1).all()
    record = collect(job).record
    assert record.strip is not None
    assert record.strip * record.tile_shape[1] <= 90 * 90 < job.strip * job.plan.tile_shape[1]
    np.testing.assert_allclose(scores(image, model), expected, atol=1e-5)


def test_out_of_memory_at_the_smallest_tile_is_an_error(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(10, monkeypatch)
    with pytest.raises(OutOfMemoryError, match="smallest tile"):
        predict(noise(150, 170), make_model(), device="cpu")


@pytest.mark.parametrize("normalization", ["instance", "group2"])
@pytest.mark.parametrize("conv_mode", ["same", "valid"])
def test_inexact_networks_warn_and_measure(
    make_model: MakeModel, normalization: str, conv_mode: str
) -> None:
    model = make_model(normalization=normalization, conv_mode=conv_mode, n_blocks=2)
    image = noise(150, 170) / 4000
    job = prepare(image, model, tile_shape=(88, 88), device="cpu")
    assert normalization in job.warnings[0]
    seams = collect(job).record.seams
    assert seams is not None
    assert seams.borders > 0
    assert 0 < seams.mean_difference <= seams.largest_difference <= 1
    assert "tile borders" in str(seams)


def test_inexact_networks_warn_in_python_too(make_model: MakeModel) -> None:
    model = make_model(normalization="instance", n_blocks=2)
    with pytest.warns(UserWarning, match="statistics come from each tile"):
        record = predict(noise(150, 170), model, tile_shape=(88, 88), device="cpu").record
    assert "statistics" in record.warnings[0]


def test_inexact_network_in_one_tile_needs_no_warning(make_model: MakeModel) -> None:
    job = prepare(noise(40, 50), make_model(normalization="instance"), device="cpu")
    assert job.warnings == ()
    assert collect(job).record.seams is None


def test_image_too_small_for_instance_statistics_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ShapeError, match="instance"):
        prepare(noise(4, 4), make_model(normalization="instance"), device="cpu")


def test_exact_networks_have_no_seams(make_model: MakeModel) -> None:
    job = prepare(noise(150, 170), make_model(), tile_shape=(64, 64), device="cpu")
    assert job.warnings == ()
    assert collect(job).record.seams is None


def test_errors_come_before_the_first_tile(make_model: MakeModel) -> None:
    with pytest.raises(ShapeError, match="Tile size 8"):
        predict_tiles(noise(150, 170), make_model(), tile_shape=(8, 8))


@pytest.mark.parametrize("options", [{}, {"norm_statistics": "sampled"}, {"scale": (1.3, 0.8)}])
@pytest.mark.parametrize("tile_shape", [(50, 70), None])
def test_out_of_memory_at_any_time(
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    tile_shape: tuple[int, int] | None,
) -> None:
    """It is injected at every strip; what is done stays, and the rest is done once."""
    normalization = "group2" if "norm_statistics" in options else "batch"
    model = make_model(n_blocks=2, start_filters=2, normalization=normalization)
    image = noise(70, 150)
    monkeypatch.setattr("unetari.inference.memory._CPU_STRIP", {2: 8 * 150 * 2})
    plan = {"tile_shape": tile_shape, "device": "cpu", **options}
    expected = predict(image, model, **plan)
    push = runner.Runner.push
    calls = {"now": 0, "failing": 0}

    def failing(self: runner.Runner, *arguments: Any) -> Any:
        calls["now"] += 1
        if calls["now"] == calls["failing"]:
            raise OutOfMemoryError("full.")
        return push(self, *arguments)

    monkeypatch.setattr(runner.Runner, "push", failing)
    predict(image, model, **plan)
    pushes = calls["now"]
    assert pushes > 4
    for number in range(1, pushes + 1):
        calls.update(now=0, failing=number)
        results = run(prepare(image, model, **plan))
        written, found = np.zeros(image.shape, int), np.zeros(image.shape, np.uint8)
        for result in results:
            written[result.where] += 1
            found[result.where] = result.labels
        assert (written == 1).all()
        np.testing.assert_array_equal(found, expected.labels)


def test_out_of_memory_while_the_last_rows_come_out(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last rows of a tile bring several parts, and any of them may not fit."""
    job = prepare(noise(90, 60), make_model(n_blocks=3), device="cpu")
    job = replace(job, strip=8)
    expected = [result.where[0] for result in run(job)]
    decide = Decisions.decide
    calls = {"now": 0, "failing": -1}

    def failing(self: Decisions, *arguments: Any) -> Any:
        calls["now"] += 1
        if calls["now"] == calls["failing"]:
            raise torch.OutOfMemoryError("full")
        return decide(self, *arguments)

    monkeypatch.setattr(Decisions, "decide", failing)
    labels = collect(job).labels
    for number in range(1, len(expected) + 1):
        calls.update(now=0, failing=number)
        written, found = np.zeros(labels.shape, int), np.zeros_like(labels)
        for result in run(job):
            written[result.where] += 1
            found[result.where] = result.labels
        assert (written == 1).all()
        np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("after", range(1, 12))
def test_a_stop_at_any_part_keeps_what_came_before(make_model: MakeModel, after: int) -> None:
    job = replace(prepare(noise(90, 60), make_model(n_blocks=3), device="cpu"), strip=8)
    whole = collect(job).labels
    rows = [0]
    results = run(job, should_stop=lambda: len(rows) > after)
    found = np.zeros_like(whole)
    record = None
    while record is None:
        try:
            result = next(results)
        except StopIteration as end:
            record = end.value
        else:
            found[result.where] = result.labels
            rows.append(result.where[0].stop)
    assert rows == sorted(set(rows))
    np.testing.assert_array_equal(found[: rows[-1]], whole[: rows[-1]])
    assert record.status == ("finished" if rows[-1] == 90 else "cancelled")
    assert record.progress == pytest.approx(rows[-1] / 90, abs=1e-3)


def test_who_stops_asking_leaves_nothing_behind(make_model: MakeModel) -> None:
    """The generator is closed while rows of a strip are still to come."""
    image = noise(90, 60)
    job = replace(prepare(image, make_model(n_blocks=3), device="cpu"), strip=48)
    before = threading.active_count()
    results = run(job)
    next(results)
    results.close()
    assert threading.active_count() == before
    np.testing.assert_array_equal(collect(job).labels, predict(image, job.model).labels)


def test_short_memory_at_the_end_of_a_tile_costs_the_rest_little(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetari.inference.memory._CPU_STRIP", {2: 64 * 64 * 2})
    model = make_model(n_blocks=2, start_filters=2)
    job = prepare(noise(4, 600, 64), model, axes="TYX", device="cpu")
    push, rows_pushed, calls = runner.Runner.push, [], count(1)

    def failing(self: runner.Runner, block: Any, rows: Any, decide: Any) -> Any:
        if next(calls) in (10, 11):
            raise OutOfMemoryError("full.")
        rows_pushed.append(len(rows) * rows.shape[2])
        return push(self, block, rows, decide)

    monkeypatch.setattr(runner.Runner, "push", failing)
    record = collect(job).record
    assert record.progress == 1
    assert sum(rows_pushed) < 1.1 * 4 * 600


def test_nothing_is_read_that_nothing_depends_on(make_model: MakeModel) -> None:
    model = make_model(n_blocks=4, start_filters=2, method="none")
    job = prepare(noise(400, 64), model, region=(slice(0, 105), slice(None)), device="cpu")
    job = replace(job, strip=8)
    assert job.plan.tile_shape[0] == 160
    seen = [result.where[0].stop for result in run(job)]
    assert seen[-1] == 105
