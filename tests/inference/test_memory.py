"""Tiles fit the memory that is free, down to the smallest the network allows."""

from __future__ import annotations

from math import prod

import pytest

from unetari.core.config import UNetConfig
from unetari.core.sizes import Reach
from unetari.core.tiles import plan_tiles
from unetari.inference.memory import bytes_per_voxel, choose_tile_shape, shrink

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
    fits = prod(plan.tile_shape) * bytes_per_voxel(config) <= free / 2
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
