"""Freed memory is kept while a run lasts, and given back after it."""

from __future__ import annotations

import os
import sys

import numpy as np
import psutil
import pytest
import torch

from unetari import Model, UNetConfig, predict_tiles
from unetari.inference import allocator
from unetari.inference.allocator import keep_freed_memory

needs_glibc = pytest.mark.skipif(allocator._glibc() is None, reason="glibc only")
SIZE = 256 * 2**20


def resident() -> int:
    size: int = psutil.Process(os.getpid()).memory_info().rss
    return size


@needs_glibc
def test_memory_is_kept_and_given_back() -> None:
    before = resident()
    with keep_freed_memory():
        torch.ones(SIZE, dtype=torch.uint8)  # and gone
        assert resident() - before > SIZE / 2
    assert resident() - before < SIZE / 2


@needs_glibc
def test_the_last_of_several_runs_gives_it_back() -> None:
    before = resident()
    with keep_freed_memory():
        with keep_freed_memory():
            torch.ones(SIZE, dtype=torch.uint8)
        assert resident() - before > SIZE / 2
    assert resident() - before < SIZE / 2


def test_a_run_that_is_dropped_ends_it() -> None:
    model = Model.build(UNetConfig(n_blocks=2, start_filters=2), seed=0)
    tiles = predict_tiles(np.zeros((90, 90), np.uint8), model, tile_shape=(48, 48))
    next(tiles)
    assert allocator._running == 1
    tiles.close()
    assert allocator._running == 0


def test_nothing_happens_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator._glibc.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    try:
        with keep_freed_memory():
            assert allocator._glibc() is None
    finally:
        allocator._glibc.cache_clear()


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "65536")
    allocator._glibc.cache_clear()
    try:
        assert allocator._glibc() is None
    finally:
        allocator._glibc.cache_clear()
