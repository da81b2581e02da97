"""How much memory a tile needs, and how large a tile fits."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from unetari.core.config import UNetConfig
from unetari.core.network import ForeignConfig, NetworkConfig, reach_of
from unetari.core.scaling import RIM, Scaling
from unetari.core.sizes import axis_levels, valid_output_size
from unetari.core.stencils import plan_decoder
from unetari.core.tiles import Span, TilePlan, plan_tiles

_BYTES = 4  # float32
_WORKSPACE = 1.2  # what convolutions and the allocator take on top: 0.98 to 1.47 times on CPUs
_SHARE_OF_FREE_MEMORY = 0.5
_MOST_ELEMENTS = 2**31 - 1  # per tensor: many kernels index with 32 bits
_CPU_TILE = {2: 512, 3: 128}
"""What a tile on a CPU writes at most, per axis: larger ones show results later.

Its halo comes on top: a deep 3D network reads 48 voxels per side, and a limit on the
outer size would leave nearly nothing to write."""


def peak_bytes(plan: TilePlan, config: NetworkConfig, scaling: Scaling | None = None) -> int:
    """Predict how much memory the largest tile of a plan needs at once.

    Parameters
    ----------
    plan : TilePlan
        The tiles.
    config : UNetConfig or ForeignConfig
        The network.
    scaling : Scaling, optional
        How the image is rescaled for the network.

    Returns
    -------
    int
        Bytes of image, features, scores and labels. Weights are not counted.
    """
    wanted = [max((part.local for part in parts), key=_size_of) for parts in plan.axes]
    outputs = prod(span.size for span in wanted)
    # Scores and their probabilities; labels as 64-bit and as 8-bit integers.
    decided = outputs * (2 * config.out_channels + 3)
    if isinstance(config, ForeignConfig):
        features = prod(plan.tile_shape) * config.features
    else:
        features = count_live(config, plan.tile_shape, [span.slice for span in wanted])
    image = 2 * prod(plan.tile_shape) * config.in_channels  # this tile's, and the next one's
    needed = _BYTES * _WORKSPACE * (image + max(features, decided))
    if scaling is not None:
        written = [max(part.inner.size for part in parts) for parts in plan.axes]
        # Interpolation holds the output twice and makes a third; then come scores and labels.
        restored = _BYTES * (4 * config.out_channels + 3)
        needed += restored * prod(written) / prod(scaling.factors)
    return round(needed)


def _size_of(span: Span) -> int:
    return span.size


def count_live(config: UNetConfig, sizes: Sequence[int], part: Sequence[slice]) -> int:
    """Count the values that a pass of a `LeanUNet` holds at once, the image not included.

    Parameters
    ----------
    config : UNetConfig
        The network.
    sizes : sequence of int
        Size of the input, ([Z,] Y, X).
    part : sequence of slice
        The wanted part of the output, ([Z,] Y, X).

    Returns
    -------
    int
        The largest number at any moment.
    """
    if not config.tiles_exactly:
        axes = zip(sizes, range(-config.dim, 0), strict=True)
        part = [slice(0, valid_output_size(size, config, axis)) for size, axis in axes]
    walk = _Walk(config, sizes, part)
    for level in range(config.n_blocks - 1):
        walk.encode(level)
        walk.keep_and_pool(level)
    walk.encode(config.n_blocks - 1)
    for level in reversed(range(config.n_blocks - 1)):
        walk.decode(level)
    return walk.most


class _Walk:
    """Follows a pass of a `LeanUNet` and counts what is alive."""

    def __init__(self, config: UNetConfig, sizes: Sequence[int], part: Sequence[slice]) -> None:
        self._config = config
        self._levels = [axis_levels(config, axis) for axis in range(-config.dim, 0)]
        self._valid = config.conv_mode == "valid"
        self._plans = [
            plan_decoder(levels, size, cut, valid=self._valid)
            for levels, size, cut in zip(self._levels, sizes, part, strict=True)
        ]
        self._sizes = list(sizes)
        self._kept: list[int] = []
        self._x = 0  # the features that go on; the image, which does not count, at first
        self.most = 0
        """The largest count so far."""

    def _see(self, *arrays: int) -> None:
        self.most = max(self.most, sum(self._kept) + sum(arrays))

    def _shrink(self) -> int:
        """Take from the sizes what one convolution of valid mode does; return the voxels."""
        if self._valid:
            radii = [levels[len(self._kept)].encoder // 2 for levels in self._levels]
            self._sizes = [size - 2 * r for size, r in zip(self._sizes, radii, strict=True)]
        return prod(self._sizes)

    def _convolve(self, filters: int, before: int, held: int) -> int:
        """See two convolutions of features that are held on to, or not; return the last."""
        # Group and instance normalization do not work in place.
        copies = 1 if self._config.tiles_exactly else 2
        first = filters * self._shrink()
        self._see(before, copies * first)
        last = filters * self._shrink()
        self._see(held, first, copies * last)
        return last

    def encode(self, level: int) -> None:
        """See a block of the encoder."""
        self._x = self._convolve(self._config.filters[level], self._x, self._x)

    def keep_and_pool(self, level: int) -> None:
        """See features kept for the decoder and pooled."""
        filters = self._config.filters[level]
        steps = [plan.steps[level] for plan in self._plans]
        self._sizes = [
            size // levels[level].pool
            for size, levels in zip(self._sizes, self._levels, strict=True)
        ]
        pooled = filters * prod(self._sizes)
        self._kept.append(2 * filters * prod(step.skip.stop - step.skip.start for step in steps))
        self._see(self._x, pooled)
        self._x = pooled

    def decode(self, level: int) -> None:
        """See a block of the decoder."""
        filters = self._config.filters[level]
        plans = [plan.steps for plan in self._plans]
        below = [
            plan.deepest if len(plan.steps) == level + 1 else plan.steps[level + 1].result
            for plan in self._plans
        ]
        coarse = [cut.stop - cut.start for cut in below]
        pools = [levels[level].pool for levels in self._levels]
        raised = filters * prod(p * size for p, size in zip(pools, coarse, strict=True))
        narrow = 0 if self._config.up_mode == "transposed" else filters * prod(coarse)
        copies = 1 if self._config.tiles_exactly else 2
        self._see(self._x, narrow, raised)
        self._see(self._x, copies * raised)
        join = self._kept.pop()
        self._sizes = [steps[level].skip.stop - steps[level].skip.start for steps in plans]
        self._x = self._convolve(filters, join, 0)


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
    most_bytes = free * _SHARE_OF_FREE_MEMORY
    while (
        prod(tile) * _widest(config) > _MOST_ELEMENTS
        or peak_bytes(plan_tiles(shape, config, tile_shape=tile, rim=rim), config, scaling)
        > most_bytes
    ):
        smaller = shrink(tile, config, rim)
        if smaller is None:
            break
        tile = smaller
    return tile


def _widest(config: NetworkConfig) -> int:
    """Return the most values per voxel of the image that one array holds."""
    if isinstance(config, ForeignConfig):
        return config.features // 4 + 1
    return 2 * config.start_filters


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
