"""`Decisions`: which voxels a tile writes, what it needs for that, and what is decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetari.core.tiles import Span, Tile
from unetari.inference.job import Frame, Job
from unetari.inference.rescale import restore
from unetari.inference.transfer import Transfer
from unetari.model.decisions import to_labels, to_scores


@dataclass(frozen=True)
class TileResult:
    """A finished part of one tile."""

    index: int
    """Number of the tile, from 0; the parts in which a tile comes share it."""
    total: int
    """Number of tiles of the job."""
    progress: float
    """Share of the job's voxels that are finished with this one, 0 to 1."""
    where: tuple[slice, ...]
    """Where it belongs in an array of `Job.labels_shape`."""
    labels: NDArray[np.unsignedinteger[Any]]
    """Class per voxel, uint8 (uint16 beyond 256 classes), one axis per label axis."""
    scores: NDArray[np.float32] | None
    """Probabilities, (classes, ...), if the job asks for them."""


class Decided(NamedTuple):
    """Labels and scores that are on their way from the device."""

    labels: Callable[[], NDArray[Any]]
    """Waits for the labels, ([Z,] Y, X)."""
    scores: Callable[[], NDArray[np.float32]] | None
    """Waits for the scores, (classes, [Z,] Y, X), if the job asks for them."""
    rows: int
    """How many rows they have."""


class Part(NamedTuple):
    """What was decided for a part of a tile."""

    frame: Frame
    """The plane or volume."""
    tile: Tile
    """The tile, whose inner box is the part."""
    decided: Decided
    """Its labels and scores."""


class Decisions:
    """Decides labels and scores of a job.

    Parameters
    ----------
    job : Job
        The image, its rescaling, and what is asked for.
    transfer : Transfer
        The way back from the device.
    """

    def __init__(self, job: Job, transfer: Transfer) -> None:
        self._job = job
        self._config = job.model.spec.config
        self._transfer = transfer
        self._written_voxels = 0

    @property
    def progress(self) -> float:
        """Share of the job's voxels that were fetched, 0 to 1."""
        return self._written_voxels / prod(self._job.labels_shape)

    def written(self, tile: Tile) -> tuple[Span, ...]:
        """Return the box of the image that a tile writes."""
        scaling = self._job.scaling
        if scaling is None:
            return tile.inner
        # At the ends of a region, rescaled voxels have neighbours of the image outside of it.
        within = zip(scaling.written(tile.inner), self._job.spatial_region, strict=True)
        return tuple(
            Span(max(span.start, part.start), min(span.stop, part.stop)) for span, part in within
        )

    def needed(self, tile: Tile) -> tuple[slice, ...]:
        """Return the part of the network's output that a tile needs."""
        scaling = self._job.scaling
        if scaling is None:
            return tuple(span.slice for span in tile.local)
        return tuple(
            span.shifted(local.start - inner.start).slice
            for span, local, inner in zip(
                scaling.around(tile.inner), tile.local, tile.inner, strict=True
            )
        )

    def decide(self, new: Tensor, tile: Tile, gathered: list[Tensor]) -> Decided | None:
        """Decide what a tile writes, given the next rows of the logits that it needs.

        The scores of a rescaled image are gathered, and decided when they are complete.
        """
        scaling = self._job.scaling
        if scaling is None:
            scores = to_scores(new, self._config) if self._job.wants_scores else None
            return self._send_back(to_labels(new, self._config), scores)
        gathered.append(to_scores(new, self._config))
        around = scaling.around(tile.inner)
        if sum(rows.shape[1] for rows in gathered) < around[0].size:
            return None
        complete = torch.cat(gathered, dim=1)
        gathered.clear()
        return self.decide_scores(complete, tile)

    def decide_scores(self, scores: Tensor, tile: Tile) -> Decided:
        """Decide what a tile writes, given the probabilities of it and its rim."""
        scaling = self._job.scaling
        if scaling is not None:
            # On the image's own grid, where outlines can be finer than on a coarse one.
            scores = restore(scores, scaling, scaling.around(tile.inner), self.written(tile))
        labels = to_labels(scores, self._config, is_scores=True)
        return self._send_back(labels, scores if self._job.wants_scores else None)

    def _send_back(self, labels: Tensor, scores: Tensor | None) -> Decided:
        fetch = self._transfer.fetch
        return Decided(fetch(labels), None if scores is None else fetch(scores), len(labels))

    def fetch(self, index: int, part: Part) -> TileResult:
        """Wait for what was decided for a tile, and bring it into the axes of the labels."""
        job, decided = self._job, part.decided
        labels = decided.labels()
        self._written_voxels += labels.size
        axes = job.source.spatial_axes(self._config.dim)
        spans = dict(zip(axes, self.written(part.tile), strict=True))
        spans |= {axis: Span(at, at + 1) for axis, at in part.frame.items()}
        where = tuple(
            spans[axis].shifted(-bounds.start).slice
            for axis, bounds in zip(job.source.label_axes, job.region, strict=True)
        )
        return TileResult(
            index=index,
            total=job.n_tiles,
            progress=self.progress,
            where=where,
            labels=self._to_label_axes(labels),
            scores=None if decided.scores is None else self._to_label_axes(decided.scores()),
        )

    def _to_label_axes(self, array: NDArray[Any]) -> NDArray[Any]:
        """Give ([classes,] [Z,] Y, X) the loop axes too, of length 1."""
        source = self._job.source
        spatial = source.spatial_axes(self._config.dim)
        lead = array.ndim - len(spatial)
        loops = [lead + at for at, axis in enumerate(source.label_axes) if axis not in spatial]
        return np.expand_dims(array, tuple(loops))
