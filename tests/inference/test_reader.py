"""Tiles are read one ahead of the network, by one thread, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unetari import Model, predict, predict_tiles
from unetari.inference.job import prepare
from unetari.inference.predict import run
from unetari.inference.runner import Runner

MakeModel = Callable[..., Model]


class Watched:
    """An array that notes who reads what of it."""

    def __init__(self, data: np.ndarray[Any, Any]) -> None:
        self._data = data
        self.shape, self.dtype, self.ndim = data.shape, data.dtype, data.ndim
        self.reads: list[tuple[str, Any]] = []
        self.fail_after = 10**9

    def __getitem__(self, index: Any) -> Any:
        self.reads.append((threading.current_thread().name, index))
        if len(self.reads) > self.fail_after:
            raise OSError("The disk is gone.")
        return self._data[index]


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    return make_model(n_blocks=2, start_filters=2, method="none")


@pytest.fixture
def image() -> Watched:
    return Watched(np.random.default_rng(0).normal(size=(40, 400)).astype(np.float32))


def test_one_tile_ahead(model: Model, image: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    ahead = []
    call = Runner.__call__

    def computing(self: Runner, *arguments: Any) -> Any:
        never.wait(0.2)  # time for reading more than it should
        ahead.append(len(image.reads) - 1 - len(ahead))
        return call(self, *arguments)

    monkeypatch.setattr(Runner, "__call__", computing)
    results = list(predict_tiles(image, model, axes="YX", tile_shape=(40, 80), device="cpu"))
    assert len(results) > 4
    assert ahead == [2] * (len(results) - 1) + [1]
    assert len(image.reads) == 1 + len(results)  # the first time for its extremes
    assert len({name for name, _ in image.reads}) == 1


def test_no_thread_is_left(model: Model, image: Watched) -> None:
    before = threading.active_count()
    tiles = predict_tiles(image, model, axes="YX", tile_shape=(40, 80), device="cpu")
    next(tiles)
    tiles.close()
    assert threading.active_count() == before
    predict(image, model, axes="YX", tile_shape=(40, 80), device="cpu")
    assert threading.active_count() == before


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
