"""Measured disagreement at tile borders, for networks that cannot be tiled exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from unetari.core.network import NetworkConfig
from unetari.core.tiles import Span, Tile, TilePlan
from unetari.inference.record import Seams
from unetari.model.decisions import to_labels, to_scores

_BORDERS = 2
_STRIP = 8  # voxels on each side of a border


def measure_seams(
    plan: TilePlan, config: NetworkConfig, logits_of: Callable[[Tile], Tensor]
) -> Seams | None:
    """Compare what was written beside tile borders with a tile centred on the border.

    Parameters
    ----------
    plan : TilePlan
        The tiles.
    config : UNetConfig or ForeignConfig
        The network.
    logits_of : callable
        Gives the logits, (classes, [Z,] Y, X), of a tile's outer box.

    Returns
    -------
    Seams or None
        None if there is only one tile.
    """
    n_borders = sum(1 for _ in plan.neighbours())
    if not n_borders:
        return None
    every = -(-n_borders // _BORDERS)
    sampled = list(islice(plan.neighbours(), 0, None, every))
    pairs = [
        pair
        for axis, before, after in sampled
        for pair in _both_sides(plan, axis, before, after, logits_of)
    ]
    scores = [(to_scores(a, config), to_scores(b, config)) for a, b in pairs]
    return compare(scores, config, len(sampled))


def compare(scores: Sequence[tuple[Tensor, Tensor]], config: NetworkConfig, borders: int) -> Seams:
    """Describe how pairs of probabilities, (classes, [Z,] Y, X), found at borders, differ."""
    labels = [[to_labels(each, config, is_scores=True) for each in pair] for pair in scores]
    differences = torch.cat([(a - b).abs().flatten() for a, b in scores])
    changed = torch.cat([(a != b).flatten() for a, b in labels])
    return Seams(
        borders=borders,
        largest_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        changed_labels=float(changed.float().mean()),
    )


def _both_sides(
    plan: TilePlan, axis: int, before: Tile, after: Tile, logits_of: Callable[[Tile], Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits of a written strip and of the tile across the border, per side."""
    distance = after.outer[axis].start - before.outer[axis].start
    multiple = plan.multiple[axis]
    shift = max(distance // 2 // multiple, 1) * multiple
    outer = [span.shifted(shift if at == axis else 0) for at, span in enumerate(before.outer)]
    across = logits_of(replace(before, outer=tuple(outer)))
    origin = _origin(before)
    origin[axis] += shift
    cut = after.inner[axis].start
    reach = Span(origin[axis], origin[axis] + across.shape[1 + axis])
    for tile, side in ((before, Span(cut - _STRIP, cut)), (after, Span(cut, cut + _STRIP))):
        written = tile.inner[axis]
        box = list(tile.inner)
        box[axis] = Span(
            max(side.start, written.start, reach.start), min(side.stop, written.stop, reach.stop)
        )
        if box[axis].size > 0:
            yield _crop(logits_of(tile), _origin(tile), box), _crop(across, origin, box)


def _origin(tile: Tile) -> list[int]:
    """Where the network's output for a tile begins in the image."""
    return [inner.start - local.start for inner, local in zip(tile.inner, tile.local, strict=True)]


def _crop(logits: Tensor, origin: list[int], box: list[Span]) -> Tensor:
    cuts = (span.shifted(-start).slice for span, start in zip(box, origin, strict=True))
    return logits[(slice(None), *cuts)]
