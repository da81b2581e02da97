"""`Engine`: computes and decides the tiles of one job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetari.core.tiles import Span, Tile, plan_tiles
from unetari.errors import Cancelled, OutOfMemoryError
from unetari.inference.blend import Blend
from unetari.inference.frozen import Statistics
from unetari.inference.job import FIXED, Frame, Job
from unetari.inference.memory import Tiling, choose_tiling, shrink
from unetari.inference.precision import (
    PrecisionCheck,
    check_precision,
    choose_sample,
    find_precisions,
    is_worth_it,
)
from unetari.inference.reader import Reader
from unetari.inference.record import Seams
from unetari.inference.rescale import restore
from unetari.inference.runner import Precision, Result, Runner
from unetari.inference.seams import measure_seams
from unetari.model.decisions import to_labels, to_scores
from unetari.model.device import resolve_device


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


_SPLIT = (
    "Memory did not suffice for one tile, and the network sees its whole input at once: results "
    "can differ at the borders of the tiles, which was not measured."
)
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
        self._statistics = Statistics(job, self._read)
        self._ready_for: Frame | None = None
        self._blend: tuple[Frame, Blend] | None = None
        self.checks: tuple[PrecisionCheck, ...] = ()
        """How faster formats than float32 did on a sample."""
        self._written_voxels = 0
        self.tiling = Tiling(job.plan.tile_shape, job.strip)
        """Largest tiles and strips; smaller than planned once memory has run short."""

    def close(self) -> None:
        """Stop reading."""
        self._read.close()

    def compute(
        self, frame: Frame, tile: Tile, following: tuple[Frame, Tile] | None = None
    ) -> Iterator[tuple[Tile, Decided]]:
        """Yield what was decided for what a tile writes, in parts where it comes in strips.

        Nothing if no voxel of the image belongs to a tile of the rescaled one. The
        `following` tile is read meanwhile.
        """
        if self._job.norm_statistics == "blended":
            yield from self._compute_blended(frame, tile, following)
            return
        if not all(span.size > 0 for span in self._written(tile)):
            return
        self._get_ready(frame)
        if self.tiling.tile_shape == self._job.plan.tile_shape:
            yield from self._try(frame, tile, following)
        else:
            yield from self._compute_in_parts(frame, tile)

    def _compute_blended(
        self, frame: Frame, tile: Tile, following: tuple[Frame, Tile] | None
    ) -> Iterator[tuple[Tile, Decided]]:
        """Add a tile to the others over it; the last one of a band brings what is complete."""
        self._get_ready(frame)
        if self._blend is None or self._blend[0] != frame:
            config = self._job.model.spec.config
            self._blend = frame, Blend(self._job.plan, config, self._job.rim)
        blend = self._blend[1]
        block = self._read(frame, tile.outer)
        if following is not None:
            self._read.start(following[0], following[1].outer)
        self._check()
        try:
            complete = self._score(block, tile, lambda scores: blend.add(tile, scores))
        except OutOfMemoryError as error:
            advice = "Free memory, use another device, or give smaller tiles."
            raise OutOfMemoryError(f"{error} {advice}") from error
        if complete is not None:
            done = replace(tile, inner=complete[0])
            if all(span.size > 0 for span in self._written(done)):
                yield done, self._decide_scores(complete[1], done)

    def _score(
        self, block: NDArray[np.float32], tile: Tile, use: Callable[[Tensor], Result]
    ) -> Result:
        """Do something with the probabilities, (classes, [Z,] Y, X), of what a tile covers."""
        config, part = self._job.model.spec.config, [span.slice for span in tile.local]
        return cast("Runner", self._runner)(block, part, lambda new: use(to_scores(new, config)))

    def _compute_in_parts(self, frame: Frame, tile: Tile) -> Iterator[tuple[Tile, Decided]]:
        """Compute a tile as smaller ones."""
        parts = plan_tiles(
            self._job.plan.shape,
            self._job.model.spec.config,
            tile_shape=self.tiling.tile_shape,
            region=tile.inner,
            rim=self._job.rim,
        )
        planned = self.tiling.tile_shape
        for part in parts:
            if not all(span.size > 0 for span in self._written(part)):
                continue
            if self.tiling.tile_shape == planned:
                yield from self._try(frame, part)
            else:  # memory ran short within a part before
                yield from self._compute_in_parts(frame, part)

    def _try(
        self, frame: Frame, tile: Tile, following: tuple[Frame, Tile] | None = None
    ) -> Iterator[tuple[Tile, Decided]]:
        """Compute a tile; what does not fit in memory is computed in smaller parts."""
        done = 0
        try:
            for part, decided in self._compute_strips(frame, tile, following):
                done += part.inner[0].size
                yield part, decided
            return
        except MemoryError as error:
            smaller = shrink(
                self.tiling,
                self._job.model.spec.config,
                self._job.rim,
                in_strips=cast("Runner", self._runner).takes_strips,
            )
            if smaller is None:
                raise OutOfMemoryError(
                    f"{error} It is the smallest tile this network allows. Free memory, use "
                    "another device, or a network with fewer blocks or filters."
                ) from error
        self.tiling = smaller
        self._read.forget()  # what was read ahead is as large as what did not fit
        rest = Span(tile.inner[0].start + done, tile.inner[0].stop)
        if rest.size > 0:
            yield from self._compute_in_parts(frame, replace(tile, inner=(rest, *tile.inner[1:])))

    def _compute_strips(
        self, frame: Frame, tile: Tile, following: tuple[Frame, Tile] | None
    ) -> Iterator[tuple[Tile, Decided]]:
        """Compute a tile strip by strip, as far as the network allows that."""
        runner = cast("Runner", self._runner)
        strips = self._strips(tile)
        boxes = [(frame, strip) for strip in strips]
        if following is not None:
            boxes.append((following[0], self._strips(following[1])[0]))
        block = runner.start(tile.shape, self._needed(tile))
        gathered: list[Tensor] = []
        written = tile.inner[0].start
        for number in range(len(strips)):
            if written == tile.inner[0].stop:
                return  # what would still be read, nothing depends on
            rows = self._read(*boxes[number])
            if number + 1 < len(boxes):
                self._read.start(*boxes[number + 1])
            self._check()
            for decided in runner.push(block, rows, lambda new: self._decide(new, tile, gathered)):
                if decided is None:
                    continue
                if self._job.scaling is not None:
                    written = tile.inner[0].stop
                    yield tile, decided
                    continue
                span = Span(written, written + decided[0].shape[0])
                written = span.stop
                yield replace(tile, inner=(span, *tile.inner[1:])), decided

    def _strips(self, tile: Tile) -> list[tuple[Span, ...]]:
        """Return the boxes in which a tile is read."""
        rows, *others = tile.outer
        takes_strips = cast("Runner", self._runner).takes_strips
        strip = self.tiling.strip if takes_strips else rows.size
        starts = range(rows.start, rows.stop, strip)
        return [(Span(start, min(start + strip, rows.stop)), *others) for start in starts]

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

    def _decide(self, new: Tensor, tile: Tile, gathered: list[Tensor]) -> Decided | None:
        """Decide what a tile writes, given the next rows of the logits that it needs.

        The scores of a rescaled image are gathered, and decided when they are complete.
        """
        config, scaling = self._job.model.spec.config, self._job.scaling
        if scaling is None:
            labels = to_labels(new, config)
            scores = to_scores(new, config) if self._job.wants_scores else None
        else:
            gathered.append(to_scores(new, config))
            around = scaling.around(tile.inner)
            if sum(rows.shape[1] for rows in gathered) < around[0].size:
                return None
            complete = torch.cat(gathered, dim=1)
            gathered.clear()
            return self._decide_scores(complete, tile)
        return labels.cpu().numpy(), None if scores is None else scores.cpu().numpy()

    def _decide_scores(self, scores: Tensor, tile: Tile) -> Decided:
        """Decide what a tile writes, given the probabilities of it and its rim."""
        scaling = self._job.scaling
        if scaling is not None:
            # On the image's own grid, where outlines can be finer than on a coarse one.
            scores = restore(scores, scaling, scaling.around(tile.inner), self._written(tile))
        labels = to_labels(scores, self._job.model.spec.config, is_scores=True).cpu().numpy()
        return labels, scores.cpu().numpy() if self._job.wants_scores else None

    def _check(self) -> None:
        if self._should_stop():
            raise Cancelled("Stopped on request.")

    def _get_ready(self, frame: Frame) -> None:
        """Prepare the network for a frame; where it fails, no smaller tile would help."""
        job = self._job
        if self._runner is None:
            device = resolve_device(job.device)
            self._runner = Runner(
                job.model.network, device, self._should_stop, frozen=job.norm_statistics in FIXED
            )
            if job.strip < job.plan.tile_shape[0] and not self._runner.takes_strips:
                self.tiling = choose_tiling(
                    job.plan.shape,
                    job.model.spec.config,
                    region=job.plan.region,
                    budget=job.budget,
                    on_cpu=device.type == "cpu",
                    scaling=job.scaling,
                    in_strips=False,
                )
            self._statistics.find(self._runner, frame)
            self._runner = self._choose_precision(self._runner, frame)
        elif self._ready_for != frame:
            self._statistics.find(self._runner, frame)
        self._ready_for = frame

    def _choose_precision(self, exact: Runner, frame: Frame) -> Runner:
        """Return a runner in the fastest format that may be used, judged by a sample."""
        job, config = self._job, self._job.model.spec.config
        names = find_precisions(job.precision, exact.device, job.model.network)
        faster = [name for name in names if name != "float32"]
        if not faster or not exact.is_lean:
            return exact
        sample = choose_sample(job.plan, config, job.rim)
        if job.precision == "auto" and not is_worth_it(sample, job.plan, len(job.frames)):
            return exact
        block, part = self._read(frame, sample.outer), self._needed(sample)
        try:
            expected = exact(block, part, Tensor.clone)
            for name in faster:
                runner = exact.in_precision(name)
                self._statistics.find(runner, frame)
                check = check_precision(runner, expected, block, part, config)
                self.checks += (check,)
                if check.passes or job.precision != "auto":
                    return runner
        except OutOfMemoryError:
            return exact  # which runs short of memory, too, and computes smaller parts
        return exact

    @property
    def progress(self) -> float:
        """Share of the job's voxels that are finished, 0 to 1."""
        return self._written_voxels / prod(self._job.labels_shape)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the network is run."""
        notes = () if self._runner is None else self._runner.notes
        return notes if self.is_exact or not self._job.is_exact else (*notes, _SPLIT)

    @property
    def is_exact(self) -> bool:
        """Whether the result is that of one pass over the whole image, to rounding."""
        job = self._job
        can_split = job.norm_statistics == "whole" or job.model.spec.config.tiles_exactly
        return job.is_exact and (can_split or self.tiling.tile_shape == job.plan.tile_shape)

    @property
    def precision(self) -> Precision:
        """The floating-point format in use."""
        return "float32" if self._runner is None else self._runner.precision

    def result(self, index: int, frame: Frame, tile: Tile, decided: Decided) -> TileResult:
        """Bring what was decided for a tile into the axes of the labels."""
        job = self._job
        labels, scores = decided
        self._written_voxels += labels.size
        spans = dict(zip(job.source.spatial_axes(self._dim), self._written(tile), strict=True))
        spans |= {axis: Span(at, at + 1) for axis, at in frame.items()}
        where = tuple(
            spans[axis].shifted(-part.start).slice
            for axis, part in zip(job.source.label_axes, job.region, strict=True)
        )
        return TileResult(
            index=index,
            total=job.n_tiles,
            progress=self.progress,
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
        config, plan = self._job.model.spec.config, self._job.plan
        if self._job.is_exact or self.tiling.tile_shape != plan.tile_shape:
            return None
        frame = self._job.frames[0]
        try:
            self._get_ready(frame)
            if self._job.norm_statistics == "blended":
                blend = Blend(plan, config)
                return blend.measure(
                    config,
                    lambda tile: self._score(self._read(frame, tile.outer), tile, Tensor.clone),
                )
            return measure_seams(plan, config, lambda tile: self._logits_of(frame, tile))
        except (Cancelled, MemoryError):
            return None

    def _logits_of(self, frame: Frame, tile: Tile) -> Tensor:
        """Return the logits of all of a tile, (classes, [Z,] Y, X)."""
        runner = cast("Runner", self._runner)
        block, logits = runner.start(tile.shape), []
        for strip in self._strips(tile):
            rows = self._read(frame, strip)
            self._check()
            logits += list(runner.push(block, rows, Tensor.clone))
        return torch.cat(logits, dim=1)
