"""Exact tiles for any size, any dimension, same or valid convolution.

A tile reads its *outer* box and writes its *inner* box; the voxels between
the two are the *halo*::

    outer     |--------------------------------------|
    inner     |   halo   |------------|     halo     |
    local                 inner, counted from where the network's output begins

The inner boxes partition the region. Tiled and whole-image results agree
because (1) outer boxes begin and end on multiples of the network's size
multiple P, so that every pooling grid lies where it lies in the whole image,
(2) the halo covers everything the inner voxels depend on, and (3) a tile ends
where the image ends, so that the network's own zero padding does there what
it does in the whole-image pass. One axis is solved on its own; boxes are the
product of the axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from numbers import Integral
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from unetari.core.network import NetworkConfig, reach_of
from unetari.core.sizes import Reach, round_down, round_up
from unetari.errors import ShapeError


class Span(NamedTuple):
    """A half-open interval on one axis, in voxels."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of voxels."""
        return self.stop - self.start

    @property
    def slice(self) -> slice:
        """The span as an index."""
        return slice(self.start, self.stop)

    def shifted(self, by: int) -> Span:
        """Return the span moved by `by` voxels."""
        return Span(self.start + by, self.stop + by)


class AxisTile(NamedTuple):
    """What one tile reads and writes on one axis."""

    outer: Span
    inner: Span
    local: Span


@dataclass(frozen=True)
class AxisTiles(Sequence[AxisTile]):
    """The tiles of one axis, in equal steps; each is made when it is asked for.

    An axis of 200 000 voxels can have 25 000 tiles, and a plan is often made for its
    numbers alone.
    """

    region: Span
    """What the inner spans partition."""
    length: int
    """Number of tiles."""
    outer_size: int
    """Outer size of every tile."""
    first: int
    """Where the first tile begins to read."""
    last: int
    """Where the last tile begins to read: at most `length - 1` steps behind the first."""
    step: int
    """Voxels from one tile to the next."""
    before: int
    """Voxels that a tile reads before what it writes; the first may write from the region's
    start on."""
    loss: int
    """Voxels per side that the network's output lacks."""

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> AxisTile: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[AxisTile, ...]: ...
    def __getitem__(self, index: int | slice) -> AxisTile | tuple[AxisTile, ...]:
        position = range(self.length)[index]
        if isinstance(position, range):
            return tuple(map(self._make, position))
        return self._make(position)

    def __iter__(self) -> Iterator[AxisTile]:
        return map(self._make, range(self.length))

    def _make(self, position: int) -> AxisTile:
        start = self._start(position)
        begin = start + self.before if position else self.region.start
        is_last = position == self.length - 1
        end = self.region.stop if is_last else self._start(position + 1) + self.before
        lost = start + self.loss
        return AxisTile(
            outer=Span(start, start + self.outer_size),
            inner=Span(begin, end),
            local=Span(begin - lost, end - lost),
        )

    def _start(self, position: int) -> int:
        return min(self.first + position * self.step, self.last)


@dataclass(frozen=True)
class Tile:
    """A box that the network reads, and the box within it that is written."""

    outer: tuple[Span, ...]
    """What the tile reads; may reach past the image, which is mirrored there."""
    inner: tuple[Span, ...]
    """What the tile writes."""
    local: tuple[Span, ...]
    """The inner box within the network's output for the outer box."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the outer box, in voxels."""
        return tuple(span.size for span in self.outer)


