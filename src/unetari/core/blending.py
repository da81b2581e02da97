"""Tiles that overlap by half, whose results are blended.

Networks with instance or group normalization that were trained on patches may
want the statistics of a patch, not those of an image. Tiles of that size then
disagree where they meet, and the disagreement is spread out: every voxel is the
mean of the tiles over it, and a tile weighs less towards its edges. One axis is
solved on its own: its weights add up to 1, and so do their products.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from unetari.core.network import NetworkConfig, reach_of
from unetari.core.sizes import Reach
from unetari.core.spec import ModelSpec
from unetari.core.tiles import AxisTile, Span, TilePlan
from unetari.errors import ShapeError

_USUAL_PATCH: dict[int, tuple[int, ...]] = {2: (192, 192), 3: (32, 64, 64)}


def patch_of(spec: ModelSpec) -> tuple[int, ...]:
    """Return the size of the patches a network was trained on, or a usual one, ([Z,] Y, X)."""
    options = spec.training.get("options")
    known = options.get("patch_size") if isinstance(options, dict) else None
    sizes = _USUAL_PATCH[spec.config.dim]
    if isinstance(known, list | tuple) and len(known) == spec.config.dim:
        sizes = tuple(int(size) for size in known)
    rules = (reach.rule for reach in reach_of(spec.config))
    return tuple(rule.above(size) for size, rule in zip(sizes, rules, strict=True))


def plan_blended(
    shape: Sequence[int],
    config: NetworkConfig,
    *,
    tile_shape: Sequence[int],
    region: Sequence[Span],
    rim: int = 0,
) -> TilePlan:
    """Plan tiles that overlap by half at least; their inner boxes are all that a tile covers.

    Parameters
    ----------
    shape : sequence of int
        Size of the image in voxels, ([Z,] Y, X).
    config : UNetConfig or ForeignConfig
        The network.
    tile_shape : sequence of int
        Largest outer size of a tile, ([Z,] Y, X).
    region : sequence of Span
        What is wanted. The tiles are some of those of the whole image.
    rim : int
        Voxels around the region that come out right, too.

    Raises
    ------
    ShapeError
        If the network takes no tile as small.

    Examples
    --------
    >>> from unetari.core.config import UNetConfig
    >>> whole = [Span(0, 64), Span(0, 150)]
    >>> plan = plan_blended((64, 150), UNetConfig(), tile_shape=(64, 64), region=whole)
    >>> [(tile.inner.start, tile.inner.stop) for tile in plan.axes[1]]
    [(0, 64), (29, 93), (57, 121), (86, 150)]
    """
    reaches = reach_of(config)
    axes = []
    for size, limit, reach, part in zip(shape, tile_shape, reaches, region, strict=True):
        wanted = Span(part.start - rim, part.stop + rim)
        tiles = _cover(size, limit, reach)
        axes.append(tuple(tile for tile in tiles if _meet(tile.inner, wanted)))
    outer = tuple(tiles[0].outer.size for tiles in axes)
    return TilePlan(tuple(shape), tuple(region), outer, reaches, tuple(axes))


def _meet(one: Span, other: Span) -> bool:
    return one.start < other.stop and other.start < one.stop


def _cover(size: int, limit: int, reach: Reach) -> list[AxisTile]:
    """Return the tiles of all of an axis."""
    margin = reach.margin if reach.loss else 0
    tile = reach.rule.below(min(limit, reach.rule.above(size + 2 * margin)))
    if tile is None or tile <= 2 * margin:
        raise ShapeError(
            f"Tile size {limit} is too small: this network takes images from "
            f"{reach.rule.above(2 * margin + 1)} on. Use a larger tile."
        )
    covered = tile - 2 * margin
    last = max(0, size - covered)
    count = 1 + -(-last // max(1, covered // 2))
    found = []
    for start in np.linspace(0, last, count).round().astype(int).tolist():
        inner = Span(start, min(start + covered, size))
        outer = Span(start - margin, start - margin + tile)
        found.append(AxisTile(outer, inner, inner.shifted(margin - reach.loss - start)))
    return found


def blending_weights(plan: TilePlan, config: NetworkConfig) -> list[list[NDArray[np.float32]]]:
    """Return how much each tile counts, per axis and tile, one weight per voxel of its inner span.

    Raised cosines, which along an axis add up to 1.
    """
    weights = []
    for axis, reach in enumerate(reach_of(config)):
        size = plan.shape[axis]
        total = np.zeros(size)
        every = _cover(size, plan.tile_shape[axis], reach)
        windows = {tile.inner: _window(tile, reach) for tile in every}
        for inner, window in windows.items():
            total[inner.slice] += window
        weights.append(
            [
                (windows[tile.inner] / total[tile.inner.slice]).astype(np.float32)
                for tile in plan.axes[axis]
            ]
        )
    return weights


def _window(tile: AxisTile, reach: Reach) -> NDArray[np.float64]:
    covered = tile.outer.size - (2 * reach.margin if reach.loss else 0)
    return np.sin(np.pi * (np.arange(tile.inner.size) + 0.5) / covered) ** 2


def band_voxels(plan: TilePlan) -> int:
    """Return how many voxels a band of tiles, those of one row or plane of the grid, covers."""
    sizes = [tiles[-1].inner.stop - tiles[0].inner.start for tiles in plan.axes[1:]]
    return plan.axes[0][0].inner.size * prod(sizes)
