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
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unetari.core.config import UP_MODES, UNetConfig
from unetari.core.network import reach_of
from unetari.core.sizes import Reach, valid_output_size
from unetari.core.tiles import plan_tiles
from unetari.errors import ConfigError
from unetari.inference.job import prepare
from unetari.inference.lean import LeanUNet
from unetari.inference.memory import (
    Tiling,
    choose_tiling,
    most_values,
    peak_bytes,
    shrink,
)
from unetari.inference.onednn import Convolution
from unetari.inference.sketch import count_live
from unetari.inference.winograd import Winograd, count_extra
from unetari.model.checkpoint import Model
from unetari.model.unet import UNet

GIB = 2**30


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("free", [GIB // 4, 2 * GIB, 80 * GIB])
@pytest.mark.parametrize(
    ("config", "shape"),
    [(UNetConfig(), (9000, 7000)), (UNetConfig(dim=3, n_blocks=3), (300, 900, 900))],
)
def test_planned_tiles_stay_within_the_budget(
    config: UNetConfig, shape: tuple[int, ...], free: int, on_cpu: bool
) -> None:
    tiling = choose_tiling(shape, config, budget=free, on_cpu=on_cpu)
    plan = plan_tiles(shape, config, tile_shape=tiling.tile_shape)
    smallest = Reach.of(config).smallest_tile
    fits = peak_bytes(plan, config, tiling.strip, on_cpu=on_cpu) <= free
    assert fits or plan.tile_shape == (smallest,) * config.dim


def test_plenty_of_memory_takes_the_whole_image() -> None:
    tiling = choose_tiling((512, 700), UNetConfig(), budget=80 * GIB, on_cpu=False)
    assert tiling == Tiling((512, 704), 512)


@pytest.mark.parametrize("in_strips", [True, False])
def test_shrinking_ends_at_the_smallest_tile(in_strips: bool) -> None:
    config = UNetConfig(dim=3)
    tiling, steps = Tiling((500, 300, 120), 500), 0
    while (smaller := shrink(tiling, config, in_strips=in_strips)) is not None:
        assert prod(smaller.tile_shape) * smaller.strip < prod(tiling.tile_shape) * tiling.strip
        plan_tiles((999, 999, 999), config, tile_shape=smaller.tile_shape)
        tiling, steps = smaller, steps + 1
    assert max(tiling.tile_shape) <= Reach.of(config).smallest_tile
    assert tiling.strip == (8 if in_strips else tiling.tile_shape[0])
    assert steps < 30


def test_a_cpu_gets_thin_strips_of_full_width() -> None:
    config = UNetConfig()
    tiling = choose_tiling((4000, 6000), config, budget=64 * GIB, on_cpu=True)
    assert tiling == Tiling((4000, 6000), 16)
    volume = UNetConfig(dim=3, n_blocks=3, start_filters=16)
    tiling = choose_tiling((300, 512, 512), volume, budget=64 * GIB, on_cpu=True)
    assert tiling == Tiling((300, 512, 512), 4)


def test_a_small_budget_narrows_the_tiles() -> None:
    config = UNetConfig()
    tiling = choose_tiling((4000, 60000), config, budget=GIB // 8, on_cpu=True)
    assert tiling.strip == 8
    assert tiling.tile_shape[0] == 4000
    assert tiling.tile_shape[1] < 30000


def test_networks_that_see_everything_get_tiles() -> None:
    config = UNetConfig(normalization="instance", start_filters=8)
    tiling = choose_tiling((4000, 4000), config, budget=64 * GIB, on_cpu=True)
    assert tiling.strip == tiling.tile_shape[0] < 1000


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all arrays made while it is active that are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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
    whole = not config.tiles_exactly or data.draw(st.booleans())
    strip = sizes[0] if whole else data.draw(st.integers(1, sizes[0]))
    with torch.device("meta"):  # sizes without values
        network = LeanUNet(UNet(config).eval())
        image = torch.empty(1, 1, *sizes)
        strips = image.split(strip, dim=2)  # type: ignore[no-untyped-call]
    with torch.inference_mode(), LiveMemory() as memory:
        stream = network.stream(sizes, part)
        for rows in strips:
            for _ in stream.push(rows):
                pass
    scores = config.out_channels * prod(cut.stop - cut.start for cut in part)
    counted = count_live(config, sizes, part, strip).alive
    assert counted <= memory.peak / 4 <= counted + scores


@pytest.mark.parametrize("rows_padded", [True, False])
@pytest.mark.parametrize(("channels", "sizes"), [((64, 32), (38, 96)), ((16, 24), (12, 24, 31))])
def test_large_convolutions_take_memory_of_their_own(
    channels: tuple[int, int],
    sizes: tuple[int, ...],
    rows_padded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unetari.inference.winograd.LEAST_SIZE", 0)
    kind, last = (
        (nn.Conv2d, torch.channels_last) if len(sizes) == 2 else (nn.Conv3d, torch.channels_last_3d)
    )
    layer: Any = kind(*channels, 3, padding=1)
    winograd = Winograd(layer, Convolution.of(layer))
    x = torch.randn(1, channels[0], *sizes).contiguous(memory_format=last)
    with torch.inference_mode():
        winograd(x, rows_padded)  # makes its kernels
        with LiveMemory() as memory:
            found = winograd(x, rows_padded)
    counted = count_extra(x.shape, found.shape, layer.kernel_size, pads=rows_padded)
    extra = memory.peak / 4 - found.numel()
    if not rows_padded:  # else it is a copy with rows around it that is cut, and counted for that
        extra -= x.numel()
    assert 0.8 * counted <= extra <= counted


@pytest.mark.parametrize("strip", [32, 64])
@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_alive_on_a_cpu_is_counted(batch: int, strip: int) -> None:
    config, sizes = UNetConfig(n_blocks=2, start_filters=32), (64, 256)
    network = LeanUNet(UNet(config).eval())
    image = torch.randn(batch, 1, *sizes)

    def compute() -> None:
        stream = network.stream(sizes)
        for rows in image.split(strip, dim=2):  # type: ignore[no-untyped-call]
            for _ in stream.push(rows):
                pass

    with torch.inference_mode():
        compute()  # brings the kernels into order
        with LiveMemory() as memory:
            compute()
    part = [slice(0, size) for size in sizes]
    counts = [
        count_live(config, sizes, part, strip, on_cpu=on_cpu, batch=batch).alive
        for on_cpu in (True, False)
    ]
    assert counts[0] > counts[1]  # there are large convolutions
    assert memory.peak / 4 == pytest.approx(counts[0], rel=0.1)


def test_a_job_says_what_it_takes() -> None:
    model = Model.build(UNetConfig(start_filters=16), seed=0)
    job = prepare(np.zeros((2000, 2000), np.uint8), model, tile_shape=(600, 600), device="cpu")
    assert job.n_tiles == 16
    assert 50 * 2**20 < job.peak_bytes < 200 * 2**20
    text = job.describe()
    assert text.startswith("16 tiles of 576 x 576 voxels in strips of 232 rows on cpu, about ")
    assert text.endswith(" MiB of memory.")
    assert job.record().peak_bytes == job.peak_bytes


def test_a_run_keeps_to_the_memory_it_may_use() -> None:
    model = Model.build(UNetConfig(start_filters=16), seed=0)
    image = np.zeros((2000, 2000), np.uint8)
    free = prepare(image, model, device="cpu")
    small = prepare(image, model, device="cpu", max_memory=free.peak_bytes // 3)
    assert small.peak_bytes <= free.peak_bytes // 3
    assert small.warnings == ()
    least = prepare(image, model, device="cpu", max_memory=2**17)
    assert "more than the 0.1 MiB that the run may use" in least.warnings[-1]


@pytest.mark.parametrize("n_blocks", [3, 4, 5, 6])
def test_tiles_compute_little_twice(n_blocks: int) -> None:
    """Narrow tiles of deep networks would be nearly all halo."""
    shape, config = (200, 512, 512), UNetConfig(dim=3, n_blocks=n_blocks, start_filters=16)
    tiling = choose_tiling(shape, config, budget=64 * GIB, on_cpu=True)
    plan = plan_tiles(shape, config, tile_shape=tiling.tile_shape)
    whole = plan_tiles(shape, config).tile_shape
    assert len(plan) * prod(plan.tile_shape) <= 1.2 * prod(whole)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_no_array_has_more_elements_than_kernels_can_index(device: str) -> None:
    shape, config = (2000, 2000, 2000), UNetConfig(dim=3, n_blocks=3, up_mode="trilinear")
    most = most_values(device)
    assert most == (2**31 - 1 if device == "cuda" else 2**30)  # 4 GiB on Metal
    tiling = choose_tiling(shape, config, budget=2**45, on_cpu=False, most=most)
    plan = plan_tiles(shape, config, tile_shape=tiling.tile_shape)
    part = [slice(0, span.size) for span in plan[0].inner]
    assert count_live(config, plan.tile_shape, part, tiling.strip).largest <= most


def test_strips_get_thinner_for_given_tiles_too() -> None:
    model = Model.build(UNetConfig(start_filters=16), seed=0)
    image = np.broadcast_to(np.uint8(0), (8000, 8000))
    job = prepare(image, model, tile_shape=(8000, 8000), device="cpu", max_memory=2**28)
    assert job.plan.tile_shape == (8000, 8000)
    assert job.peak_bytes <= 2**28


@pytest.mark.parametrize("wrong", [0, True, 2.5, float("nan"), "2GB"])
def test_memory_is_a_whole_number_of_bytes(wrong: Any) -> None:
    model = Model.build(UNetConfig(start_filters=4, n_blocks=2), seed=0)
    with pytest.raises(ConfigError, match="max_memory"):
        prepare(np.zeros((50, 50), np.uint8), model, device="cpu", max_memory=wrong)
