"""Small planes and volumes pass through the network together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unetari import Model
from unetari.core.normalization import Normalization
from unetari.errors import OutOfMemoryError
from unetari.inference.job import prepare
from unetari.inference.predict import collect, run
from unetari.inference.runner import Runner

MakeModel = Callable[..., Model]


def noise(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 999, shape, dtype=np.uint16)


CASES: list[tuple[dict[str, Any], str, tuple[int, ...]]] = [
    ({}, "TYX", (7, 40, 60)),
    ({"normalization": "instance"}, "TZYX", (2, 3, 40, 60)),
    ({"normalization": "group2", "conv_mode": "valid"}, "ZYX", (5, 40, 60)),
    ({"dim": 3, "n_blocks": 2, "in_channels": 2}, "TCZYX", (3, 2, 9, 20, 24)),
]


@pytest.mark.parametrize(("options", "axes", "shape"), CASES)
@pytest.mark.parametrize("scale", [None, 1.5])
def test_each_gets_what_it_gets_alone(
    make_model: MakeModel,
    options: dict[str, Any],
    axes: str,
    shape: tuple[int, ...],
    scale: float | None,
) -> None:
    model = make_model(**options)
    scales = None if scale is None else (scale,) * model.spec.config.dim
    job = prepare(noise(*shape), model, axes=axes, scale=scales, scores=True, device="cpu")
    assert job.batch == len(job.frames) > 1
    together, alone = collect(job), collect(replace(job, batch=1))
    assert together.record.batch == job.batch
    assert together.record.tiles_done == job.n_tiles
    assert together.scores is not None
    assert alone.scores is not None
    np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)


def test_parts_of_tiles_know_whose_they_are(make_model: MakeModel) -> None:
    job = prepare(
        noise(5, 70, 60), make_model(n_blocks=2), axes="TYX", tile_shape=(40, 40), device="cpu"
    )
    job = replace(job, batch=2, strip=8)
    written = np.zeros(job.labels_shape, int)
    tiles: dict[int, set[Any]] = {}
    for result in run(job):
        written[result.where] += 1
        tiles.setdefault(result.index, set()).add(str((result.where[0], result.where[2])))
    assert (written == 1).all()
    assert sorted(tiles) == list(range(job.n_tiles))
    assert all(len(places) == 1 for places in tiles.values())


def test_only_small_ones(make_model: MakeModel) -> None:
    model = make_model(start_filters=32)
    small, large = noise(9, 64, 64), np.broadcast_to(np.uint16(0), (9, 600, 600))
    assert prepare(small, model, axes="TYX", device="cpu").batch == 9
    assert prepare(large, model, axes="TYX", device="cpu").batch == 1
    few = prepare(small, model, axes="TYX", device="cpu", max_memory=2**24)
    assert few.batch < 9
    assert few.peak_bytes <= 2**24


@pytest.mark.parametrize(
    "options", [{"norm_statistics": "sampled"}, {"norm_statistics": "blended"}, {}]
)
@pytest.mark.parametrize("method", ["none", "percentile"])
def test_what_differs_between_frames_keeps_them_apart(
    make_model: MakeModel, options: dict[str, Any], method: Any
) -> None:
    """Even without normalization, a frame has its own numbers in place of NaN and inf."""
    model = make_model(normalization="instance")
    if not options:
        spec = model.spec.replace(normalization=Normalization(method=method, scope="frame"))
        model = replace(model, spec=spec)
    assert prepare(noise(9, 64, 64), model, axes="TYX", device="cpu", **options).batch == 1


def test_groups_are_even(make_model: MakeModel) -> None:
    job = prepare(noise(17, 64, 64), make_model(start_filters=32), axes="TYX", device="cpu")
    assert job.batch == 16
    assert [len(group) for group in job.groups] == [8, 9]
    assert [frame for group in job.groups for frame in group] == list(job.frames)


@pytest.mark.parametrize("normalization", ["batch", "instance"])
def test_short_memory_makes_them_smaller(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, normalization: str
) -> None:
    """A smaller batch sees the same tiles, also where statistics are those of each tile."""
    model = make_model(n_blocks=2, normalization=normalization)
    job = prepare(noise(7, 70, 60), model, axes="TYX", tile_shape=(40, 40), device="cpu")
    assert job.batch == 7
    if normalization == "batch":
        job = replace(job, strip=8)
    expected = collect(job).labels
    push, calls = Runner.push, {"now": 0, "failing": -1}

    def failing(self: Runner, *arguments: Any) -> Any:
        calls["now"] += 1
        if calls["now"] == calls["failing"]:
            raise OutOfMemoryError("full.")
        return push(self, *arguments)

    monkeypatch.setattr(Runner, "push", failing)
    collect(job)
    pushes = calls["now"]
    for number in range(1, pushes + 1):
        calls.update(now=0, failing=number)
        written, found = np.zeros(job.labels_shape, int), np.zeros(job.labels_shape, np.uint8)
        for result in run(job):
            written[result.where] += 1
            found[result.where] = result.labels
        assert (written == 1).all()
        np.testing.assert_array_equal(found, expected)
