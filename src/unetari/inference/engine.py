"""`Engine`: computes and decides the tiles of one job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unetari.core.tiles import Span, Tile, plan_tiles
from unetari.errors import Cancelled, OutOfMemoryError
from unetari.inference.frozen import sample_boxes
from unetari.inference.job import Frame, Job
from unetari.inference.memory import shrink
from unetari.inference.precision import PrecisionCheck, check_precision, find_precisions
from unetari.inference.reader import Reader
from unetari.inference.record import Seams
from unetari.inference.rescale import restore
from unetari.inference.runner import Precision, Result, Runner
from unetari.inference.seams import measure_seams
from unetari.model.decisions import to_labels, to_scores
from unetari.model.device import resolve_device


@dataclass(frozen=True)
class TileResult:
    """The finished part of one tile."""

    index: int
    """Number of the tile, from 0; parts of a tile that was split share it."""
    total: int
    """Number of tiles of the job."""
    where: tuple[slice, ...]
    """Where it belongs in an array of `Job.labels_shape`."""
    labels: NDArray[np.unsignedinteger[Any]]
    """Class per voxel, uint8 (uint16 beyond 256 classes), one axis per label axis."""
    scores: NDArray[np.float32] | None
    """Probabilities, (classes, ...), if the job asks for them."""


Decided = tuple[NDArray[Any], NDArray[np.float32] | None]
"""Labels, ([Z,] Y, X), and if the job asks for them scores, (classes, [Z,] Y, X)."""


class Engine:
    """Computes the tiles of one job, and decides labels and scores."""

    def __init__(self, job: Job, should_stop: Callable[[], bool]) -> None:
        self._job = job
        self._dim = job.model.spec.config.dim
        self._should_stop = should_stop
        self._read = Reader(job, should_stop)
        self._runner: Runner | None = None
        self._samples: tuple[Frame, NDArray[np.float32]] | None = None
        self.checks: tuple[PrecisionCheck, ...] = ()
        """How faster formats than float32 did on the first tile."""
        self._following: tuple[Frame, Tile] | None = None
        self.tile_shape = job.plan.tile_shape
        """Largest outer size of a tile; smaller than planned once memory has run short."""

    def close(self) -> None:
        """Stop reading."""
        self._read.close()

    def compute(
        self, frame: Frame, tile: Tile, following: tuple[Frame, Tile] | None = None
    ) -> Iterator[tuple[Tile, Decided]]:
        """Yield what was decided for what a tile writes, in parts once memory has run short.

        Nothing if no voxel of the image belongs to a tile of the rescaled one. The
        `following` tile is read meanwhile.
        """
        self._following = following if self._fits_as_planned else None
        if not all(span.size > 0 for span in self._written(tile)):
            return
        self._get_ready(frame, tile)
        if self._fits_as_planned:
            decided = self._try(frame, tile)
            if decided is not None:
                yield tile, decided
                return
        yield from self._compute_in_parts(frame, tile)

    @property
    def _fits_as_planned(self) -> bool:
        return self.tile_shape == self._job.plan.tile_shape

    def _compute_in_parts(self, frame: Frame, tile: Tile) -> Iterator[tuple[Tile, Decided]]:
        parts = plan_tiles(
            self._job.plan.shape,
            self._job.model.spec.config,
            tile_shape=self.tile_shape,
            region=tile.inner,
            rim=self._job.rim,
        )
        for part in parts:
            if not all(span.size > 0 for span in self._written(part)):
                continue
            decided = self._try(frame, part)
            if decided is None:
                yield from self._compute_in_parts(frame, part)
            else:
                yield part, decided

    def _try(self, frame: Frame, tile: Tile) -> Decided | None:
        """Compute one tile; lower the limit and return None if it does not fit in memory."""
        try:
            part = self._needed(tile)
            return self._compute(frame, tile.outer, part, lambda output: self._decide(output, tile))
        except MemoryError as error:
            smaller = shrink(tile.shape, self._job.model.spec.config, self._job.rim)
            if smaller is None:
                raise OutOfMemoryError(
                    f"{error} It is the smallest tile this network allows. Free memory, use "
                    "another device, or a network with fewer blocks or filters."
                ) from error
        self.tile_shape = smaller
        self._read.forget()  # what was read ahead is as large as what did not fit
        return None

    def _written(self, tile: Tile) -> tuple[Span, ...]:
        """Return the box of the image that a tile writes."""
        scaling = self._job.scaling
        if scaling is None:
            return tile.inner
        # At the ends of a region, rescaled voxels have neighbours of the image outside of it.
        within = zip(scaling.written(tile.inner), self._job.spatial_region, strict=True)
        return tuple(
            Span(max(span.start, part.start), min(span.stop, part.stop)) for span, part in within
        )

    def _needed(self, tile: Tile) -> tuple[slice, ...]:
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

    def _decide(self, output: Tensor, tile: Tile) -> Decided:
        """Decide what a tile writes, given the part of the network's output that it needs."""
        config, scaling = self._job.model.spec.config, self._job.scaling
        if scaling is None:
            labels = to_labels(output, config)
            scores = to_scores(output, config) if self._job.wants_scores else None
        else:
            # Decided on the image's own grid, where outlines can be finer than on a coarse one.
            restored = restore(
                to_scores(output, config),
                scaling,
                scaling.around(tile.inner),
                self._written(tile),
            )
            labels = to_labels(restored, config, is_scores=True)
            scores = restored if self._job.wants_scores else None
        return labels.cpu().numpy(), None if scores is None else scores.cpu().numpy()

    def _compute(
        self,
        frame: Frame,
        outer: Sequence[Span],
        part: Sequence[slice] | None,
        decide: Callable[[Tensor], Result],
    ) -> Result:
        """Compute an outer box, or the needed part of the output for it."""
        block = self._read(frame, outer)
        if self._following is not None:
            self._read.start(self._following[0], self._following[1].outer)
            self._following = None
        if self._should_stop():
            raise Cancelled("Stopped on request.")
        return cast("Runner", self._runner)(block, part, decide)

    def _get_ready(self, frame: Frame, tile: Tile) -> None:
        """Prepare the network for a frame; where it fails, no smaller tile would help."""
        job = self._job
        if self._runner is None:
            device = resolve_device(job.device)
            self._runner = Runner(
                job.model.network, device, self._should_stop, frozen_norm=job.frozen_norm
            )
            self._freeze(self._runner, frame)
            self._runner = self._choose_precision(self._runner, frame, tile)
        elif self._samples is not None and self._samples[0] != frame:
            self._freeze(self._runner, frame)

    def _freeze(self, runner: Runner, frame: Frame) -> None:
        """Give a runner the statistics of normalization that hold for a whole frame."""
        if not self._job.frozen_norm:
            return
        if self._samples is None or self._samples[0] != frame:
            boxes = sample_boxes(self._job.plan.shape, self._job.model.spec.config)
            self._samples = frame, np.stack([self._read(frame, box) for box in boxes])
        runner.freeze(self._samples[1])

    def _choose_precision(self, exact: Runner, frame: Frame, tile: Tile) -> Runner:
        """Return a runner in the fastest format that may be used, judged by the first tile."""
        job = self._job
        names = find_precisions(job.precision, exact.device, job.model.network, job.n_tiles)
        faster = [name for name in names if name != "float32"]
        if not faster or not exact.is_lean:
            return exact
        block, part = self._read(frame, tile.outer), self._needed(tile)
        try:
            expected = exact(block, part, Tensor.clone)
            for name in faster:
                runner = exact.in_precision(name)
                self._freeze(runner, frame)
                check = check_precision(runner, expected, block, part, job.model.spec.config)
                self.checks += (check,)
                if check.passes or job.precision != "auto":
                    return runner
        except OutOfMemoryError:
            return exact  # which runs short of memory, too, and computes the tile in parts
        return exact

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the network is run."""
        return () if self._runner is None else self._runner.notes

    @property
    def precision(self) -> Precision:
        """The floating-point format in use."""
        return "float32" if self._runner is None else self._runner.precision

    def result(self, index: int, frame: Frame, tile: Tile, decided: Decided) -> TileResult:
        """Bring what was decided for a tile into the axes of the labels."""
        job = self._job
        labels, scores = decided
        spans = dict(zip(job.source.spatial_axes(self._dim), self._written(tile), strict=True))
        spans |= {axis: Span(at, at + 1) for axis, at in frame.items()}
        where = tuple(
            spans[axis].shifted(-part.start).slice
            for axis, part in zip(job.source.label_axes, job.region, strict=True)
        )
        return TileResult(
            index=index,
            total=job.n_tiles,
            where=where,
            labels=self._to_label_axes(labels),
            scores=None if scores is None else self._to_label_axes(scores),
        )

    def _to_label_axes(self, array: NDArray[Any]) -> NDArray[Any]:
        """Give ([classes,] [Z,] Y, X) the loop axes too, of length 1."""
        source = self._job.source
        spatial = source.spatial_axes(self._dim)
        lead = array.ndim - len(spatial)
        loops = [lead + at for at, axis in enumerate(source.label_axes) if axis not in spatial]
        return np.expand_dims(array, tuple(loops))

    def measure_seams(self) -> Seams | None:
        """Measure how the tiling shows, where the network cannot be tiled exactly.

        None if the network is exact, the tiles are no longer those of the plan,
        or the user or the memory cuts the measurement short: the labels are done.
        """
        if self._job.model.spec.config.tiles_exactly or not self._fits_as_planned:
            return None
        frame = self._job.frames[0]
        try:
            self._get_ready(frame, self._job.plan[0])
            return measure_seams(
                self._job.plan,
                self._job.model.spec.config,
                lambda tile: self._compute(frame, tile.outer, None, Tensor.clone),
            )
        except (Cancelled, MemoryError):
            return None