@dataclass(frozen=True)
class TilePlan:
    """All tiles of one region of one image; a sequence of `Tile`.

    All tiles have one outer shape, so that a network is compiled, and its
    memory planned, once.
    """

    shape: tuple[int, ...]
    """Size of the image, in voxels per spatial axis."""
    region: tuple[Span, ...]
    """What the inner boxes partition."""
    tile_shape: tuple[int, ...]
    """Outer size of every tile."""
    reach: tuple[Reach, ...]
    """Multiple, halo and loss of the network, per axis."""
    axes: tuple[Sequence[AxisTile], ...]
    """The tiles of each axis; the plan is their product."""

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels per side that a tile reads and does not write, per axis."""
        return tuple(reach.margin for reach in self.reach)

    @property
    def multiple(self) -> tuple[int, ...]:
        """Size multiple at which every level pools evenly, per axis."""
        return tuple(reach.multiple for reach in self.reach)

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(len(tiles) for tiles in self.axes)

    def __len__(self) -> int:
        return prod(self.grid)

    def __getitem__(self, index: int) -> Tile:
        if not -len(self) <= index < len(self):
            raise IndexError(f"tile {index} of a plan with {len(self)} tiles")
        return self.at([int(i) for i in np.unravel_index(index % len(self), self.grid)])

    def __iter__(self) -> Iterator[Tile]:
        return (_tile(parts) for parts in product(*self.axes))

    def at(self, position: Sequence[int]) -> Tile:
        """Return the tile at a position of the grid."""
        return _tile([tiles[int(i)] for tiles, i in zip(self.axes, position, strict=True)])

    def neighbours(self) -> Iterator[tuple[int, Tile, Tile]]:
        """Iterate over the borders between tiles: (axis, tile before, tile after)."""
        for position in np.ndindex(*self.grid):
            for axis in range(len(self.grid)):
                after = list(position)
                after[axis] += 1
                if after[axis] < self.grid[axis]:
                    yield axis, self.at(position), self.at(after)


def plan_tiles(
    shape: Sequence[int],
    config: NetworkConfig,
    *,
    tile_shape: Sequence[int] | None = None,
    region: Sequence[Span | slice] | None = None,
    rim: int = 0,
) -> TilePlan:
    """Plan the fewest balanced tiles whose results equal one whole-image pass.

    Parameters
    ----------
    shape : sequence of int
        Size of the image in voxels, ([Z,] Y, X).
    config : UNetConfig or ForeignConfig
        The network.
    tile_shape : sequence of int, optional
        Largest outer size of a tile, ([Z,] Y, X). Default: one tile.
    region : sequence of Span or slice, optional
        The part to predict, ([Z,] Y, X). Default: the whole image. The tiles
        read beyond it, so that its values are those of the whole image.
    rim : int
        Voxels around the inner box of a tile that come out right, too, as far
        as the image reaches. They are for interpolation; nobody writes them.

    Returns
    -------
    TilePlan
        The tiles; their inner boxes partition the region.

    Raises
    ------
    ShapeError
        If an axis is empty, the region lies outside the image, or the tile is
        smaller than halo, one multiple, and halo.

    Examples
    --------
    >>> from unetari.core.config import UNetConfig
    >>> plan = plan_tiles((510, 690), UNetConfig(), tile_shape=(256, 256))
    >>> plan.tile_shape, plan.halo, len(plan)
    ((240, 248), (48, 48), 12)
    """
    _check_lengths(config.dim, shape=shape, tile_shape=tile_shape, region=region)
    reaches = reach_of(config, rim)
    spans = _spans(shape, region)
    largest = [None] * len(shape) if tile_shape is None else _check_integers(tile_shape)
    axes = tuple(
        _plan_axis(size, span, limit, reach)
        for size, span, limit, reach in zip(shape, spans, largest, reaches, strict=True)
    )
    outer = tuple(tiles[0].outer.size for tiles in axes)
    return TilePlan(tuple(shape), spans, outer, reaches, axes)


def resolve_span(part: Span | slice, size: int, axis: str) -> Span:
    """Return the start and stop of a contiguous, non-empty part of an axis.

    Raises
    ------
    ShapeError
        If the axis is empty, or the part is empty, stepped, or reaches outside.
    """
    if size < 1:
        raise ShapeError(f"{axis.capitalize()} of the image is empty. Load an image with data.")
    start = 0 if part.start is None else part.start
    stop = size if part.stop is None else part.stop
    step = getattr(part, "step", None)
    is_whole = isinstance(start, Integral) and isinstance(stop, Integral)
    if not is_whole or not 0 <= start < stop <= size or step not in (None, 1):
        text = f"{start}:{stop}" if step is None else f"{start}:{stop}:{step}"
        raise ShapeError(
            f"The region {text} on {axis} must be a non-empty, contiguous part of 0:{size}, "
            "without steps. Choose a region inside the image."
        )
    return Span(int(start), int(stop))


def mirror(span: Span, size: int) -> NDArray[np.intp]:
    """Return the indices that a span reads from an axis which is mirrored at its ends.

    The edge voxel is not repeated, as in `numpy.pad(mode="reflect")`.

    Examples
    --------
    >>> mirror(Span(-2, 5), 4).tolist()
    [2, 1, 0, 1, 2, 3, 2]
    """
    period = max(2 * (size - 1), 1)
    index = np.arange(span.start, span.stop) % period
    return np.where(index < size, index, period - index)


def read_mirrored(
    read: Callable[[Sequence[Span]], NDArray[Any]], box: Sequence[Span], shape: Sequence[int]
) -> NDArray[Any]:
    """Read a box that may reach past the image, which is mirrored there.

    Parameters
    ----------
    read : callable
        Gives a box within the image, (C, [Z,] Y, X).
    box : sequence of Span
        What to read, ([Z,] Y, X).
    shape : sequence of int
        Size of the image.

    Returns
    -------
    ndarray
        (C, [Z,] Y, X), of the shape of the box.
    """
    indices = [mirror(span, size) for span, size in zip(box, shape, strict=True)]
    within = [Span(int(index.min()), int(index.max()) + 1) for index in indices]
    block = read(within)
    for axis, (span, index, part) in enumerate(zip(box, indices, within, strict=True), start=1):
        if span != part:
            block = np.take(block, index - part.start, axis=axis)
    return block


def _tile(parts: Sequence[AxisTile]) -> Tile:
    return Tile(
        outer=tuple(part.outer for part in parts),
        inner=tuple(part.inner for part in parts),
        local=tuple(part.local for part in parts),
    )


def _plan_axis(size: int, region: Span, limit: int | None, reach: Reach) -> AxisTiles:
    return (_valid_axis if reach.loss else _same_axis)(size, region, limit, reach)


def _same_axis(size: int, region: Span, limit: int | None, reach: Reach) -> AxisTiles:
    """Tiles of one axis with same convolution: they end where the (padded) image ends."""
    p, halo, rule = reach.multiple, reach.halo, reach.rule
    padded = rule.above(size)
    low = max(0, round_down(region.start - halo, p))
    extent = min(padded, rule.above(min(padded, region.stop + halo) - low))
    low, high = min(low, padded - extent), min(low + extent, padded)
    largest = _smaller(limit, reach.largest)
    count, tile = 1, extent
    if largest is not None and largest < extent:
        most = _check_tile(largest, reach)
        count = 1 + -(-(extent - most) // reach.step(most))
        tile = rule.above(-(-(extent + (count - 1) * 2 * halo) // count))
        while tile + (count - 1) * reach.step(tile) < extent:
            tile += p
    # The last tile shifts inwards: it keeps the common size and ends with the image.
    return AxisTiles(region, count, tile, low, high - tile, reach.step(tile), halo, 0)


def _valid_axis(size: int, region: Span, limit: int | None, reach: Reach) -> AxisTiles:
    """Tiles of one axis with valid convolution: each output box begins on the same phase of P."""
    del size  # what lies outside the image is mirrored
    p, margin = reach.multiple, 2 * reach.margin
    first = round_down(region.start, p)
    need = region.stop - first
    tile = reach.rule.above(margin + need)
    count = 1
    step = need
    largest = _smaller(limit, reach.largest)
    if largest is not None and largest < tile:
        largest_step = reach.step(_check_tile(largest, reach))
        count = -(-need // largest_step)
        step = round_up(-(-need // count), p)
        tile = reach.rule.above(margin + step)
    before = reach.loss + reach.trim
    start = first - before
    last = start + (count - 1) * step
    return AxisTiles(region, count, tile, start, last, step, before, reach.loss)


def _spans(shape: Sequence[int], region: Sequence[Span | slice] | None) -> tuple[Span, ...]:
    parts = [slice(None)] * len(shape) if region is None else region
    return tuple(
        resolve_span(part, size, f"axis {axis}")
        for axis, (part, size) in enumerate(zip(parts, shape, strict=True))
    )


def _check_lengths(dim: int, **given: Sequence[object] | None) -> None:
    for name, value in given.items():
        if value is not None and not isinstance(value, Sequence):
            raise ShapeError(f"{name}={value!r} must be a sequence of {dim} values, one per axis.")
        if value is not None and len(value) != dim:
            raise ShapeError(
                f"{name}={tuple(value)} has {len(value)} axes, and the network is {dim}D. "
                f"Give {dim} values, ({'Y, X' if dim == 2 else 'Z, Y, X'})."
            )


def _check_integers(tile_shape: Sequence[Any]) -> list[int]:
    for size in tile_shape:
        if isinstance(size, bool) or not isinstance(size, Integral):
            raise ShapeError(
                f"tile_shape={tuple(tile_shape)!r} holds {size!r}, and sizes are whole numbers of "
                "voxels. Give integers, such as 256."
            )
    return [int(size) for size in tile_shape]


def _smaller(limit: int | None, other: int | None) -> int | None:
    given = [value for value in (limit, other) if value is not None]
    return min(given, default=None)


def _check_tile(largest: int, reach: Reach) -> int:
    """Return the largest size the network takes, at most `largest`."""
    most = reach.rule.below(largest)
    if most is not None and largest >= reach.smallest_tile:
        return most
    if reach.largest == reach.rule.smallest:
        raise ShapeError(
            f"Tile size {largest} is not possible: this network takes images of {reach.largest} "
            "and no other size. Leave the tile size out."
        )
    raise ShapeError(
        f"Tile size {largest} is too small: this network needs at least {reach.smallest_tile} "
        f"(what the surroundings take on both sides, and one multiple of {reach.multiple}), or the "
        "whole axis where the image is shorter. Use a larger tile."
    )
