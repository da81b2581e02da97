"""`Blend`: the mean of tiles that overlap, band by band, and how much it depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from unetari.core.blending import blending_weights
from unetari.core.network import NetworkConfig
from unetari.core.tiles import Span, Tile, TilePlan
from unetari.inference.record import Seams
from unetari.inference.seams import compare

_BESIDE = 8  # voxels on each side of the edge of a tile
_EDGES = 2

Box = tuple[Span, ...]


class Blend:
    """The mean of the tiles of one image, which come in the order of their plan.

    Only the rows that further tiles can change are held.

    Parameters
    ----------
    plan : TilePlan
        From `plan_blended`.
    config : UNetConfig or ForeignConfig
        The network.
    rim : int
        Voxels around what is written that come with it.
    """

    def __init__(self, plan: TilePlan, config: NetworkConfig, rim: int = 0) -> None:
        self._plan, self._rim = plan, rim
        self._weights = [
            {tile.inner: torch.from_numpy(weight) for tile, weight in zip(tiles, each, strict=True)}
            for tiles, each in zip(plan.axes, blending_weights(plan, config), strict=True)
        ]
        self._origin = [tiles[0].inner.start for tiles in plan.axes]
        self._sizes = [tiles[-1].inner.stop - tiles[0].inner.start for tiles in plan.axes]
        self._sum: Tensor | None = None
        self._added = 0
        self._written = plan.region[0].start

    def add(self, tile: Tile, scores: Tensor) -> tuple[Box, Tensor] | None:
        """Add the probabilities, (classes, [Z,] Y, X), of what a tile covers.

        Returns
        -------
        tuple or None
            After the last tile of a band the box that no further tile changes, and its
            probabilities, those of the rim included.
        """
        total = self._extend(tile.inner[0].stop, scores)
        total[_cut(tile.inner, self._origin)] += self._weigh(tile, scores)
        self._added += 1
        band, position = divmod(self._added, prod(self._plan.grid[1:]))
        return None if position else self._finish(total, band)

    def _weigh(self, tile: Tile, scores: Tensor) -> Tensor:
        for axis, inner in enumerate(tile.inner):
            weights = self._weights[axis][inner].to(scores.device)
            scores = scores * weights.view([-1, *[1] * (len(tile.inner) - axis - 1)])
        return scores

    def _extend(self, stop: int, like: Tensor) -> Tensor:
        """Return the sums, up to a row."""
        rows = 0 if self._sum is None else self._sum.shape[1]
        missing = max(0, stop - self._origin[0] - rows)
        if self._sum is None or missing:
            zeros = like.new_zeros((like.shape[0], missing, *self._sizes[1:]))
            self._sum = zeros if self._sum is None else torch.cat((self._sum, zeros), dim=1)
        return self._sum

    def _finish(self, total: Tensor, band: int) -> tuple[Box, Tensor] | None:
        """Give what is complete, and let go of what nobody needs any more."""
        rows, *others = self._plan.region
        stop = rows.stop
        if band < self._plan.grid[0]:
            stop = min(stop, self._plan.axes[0][band].inner.start - self._rim)
        if stop <= self._written:
            return None
        inner = (Span(self._written, stop), *others)
        self._written = stop
        around = [
            Span(max(0, span.start - self._rim), min(size, span.stop + self._rim))
            for span, size in zip(inner, self._plan.shape, strict=True)
        ]
        found = total[_cut(around, self._origin)]
        keep = max(self._origin[0], stop - self._rim)
        self._sum = total[:, keep - self._origin[0] :].clone()
        self._origin[0] = keep
        return inner, found

    def measure(self, config: NetworkConfig, scores_of: Callable[[Tile], Tensor]) -> Seams | None:
        """Compare the mean beside edges of tiles with that of tiles shifted by a quarter.

        Parameters
        ----------
        config : UNetConfig or ForeignConfig
            The network.
        scores_of : callable
            Gives the probabilities, (classes, [Z,] Y, X), of what a tile covers.

        Returns
        -------
        Seams or None
            None if no tile begins within the image.
        """
        pairs = [
            (self._mean(box, scores_of, (0,) * len(box)), self._mean(box, scores_of, shift))
            for box, shift in self._edges()
        ]
        return compare(pairs, config, len(pairs)) if pairs else None

    def _edges(self) -> Iterator[tuple[Box, Sequence[int]]]:
        """Yield boxes at edges of tiles, and a shift across the edge."""
        axes = [axis for axis, tiles in enumerate(self._plan.axes) if len(tiles) > 1]
        for axis in axes[-_EDGES:]:
            middle = [tiles[len(tiles) // 2].inner for tiles in self._plan.axes]
            box = [Span(span.start, span.start + (span.size + 1) // 2) for span in middle]
            edge = middle[axis].start
            box[axis] = Span(max(0, edge - _BESIDE), edge + min(_BESIDE, middle[axis].size))
            shift = middle[axis].size // 4
            yield tuple(box), [shift if at == axis else 0 for at in range(len(box))]

    def _mean(self, box: Box, scores_of: Callable[[Tile], Tensor], shift: Sequence[int]) -> Tensor:
        total, weight = torch.zeros(()), torch.zeros(())
        for tile in self._plan:
            inner = _shift(tile.inner, shift)
            common = [
                Span(max(one.start, other.start), min(one.stop, other.stop))
                for one, other in zip(inner, box, strict=True)
            ]
            if any(span.size <= 0 for span in common):
                continue
            scores = scores_of(replace(tile, outer=_shift(tile.outer, shift)))
            if not weight.ndim:
                total = scores.new_zeros((len(scores), *(span.size for span in box)))
                weight = total[:1].clone()
            part, here = _cut(common, _starts(inner)), _cut(common, _starts(box))
            total[here] += self._weigh(tile, scores)[part]
            weight[here] += self._weigh(tile, torch.ones_like(scores[:1]))[part]
        return total / weight


def _starts(box: Sequence[Span]) -> list[int]:
    return [span.start for span in box]


def _shift(box: Sequence[Span], shift: Sequence[int]) -> Box:
    return tuple(span.shifted(by) for span, by in zip(box, shift, strict=True))


def _cut(box: Sequence[Span], origin: Sequence[int]) -> tuple[slice, ...]:
    """Return the index of a box in an array, (classes, [Z,] Y, X), that begins elsewhere."""
    cuts = (span.shifted(-at).slice for span, at in zip(box, origin, strict=True))
    return (slice(None), *cuts)
