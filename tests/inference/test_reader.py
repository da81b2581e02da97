"""Tiles are read one ahead of the network, by one thread, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest

from unetari import Model, predict, predict_tiles
from unetari.errors import OutOfMemoryError
from unetari.inference.job import prepare
from unetari.inference.predict import run
from unetari.inference.runner import Runner

MakeModel = Callable[..., Model]


class Watched:
    """An array that notes what is read of it, and by whom."""

    def __init__(self, data: np.ndarray[Any, Any]) -> None:
        self._data = data
        self.shape, self.dtype, self.ndim = data.shape, data.dtype, data.ndim
        self.reads: list[Any] = []
        self.threads: set[str] = set()
        self.fail_after = 10**9
        self.changed = threading.Condition()

    def __getitem__(self, index: Any) -> Any:
        with self.changed:
            self.reads.append(index)
            self.threads.add(threading.current_thread().name)
            self.changed.notify_all()
        if len(self.reads) > self.fail_after:
            raise OSError("The disk is gone.")
        return self._data[index]

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.reads) >= count, timeout=30)


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    return make_model(n_blocks=2, start_filters=2, method="none")


@pytest.fixture
def image() -> Watched:
    return Watched(np.random.default_rng(0).normal(size=(40, 400)).astype(np.float32))


def test_the_next_tile_is_read_while_one_is_computed(
    model: Model, image: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(image, model, axes="YX", tile_shape=(40, 80), device="cpu")
    push, computed = Runner.push, count(1)

    def computing(self: Runner, *arguments: Any) -> Any:
        # The extremes of the image, the tiles so far, and the next one unless this is the last.
        image.wait_for(1 + min(next(computed) + 1, job.n_tiles))
        return push(self, *arguments)

    monkeypatch.setattr(Runner, "push", computing)
    assert len(list(run(job))) == job.n_tiles > 4
    assert len(image.reads) == 1 + job.n_tiles  # each once
    assert len(image.threads) == 1


@pytest.mark.parametrize("options", [{"norm_statistics": "sampled"}, {"precision": "bf16"}])
def test_each_tile_is_read_once(make_model: MakeModel, options: dict[str, Any]) -> None:
    norm = "instance" if "norm_statistics" in options else "batch"
    model = make_model(n_blocks=2, start_filters=2, method="none", normalization=norm)
    image = Watched(np.random.default_rng(0).normal(size=(3, 40, 400)).astype(np.float32))
    job = prepare(image, model, axes="TYX", tile_shape=(40, 80), device="cpu", **options)
    for _ in run(job):
        pass
    tiles = [index for index in image.reads if index[2].stop - index[2].start == 80]
    if "precision" in options:
        tiles.remove(tiles[0])  # the sample, which is as large as a tile here
    seams = tiles[job.n_tiles :]  # measured afterwards, with frozen statistics
    assert len({str(index) for index in tiles[: job.n_tiles]}) == job.n_tiles
    assert bool(seams) == ("norm_statistics" in options)


def test_nothing_large_is_read_once_memory_has_run_short(
    model: Model, image: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = Runner.push

    def limited(self: Runner, block: Any, rows: Any, decide: Any) -> Any:
        if rows.numel() > 20 * 80:
            raise OutOfMemoryError("full.")
        return push(self, block, rows, decide)

    monkeypatch.setattr(Runner, "push", limited)
    record = predict(image, model, axes="YX", tile_shape=(40, 80), device="cpu").record
    assert record.strip == 20
    heights = [index[0].stop - index[0].start for index in image.reads[1:]]
    large = [height for height in heights if height > 20]
    assert len(large) <= 2  # the first tile, and perhaps the one ahead of it
    assert heights[0] == 40


def test_smaller_parts_are_read_ahead_too(
    make_model: MakeModel, image: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(n_blocks=2, start_filters=2, method="none", normalization="instance")
    push = Runner.push

    def limited(self: Runner, block: Any, rows: Any, decide: Any) -> Any:
        if rows.shape[-1] == 400:
            raise OutOfMemoryError("full.")
        image.wait_for(4)  # the extremes, the whole image, and both of its parts
        return push(self, block, rows, decide)

    monkeypatch.setattr(Runner, "push", limited)
    job = prepare(image, model, axes="YX", tile_shape=(40, 400), device="cpu")
    assert len(list(run(job))) == 2
    widths = [index[1].stop - index[1].start for index in image.reads]
    assert widths[:2] == [400, 400]
    assert max(widths[2:4]) < 400


def test_no_thread_is_left(model: Model, image: Watched) -> None:
    tiles = predict_tiles(image, model, axes="YX", tile_shape=(40, 80), device="cpu")
    next(tiles)
    tiles.close()
    assert not image.threads & {thread.name for thread in threading.enumerate()}


def test_an_error_while_reading_comes_with_its_tile(model: Model, image: Watched) -> None:
    image.fail_after = 3  # the extremes, and two tiles
    tiles = predict_tiles(image, model, axes="YX", tile_shape=(40, 80), device="cpu")
    next(tiles)
    next(tiles)  # the third one failed meanwhile
    with pytest.raises(OSError, match="The disk is gone"):
        next(tiles)


def test_stopping_while_a_tile_is_read(model: Model, image: Watched) -> None:
    job = prepare(image, model, axes="YX", tile_shape=(40, 80), device="cpu")
    stopped = threading.Event()
    tiles = run(job, should_stop=stopped.is_set)
    next(tiles)
    stopped.set()
    with pytest.raises(StopIteration) as end:
        next(tiles)
    assert end.value.value.status == "cancelled"
    assert end.value.value.tiles_done == 1
