"""Tiles fit the memory that is free, down to the smallest the network allows."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unetari.core.config import UP_MODES, UNetConfig
from unetari.core.network import reach_of
from unetari.core.sizes import Reach, valid_output_size
from unetari.core.tiles import plan_tiles
from unetari.inference.job import prepare
from unetari.inference.lean import LeanUNet
from unetari.inference.memory import choose_tile_shape, count_live, peak_bytes, shrink
from unetari.model.checkpoint import Model
from unetari.model.unet import UNet

GIB = 2**30


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("free", [GIB // 4, 2 * GIB, 80 * GIB])
@pytest.mark.parametrize(
    ("config", "shape"),
    [(UNetConfig(), (9000, 7000)), (UNetConfig(dim=3, n_blocks=3), (300, 900, 900))],
)
def test_planned_tiles_stay_within_half_of_free_memory(
    config: UNetConfig, shape: tuple[int, ...], free: int, on_cpu: bool
) -> None:
    tile = choose_tile_shape(shape, config, free=free, on_cpu=on_cpu)
    plan = plan_tiles(shape, config, tile_shape=tile)
    smallest = Reach.of(config).smallest_tile
    fits = peak_bytes(plan, config) <= free / 2
    assert fits or plan.tile_shape == (smallest,) * config.dim


def test_plenty_of_memory_takes_the_whole_image() -> None:
    tile = choose_tile_shape((512, 700), UNetConfig(), free=80 * GIB, on_cpu=False)
    assert len(plan_tiles((512, 700), UNetConfig(), tile_shape=tile)) == 1


def test_shrinking_ends_at_the_smallest_tile() -> None:
    config = UNetConfig(dim=3)
    tile: tuple[int, ...] = (500, 300, 90)
    steps = 0
    while (smaller := shrink(tile, config)) is not None:
        assert prod(smaller) < prod(tile)
        plan_tiles((999, 999, 999), config, tile_shape=[max(s, 104) for s in smaller])
        tile, steps = smaller, steps + 1
    assert max(tile) <= Reach.of(config).smallest_tile
    assert steps < 30


@pytest.mark.parametrize("conv_mode", ["same", "valid"])
def test_tiles_on_a_cpu_write_much_of_what_they_read(conv_mode: str) -> None:
    config = UNetConfig(dim=3, n_blocks=4, conv_mode=conv_mode, start_filters=8)
    tile = choose_tile_shape((300, 300, 300), config, free=64 * GIB, on_cpu=True)
    plan = plan_tiles((300, 300, 300), config, tile_shape=tile)
    assert min(span.size for span in plan[0].inner) >= 96


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all arrays made while it is active that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for array in tree_leaves(result):
            if isinstance(array, Tensor):
                self._count(array)
        return result

    def _count(self, array: Tensor) -> None:
        storage = array.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._known.pop(key)


@given(data=st.data())
@settings(max_examples=60)
def test_what_is_alive_is_counted(data: st.DataObject) -> None:
    dim = data.draw(st.sampled_from([2, 3]))
    n_blocks = data.draw(st.integers(1, 4))
    config = UNetConfig(
        dim=dim,
        n_blocks=n_blocks,
        start_filters=8,
        up_mode=data.draw(st.sampled_from(UP_MODES[dim])),
        conv_mode=data.draw(st.sampled_from(["same", "valid"])),
        normalization=data.draw(st.sampled_from(["none", "batch", "instance", "group4"])),
        planar_blocks=(0,) if dim == 3 and data.draw(st.booleans()) else (),
    )
    rules = [reach.rule for reach in reach_of(config)]
    sizes = [rule.above(rule.smallest + data.draw(st.integers(1, 60))) for rule in rules]
    part = []
    for axis, size in zip(range(-dim, 0), sizes, strict=True):
        output = valid_output_size(size, config, axis)
        start = data.draw(st.integers(0, output - 1))
        part.append(slice(start, data.draw(st.integers(start + 1, output))))
    with torch.device("meta"):  # sizes without values
        network = LeanUNet(UNet(config).eval())
        image = torch.empty(1, 1, *sizes)
    with torch.inference_mode(), LiveMemory() as memory:
        network(image, part)
    scores = config.out_channels * prod(cut.stop - cut.start for cut in part)
    assert memory.peak / 4 <= count_live(config, sizes, part) + scores
    assert count_live(config, sizes, part) <= memory.peak / 4


def test_a_job_says_what_it_takes() -> None:
    model = Model.build(UNetConfig(start_filters=16), seed=0)
    job = prepare(np.zeros((2000, 2000), np.uint8), model, tile_shape=(600, 600), device="cpu")
    assert job.n_tiles == 16
    assert 50 * 2**20 < job.peak_bytes < 200 * 2**20
    text = job.describe()
    assert text.startswith("16 tiles of 576 x 576 voxels on cpu, about ")
    assert text.endswith(" MiB of memory at a time.")
    assert job.record().peak_bytes == job.peak_bytes
