"""How large a tile fits in memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from unetari.core.network import ForeignConfig, NetworkConfig, reach_of
from unetari.core.scaling import RIM, Scaling
from unetari.core.tiles import plan_tiles

_BYTES = 4  # float32
_LIVE_FEATURES = 9
"""Copies of the first level's features that are alive at the peak.

In the last decoder block: the skip, the upsampled features, their concatenation
(twice the size), one convolution's result and its activation; the deeper levels
add up to less than one more; convolutions need room to work. Measured on a CPU with torch
2.13, 2D and 3D networks of 16 and 32 filters: 7 to 9.2.
"""
_SHARE_OF_FREE_MEMORY = 0.5
_MOST_ELEMENTS = 2**31 - 1  # per tensor: many kernels index with 32 bits
_CPU_TILE = {2: 768, 3: 128}
"""What a tile on a CPU writes at most, per axis: larger ones show results later.

Its halo comes on top: a deep 3D network reads 48 voxels per side, and a limit on the
outer size would leave nearly nothing to write."""


def bytes_per_voxel(config: NetworkConfig) -> int:
    """Estimate the peak memory of one forward pass, in bytes per voxel of a tile.

    Input, scores, probabilities and labels are counted, weights are not.
    """
    features = _live_features(config)
    return _BYTES * (config.in_channels + features + 2 * config.out_channels + 1)


def _live_features(config: NetworkConfig) -> int:
    if isinstance(config, ForeignConfig):
        return config.features
    return _LIVE_FEATURES * config.start_filters


def choose_tile_shape(
    shape: Sequence[int],
    config: NetworkConfig,
    *,
    free: int,
    on_cpu: bool,
    scaling: Scaling | None = None,
) -> tuple[int, ...]:
    """Choose the largest outer size of a tile.

    Parameters
    ----------
    shape : sequence of int
        Size of the image in voxels, as the network sees it, ([Z,] Y, X).
    config : UNetConfig or ForeignConfig
        The network.
    free : int
        Free memory of the device, in bytes; half of it is used.
    on_cpu : bool
        Whether the network runs on the CPU.
    scaling : Scaling, optional
        How the image is rescaled for the network.

    Returns
    -------
    tuple of int
        Size per axis, ([Z,] Y, X). Not smaller than the smallest tile of the
        network, even where that may not fit.
    """
    rim = 0 if scaling is None else RIM
    whole = plan_tiles(shape, config, rim=rim).tile_shape
    tile, reaches = whole, reach_of(config, rim)
    if on_cpu:
        written = (_CPU_TILE[config.dim] + 2 * reach.margin for reach in reaches)
        tile = tuple(
            min(max(size, reach.smallest_tile), most)
            for size, reach, most in zip(written, reaches, whole, strict=True)
        )
    most_voxels = _MOST_ELEMENTS // (_live_features(config) // 4 + 1)
    most_bytes = free * _SHARE_OF_FREE_MEMORY
    while prod(tile) > most_voxels or _needed_bytes(tile, shape, config, scaling) > most_bytes:
        smaller = shrink(tile, config, rim)
        if smaller is None:
            break
        tile = smaller
    return tile


def _needed_bytes(
    tile: Sequence[int], shape: Sequence[int], config: NetworkConfig, scaling: Scaling | None
) -> float:
    needed: float = prod(tile) * bytes_per_voxel(config)
    if scaling is not None:
        plan = plan_tiles(shape, config, tile_shape=tile, rim=RIM)
        written = [max(part.inner.size for part in parts) for parts in plan.axes]
        # Interpolation holds the output twice and makes a third; then come scores and labels.
        restored = _BYTES * (4 * config.out_channels + 3)
        needed += restored * prod(written) / prod(scaling.factors)
    return needed


def shrink(
    tile_shape: Sequence[int], config: NetworkConfig, rim: int = 0
) -> tuple[int, ...] | None:
    """Shorten the longest axis of a tile that can be shortened by a quarter.

    `rim` is that of `plan_tiles`.

    Returns
    -------
    tuple of int or None
        The smaller tile; None if every axis is at the network's minimum.
    """
    smallest = [reach.smallest_tile for reach in reach_of(config, rim)]
    can_shrink = [axis for axis, size in enumerate(tile_shape) if size > smallest[axis]]
    if not can_shrink:
        return None
    longest = max(can_shrink, key=lambda axis: tile_shape[axis])
    shorter = max(tile_shape[longest] * 3 // 4, smallest[longest])
    return tuple(shorter if axis == longest else size for axis, size in enumerate(tile_shape))
