"""How much memory a pass needs, and how an image is divided so that it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

from unetari.core.config import UNetConfig
from unetari.core.network import ForeignConfig, NetworkConfig, reach_of
from unetari.core.scaling import RIM, Scaling
from unetari.core.sizes import round_up
from unetari.core.tiles import AxisTile, Span, TilePlan, plan_tiles
from unetari.inference.allocator import keeps_freed_memory
from unetari.inference.sketch import count_live

_BYTES = 4  # float32
_WORKSPACE = 1.1  # what convolutions take on top
_GAPS = {2: 1.9, 3: 1.65}
"""What gaps between arrays take on top on a CPU, where glibc keeps what is freed: measured by
`benchmarks.memory`."""
SHARE_OF_FREE_MEMORY = 0.5
"""How much of what is free a run uses by default."""
_MOST_ELEMENTS = 2**31 - 1  # per tensor: many kernels index with 32 bits
_MOST_BYTES_MPS = 2**32
"""What one array has at most on Metal, which ends the process over a larger one."""
_CPU_TILE = {2: 512, 3: 128}
"""What a tile on a CPU writes at most, per axis, where images cannot come in strips: larger
ones show results later. Its halo comes on top: a deep 3D network reads 48 voxels per side, and
a limit on the outer size would leave nearly nothing to write."""
_CPU_STRIP = {2: 2**21, 3: 2**22}
"""Values that one array of features of a strip has on a CPU: enough to keep it busy, and few
enough that results come soon and a stop takes effect at once. Thicker strips in 3D save a tenth
of the time, and take it again, because the first use of their memory costs as much."""
_CPU_MOST = 2**26
"""Where even the thinnest strip has more, tiles are narrower than the image, as long as they do
not compute a fifth more for it."""
_MOST_EXTRA = 1.2
_FILL = {"cpu": 2**21, "mps": 2**25, "cuda": 2**27}
"""Values of one array of features that keep a device busy. A CPU has enough of a plane of 256 x
256. A card of NVIDIA is meant to be busy for longer than the 2 to 3 milliseconds that Python takes
for a pass, with 4 million pixels and 32 filters; this was not measured."""


class Tiling(NamedTuple):
    """How an image is divided."""

    tile_shape: tuple[int, ...]
    """Largest outer size of a tile, ([Z,] Y, X)."""
    strip: int
    """Rows of a tile, or planes in 3D, that the network gets at once."""
    batch: int = 1
    """Tiles of different planes or volumes that the network gets together."""


def most_values(device_type: str) -> int:
    """Return how many values one array may have on a device, such as "cpu" or "mps"."""
    return _MOST_BYTES_MPS // _BYTES if device_type == "mps" else _MOST_ELEMENTS


def takes_strips(config: NetworkConfig, frozen: bool = False) -> bool:
    """Whether a network can get a tile strip by strip."""
    return isinstance(config, UNetConfig) and (config.tiles_exactly or frozen)


def peak_bytes(
    plan: TilePlan,
    config: NetworkConfig,
    strip: int | None = None,
    scaling: Scaling | None = None,
    *,
    on_cpu: bool,
    frozen: bool = False,
    batch: int = 1,
) -> int:
    """Predict how much memory the largest tile of a plan needs at once.

    Parameters
    ----------
    plan : TilePlan
        The tiles.
    config : UNetConfig or ForeignConfig
        The network.
    strip : int, optional
        Rows that the network gets at once. Default: all of a tile.
    scaling : Scaling, optional
        How the image is rescaled for the network.
    on_cpu : bool
        Whether the network runs on the CPU.
    frozen : bool
        Whether statistics of normalization do not depend on tiles.
    batch : int
        Tiles of different frames that pass through the network together.

    Returns
    -------
    int
        Bytes of image, features, scores and labels. Weights are not counted.
    """
    wanted = _most_wanted(plan)
    rows, *others = plan.tile_shape
    strip = rows if strip is None else min(strip, rows)
    if isinstance(config, ForeignConfig):
        features = batch * prod(plan.tile_shape) * config.features
        outputs = batch * _volume(wanted)
    else:
        count = count_live(
            config,
            plan.tile_shape,
            _slices(wanted),
            strip,
            frozen=frozen,
            on_cpu=on_cpu,
            batch=batch,
        )
        features, outputs = count.alive, count.outputs
        if on_cpu and config.dim == 2 and not (frozen or config.tiles_exactly):
            # Channels are not innermost in memory then, and 2D convolutions rearrange them.
            features += count.largest
    # Scores and their probabilities; labels as 64-bit and as 8-bit integers.
    decided = outputs * (2 * config.out_channels + 3)
    # This strip's, and the next one's; on CUDA also one that is on its way, and what it came as.
    image = (2 if on_cpu else 4) * batch * strip * prod(others) * config.in_channels
    needed = _BYTES * _WORKSPACE * (image + max(features, decided))
    if on_cpu and keeps_freed_memory():
        needed *= _GAPS[config.dim]
    if scaling is not None:
        written = [max(part.inner.size for part in _kinds(parts)) for parts in plan.axes]
        # The scores of a tile are gathered; interpolation holds the output twice and makes a
        # third; then come scores and labels.
        restored = _BYTES * (4 * config.out_channels + 3) * batch
        needed += _BYTES * config.out_channels * batch * _volume(wanted)
        needed += restored * prod(written) / prod(scaling.factors)
    return round(needed)


def _most_wanted(plan: TilePlan) -> list[Span]:
    """Return the largest part of a tile that is written, per axis."""
    return [max((part.local for part in _kinds(parts)), key=_size_of) for parts in plan.axes]


def _kinds(parts: Sequence[AxisTile]) -> Sequence[AxisTile]:
    """Return a tile of each kind.

    The last one is moved towards the others, so the one before it writes less than those between.
    """
    return (parts[0], parts[min(1, len(parts) - 1)], parts[-1])


def _size_of(span: Span) -> int:
    return span.size


def _volume(box: Sequence[Span]) -> int:
    return prod(span.size for span in box)


def _slices(box: Sequence[Span]) -> tuple[slice, ...]:
    return tuple(span.slice for span in box)


def choose_tiling(
    shape: Sequence[int],
    config: NetworkConfig,
    *,
    budget: float,
    on_cpu: bool,
    region: Sequence[Span] | None = None,
    tile_shape: Sequence[int] | None = None,
    frozen: bool = False,
    scaling: Scaling | None = None,
    in_strips: bool = True,
    most: int = _MOST_ELEMENTS,
) -> Tiling:
    """Choose the largest tiles and strips that fit.

    A CPU gets an image in strips, as far as the network allows; another device gets tiles
    as large as possible, and strips where they do not fit as a whole.

    Parameters
    ----------
    shape : sequence of int
        Size of the image in voxels, as the network sees it, ([Z,] Y, X).
    config : UNetConfig or ForeignConfig
        The network.
    budget : float
        Bytes that may be used.
    on_cpu : bool
        Whether the network runs on the CPU.
    region : sequence of Span, optional
        The part to predict, ([Z,] Y, X). Default: the whole image.
    tile_shape : sequence of int, optional
        The tiles, if they are not to be chosen.
    frozen : bool
        Whether statistics of normalization do not depend on tiles.
    scaling : Scaling, optional
        How the image is rescaled for the network.
    in_strips : bool
        Whether strips may be used, where the network allows it.
    most : int
        Values that one array may have, from `most_values`.

    Returns
    -------
    Tiling
        Not less than the smallest tile of the network, even where that may not fit.
    """
    rim = 0 if scaling is None else RIM
    reaches, in_strips = reach_of(config, rim), in_strips and takes_strips(config, frozen)

    def plan(limit: Sequence[int] | None) -> TilePlan:
        return plan_tiles(shape, config, tile_shape=limit, region=region, rim=rim)

    def fits(tiling: Tiling) -> bool:
        planned = plan(tiling.tile_shape)
        if _largest_array(planned, config, tiling.strip, frozen=frozen, on_cpu=on_cpu) > most:
            return False
        return (
            peak_bytes(planned, config, tiling.strip, scaling, frozen=frozen, on_cpu=on_cpu)
            <= budget
        )

    tile = plan(tile_shape).tile_shape
    if on_cpu and tile_shape is None and (scaling is not None or not in_strips):
        written = (_CPU_TILE[config.dim] + 2 * reach.margin for reach in reaches)
        tile = tuple(
            min(max(size, reach.smallest_tile), most)
            for size, reach, most in zip(written, reaches, tile, strict=True)
        )
    tiling = Tiling(tile, tile[0])
    if on_cpu and isinstance(config, UNetConfig) and in_strips:
        tiling = Tiling(tile, _choose_strip(tile, config))
    while not fits(tiling):
        smaller = shrink(tiling, config, rim, in_strips=in_strips)
        if smaller is None or (tile_shape is not None and smaller.tile_shape != tile):
            break
        tiling = smaller
    if on_cpu and in_strips and tile_shape is None:
        return _narrow(tiling, config, rim, plan)
    return tiling


def _narrow(
    tiling: Tiling, config: NetworkConfig, rim: int, plan: Callable[[Sequence[int]], TilePlan]
) -> Tiling:
    """Make tiles narrower whose thinnest strips take long, where that costs little."""
    most = _MOST_EXTRA * _work(plan(tiling.tile_shape))
    while _values(tiling, config) > _CPU_MOST:
        smaller = shrink(tiling, config, rim, in_strips=True)
        if smaller is None or _work(plan(smaller.tile_shape)) > most:
            break
        tiling = smaller
    return tiling


def _work(plan: TilePlan) -> int:
    """Return how many voxels the tiles read."""
    return len(plan) * prod(plan.tile_shape)


def _values(tiling: Tiling, config: NetworkConfig) -> int:
    """Return about how many values the largest array of a strip has."""
    rows, *others = tiling.tile_shape
    return min(tiling.strip, rows) * prod(others) * _widest(config)


def _largest_array(
    plan: TilePlan, config: NetworkConfig, strip: int, *, frozen: bool, on_cpu: bool
) -> int:
    if isinstance(config, ForeignConfig):
        return prod(plan.tile_shape) * _widest(config)
    box, strip = _slices(_most_wanted(plan)), min(strip, plan.tile_shape[0])
    found = count_live(config, plan.tile_shape, box, strip, frozen=frozen, on_cpu=on_cpu)
    return found.largest


def choose_pass(
    plan: TilePlan,
    config: UNetConfig,
    budget: float,
    *,
    on_cpu: bool,
    most: int = _MOST_ELEMENTS,
) -> int | None:
    """Choose how many rows of an image a network gets at once, to find statistics.

    Parameters
    ----------
    plan : TilePlan
        One tile, which is the image.
    config : UNetConfig
        The network.
    budget : float
        Bytes that may be used.
    on_cpu : bool
        Whether the network runs on the CPU.
    most : int
        Values that one array may have, from `most_values`.

    Returns
    -------
    int or None
        All rows if they fit: a single pass then finds everything. None if not even the
        thinnest strip fits.
    """
    tiling: Tiling | None = Tiling(plan.tile_shape, plan.tile_shape[0])
    while tiling is not None and tiling.tile_shape == plan.tile_shape:
        largest = _largest_array(plan, config, tiling.strip, frozen=True, on_cpu=on_cpu)
        needed = peak_bytes(plan, config, tiling.strip, frozen=True, on_cpu=on_cpu)
        if largest <= most and needed <= budget:
            return tiling.strip
        tiling = shrink(tiling, config, in_strips=True)
    return None


def choose_batch(tiling: Tiling, config: UNetConfig, device_type: str) -> int:
    """Choose how many tiles of different frames the network gets together, were there enough.

    Parameters
    ----------
    tiling : Tiling
        How each frame is divided.
    config : UNetConfig
        The network.
    device_type : str
        Where the network runs: "cpu", "cuda" or "mps".

    Returns
    -------
    int
        1 if a single one fills the device.
    """
    each = _values(tiling, config) // 2
    return max(1, _FILL[device_type] // each)


def _choose_strip(tile_shape: Sequence[int], config: UNetConfig) -> int:
    """Return how many rows of a tile a CPU gets at once."""
    rows = _CPU_STRIP[config.dim] // (prod(tile_shape[1:]) * config.start_filters)
    return round_up(max(rows, 1), reach_of(config)[0].multiple)


def _widest(config: NetworkConfig) -> int:
    """Return the most values per voxel of the image that one array holds."""
    if isinstance(config, ForeignConfig):
        return config.features // 4 + 1
    return 2 * config.start_filters


def shrink(
    tiling: Tiling, config: NetworkConfig, rim: int = 0, *, in_strips: bool = False
) -> Tiling | None:
    """Halve the batch, make strips thinner by half, or the longest axis of a tile shorter.

    Parameters
    ----------
    tiling : Tiling
        What does not fit.
    config : UNetConfig or ForeignConfig
        The network.
    rim : int
        That of `plan_tiles`.
    in_strips : bool
        Whether the network can get a tile strip by strip.

    Returns
    -------
    Tiling or None
        The smaller one; None if everything is at the network's minimum.
    """
    if tiling.batch > 1:
        return tiling._replace(batch=tiling.batch // 2)
    reaches = reach_of(config, rim)
    tile, strip = tiling.tile_shape, min(tiling.strip, tiling.tile_shape[0])
    if in_strips and strip > reaches[0].multiple:
        return Tiling(tile, round_up(strip // 2, reaches[0].multiple))
    can_shrink = [axis for axis, reach in enumerate(reaches) if tile[axis] > reach.smallest_tile]
    if not can_shrink:
        return None
    # Strips do not get smaller where there are fewer of them.
    longest = max(can_shrink, key=lambda axis: (axis > 0 or not in_strips, tile[axis]))
    shorter = max(tile[longest] * 3 // 4, reaches[longest].smallest_tile)
    tile = tuple(shorter if axis == longest else size for axis, size in enumerate(tile))
    return Tiling(tile, strip if in_strips else tile[0])
