"""`Engine`: computes and decides the tiles of one job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, tee, zip_longest
from typing import TypeVar, cast

import torch
from torch import Tensor

from unetari.core.tiles import Span, Tile, plan_tiles
from unetari.errors import Cancelled, DeviceError, OutOfMemoryError
from unetari.inference.blend import Blend
from unetari.inference.decide import Decided, Decisions, Part, TileResult
from unetari.inference.frozen import Statistics
from unetari.inference.job import Frame, Job
from unetari.inference.memory import Tiling, choose_tiling, most_values, shrink
from unetari.inference.planning import FIXED, split_evenly
from unetari.inference.precision import (
    PrecisionCheck,
    check_precision,
    choose_sample,
    find_precisions,
    is_worth_it,
)
from unetari.inference.reader import Frames, Reader
from unetari.inference.record import Seams
from unetari.inference.runner import Precision, Result, Runner
from unetari.inference.seams import measure_seams
from unetari.inference.shortage import attempt
from unetari.inference.transfer import Transfer
from unetari.inference.waiting import keep_runner, take_runner
from unetari.model.decisions import to_scores
from unetari.model.device import resolve_device

Item = TypeVar("Item")


_SPLIT = (
    "Memory did not suffice for one tile, and the network sees its whole input at once: results "
    "can differ at the borders of the tiles, which was not measured."
)
Task = tuple[Frames, Tile]
"""A tile of some planes or volumes, which pass through the network together."""


class Engine:
    """Computes the tiles of one job, and decides labels and scores."""

    def __init__(self, job: Job, should_stop: Callable[[], bool]) -> None:
        self._job = job
        self._config = job.model.spec.config
        self._should_stop = should_stop
        self._device = resolve_device(job.device)
        self._transfer = Transfer(self._device)
        self._read = Reader(job, self._transfer, should_stop)
        self._decisions = Decisions(job, self._transfer)
        self._runner: Runner | None = None
        self._exact: Runner | None = None
        self._statistics = Statistics(job, self._read)
        self._ready_for: Frame | None = None
        self._blend: tuple[Frame, Blend] | None = None
        self.checks: tuple[PrecisionCheck, ...] = ()
        """How faster formats than float32 did on a sample."""
        self.tiles_done = 0
        """Number of tiles that are finished."""
        self.tiling = Tiling(job.plan.tile_shape, job.strip, job.batch)
        """Largest tiles, strips and batches; smaller than planned once memory has run short."""

    def close(self) -> None:
        """Stop reading; leave the network to the next run."""
        self._read.close()
        if self._exact is not None:
            keep_runner(self._job.model, self._exact)

    def compute(self) -> Iterator[TileResult]:
        """Yield everything the job asks for, in parts where a tile comes in strips."""
        parts = self._compute_all()
        # The device computes on while what it decided before is fetched.
        for index, part in one_behind(parts) if self._transfer.is_asynchronous else parts:
            yield self._decisions.fetch(index, part)

    def _compute_all(self) -> Iterator[tuple[int, Part]]:
        """Compute tile by tile; with each part comes the number of its tile."""
        tasks = ((frames, tile) for frames in self._job.groups for tile in self._job.plan)
        for (frames, tile), following in _with_following(tasks):
            for part in self._compute_tile(frames, tile, following):
                yield self.tiles_done + frames.index(part.frame), part
            self.tiles_done += len(frames)

    def _compute_tile(
        self, frames: Frames, tile: Tile, following: Task | None = None
    ) -> Iterator[Part]:
        """Compute what a tile of each frame writes, while the `following` one is read.

        Nothing if no voxel of the image belongs to a tile of the rescaled one.
        """
        if not all(span.size > 0 for span in self._decisions.written(tile)):
            return
        self._get_ready(frames[0])
        if self._job.norm_statistics == "blended":
            yield from self._compute_blended(frames, tile, following)
        elif self._is_undivided(self._job.plan.tile_shape, len(frames)):
            yield from self._try(frames, tile, following)
        else:
            yield from self._compute_in_parts(frames, tile, following)

    def _is_undivided(self, tile_shape: Sequence[int], batch: int) -> bool:
        """Whether tiles of a size, and so many of them, still pass through the network at once."""
        return self.tiling.tile_shape == tuple(tile_shape) and batch <= self.tiling.batch

    def _fits(self, frames: Frames, tile: Tile) -> bool:
        """Whether a tile of each frame still passes through the network at once."""
        sizes = zip(tile.shape, self.tiling.tile_shape, strict=True)
        return len(frames) <= self.tiling.batch and all(size <= most for size, most in sizes)

    def _compute_blended(
        self, frames: Frames, tile: Tile, following: Task | None
    ) -> Iterator[Part]:
        """Add a tile to the others over it; the last one of a band brings what is complete."""
        (frame,) = frames
        if self._blend is None or self._blend[0] != frame:
            self._blend = frame, Blend(self._job.plan, self._config, self._job.rim)
        blend = self._blend[1]
        block = self._read(frames, tile.outer)
        if following is not None:
            self._read.start(following[0], following[1].outer)
        self._check()
        try:
            complete = self._score(block, tile, lambda scores: blend.add(tile, scores))
        except OutOfMemoryError as error:
            advice = "Free memory, use another device, or give smaller tiles."
            raise OutOfMemoryError(f"{error} {advice}") from error
        if complete is None:
            return
        done, scores = replace(tile, inner=complete[0]), complete[1]
        if all(span.size > 0 for span in self._decisions.written(done)):
            yield Part(
                frame,
                done,
                attempt(
                    lambda: self._decisions.decide_scores(scores, done),
                    lambda: "What the tiles of a band give together does not fit. Free memory.",
                ),
            )

    def _score(self, block: Tensor, tile: Tile, use: Callable[[Tensor], Result]) -> Result:
        """Do something with the probabilities, (classes, [Z,] Y, X), of what a tile covers."""
        part, runner = [span.slice for span in tile.local], self._the_runner
        started = runner.start(tile.shape, part)
        results = runner.push(started, block, lambda _, new: use(to_scores(new, self._config)))
        return next(results)[0]

    def _compute_in_parts(
        self, frames: Frames, tile: Tile, following: Task | None
    ) -> Iterator[Part]:
        """Compute a tile of fewer frames at once, or as smaller ones."""
        parts: Iterable[Tile] = (tile,)
        shape, batch = self.tiling.tile_shape, self.tiling.batch
        # Where a network sees all of its tile, fewer frames at once must not move the tiles.
        if self._the_runner.takes_strips or shape != self._job.plan.tile_shape:
            parts = plan_tiles(
                self._job.plan.shape,
                self._config,
                tile_shape=shape,
                region=tile.inner,
                rim=self._job.rim,
            )
        tasks = (
            (group, part)
            for group in split_evenly(frames, batch)
            for part in parts
            if all(span.size > 0 for span in self._decisions.written(part))
        )
        for (group, part), after in _with_following(tasks):
            if self._is_undivided(shape, len(group)):
                yield from self._try(group, part, after or following)
            else:  # memory ran short within a part before
                yield from self._compute_in_parts(group, part, after or following)

    def _try(self, frames: Frames, tile: Tile, following: Task | None = None) -> Iterator[Part]:
        """Compute a tile; what does not fit in memory is computed in smaller parts."""
        reached = tile.inner[0].start
        try:
            for part in self._compute_strips(frames, tile, following):
                reached = part.tile.inner[0].stop
                yield part
            return
        except MemoryError as error:
            smaller = shrink(
                self.tiling._replace(batch=min(self.tiling.batch, len(frames))),
                self._config,
                self._job.rim,
                in_strips=self._the_runner.takes_strips,
            )
            if smaller is None:
                raise OutOfMemoryError(
                    f"{error} It is the smallest tile this network allows. Free memory, use "
                    "another device, or a network with fewer blocks or filters."
                ) from error
        self.tiling = smaller
        self._read.forget()  # what was read ahead is as large as what did not fit
        self._the_runner.give_back()
        rest = _without(tile, reached - tile.inner[0].start)
        if rest.inner[0].size > 0:
            yield from self._compute_in_parts(frames, rest, following)

    def _compute_strips(self, frames: Frames, tile: Tile, following: Task | None) -> Iterator[Part]:
        """Compute a tile strip by strip, as far as the network allows that."""
        boxes: list[tuple[Frames, Sequence[Span]]] = [(frames, box) for box in self._strips(tile)]
        count = len(boxes)
        if following is not None and self._fits(*following):
            boxes.append((following[0], self._strips(following[1])[0]))
        started = self._the_runner.start(tile.shape, self._decisions.needed(tile))
        gathered: list[list[Tensor]] = [[] for _ in frames]
        reached, stop = tile.inner[0]

        def decide(number: int, new: Tensor) -> Decided | None:
            return self._decisions.decide(new, tile, gathered[number])

        for number in range(count):
            if reached == stop:
                return  # what would still be read, nothing depends on
            rows = self._read(*boxes[number])
            if number + 1 < len(boxes):
                self._read.start(*boxes[number + 1])
            self._check()
            for results in self._the_runner.push(started, rows, decide):
                complete = [result for result in results if result is not None]
                if not complete:
                    continue
                first = reached
                reached = stop if self._job.scaling else first + complete[0].rows
                part = replace(tile, inner=(Span(first, reached), *tile.inner[1:]))
                for frame, decided in zip(frames, complete, strict=True):
                    yield Part(frame, part, decided)

    def _strips(self, tile: Tile) -> list[tuple[Span, ...]]:
        """Return the boxes in which a tile is read."""
        rows, *others = tile.outer
        strip = self.tiling.strip if self._the_runner.takes_strips else rows.size
        starts = range(rows.start, rows.stop, strip)
        return [(Span(start, min(start + strip, rows.stop)), *others) for start in starts]

    def _check(self) -> None:
        if self._should_stop():
            raise Cancelled("Stopped on request.")

    @property
    def _the_runner(self) -> Runner:
        """The runner, once a frame has been prepared for."""
        return cast("Runner", self._runner)

    def _get_ready(self, frame: Frame) -> None:
        """Prepare the network for a frame; where it fails, no smaller tile would help."""
        if self._runner is None:
            self._runner = self._load()
            self._statistics.find(self._runner, frame)
            self._runner = self._choose_precision(self._runner, frame)
            if self._exact is not None and self._exact is not self._runner:
                self._exact.rest()
        elif self._ready_for != frame:
            self._statistics.find(self._runner, frame)
        self._ready_for = frame

    def _load(self) -> Runner:
        """Bring the network to the device; plan again if it cannot take strips there."""
        job, is_frozen = self._job, self._job.norm_statistics in FIXED
        runner = take_runner(job.model, self._device, self._should_stop, frozen=is_frozen)
        self._exact = runner
        if job.in_strips and not runner.takes_strips:
            self.tiling = choose_tiling(
                job.plan.shape,
                self._config,
                region=job.plan.region,
                budget=job.budget,
                on_cpu=self._device.type == "cpu",
                most=most_values(self._device.type),
                scaling=job.scaling,
                in_strips=False,
            )
        return runner

    def _choose_precision(self, exact: Runner, frame: Frame) -> Runner:
        """Return a runner in the fastest format that may be used, judged by a sample."""
        job = self._job
        names = find_precisions(job.precision, exact.device, job.model.network)
        faster = [name for name in names if name != "float32"]
        if not faster or not exact.is_lean:
            return exact
        decides = job.precision == "auto"
        sample = choose_sample(job.plan, self._config, job.rim, decides=decides)
        if decides and not is_worth_it(sample, job.plan, len(job.frames)):
            return exact
        part = self._decisions.needed(sample)

        def choose() -> Runner:
            expected = self._logits(exact, frame, sample, part)
            for name in faster:
                try:
                    runner = exact.in_precision(name)
                    self._statistics.find(runner, frame)
                    found = self._logits(runner, frame, sample, part)
                except DeviceError:  # it computes not all of the network in this format
                    if not decides:
                        raise
                    continue
                check = check_precision(name, found, expected, self._config)
                self.checks += (check,)
                if check.passes or not decides:
                    return runner
            return exact

        try:
            return attempt(choose, str)
        except OutOfMemoryError:  # so will the run, and it computes smaller parts
            if decides:
                return exact
        asked_for = exact.in_precision(faster[0])
        self._statistics.find(asked_for, frame)
        return asked_for

    @property
    def progress(self) -> float:
        """Share of the job's voxels that are finished, 0 to 1."""
        return self._decisions.progress

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the network is run."""
        notes = () if self._runner is None else self._runner.notes
        return notes if self.is_exact or not self._job.is_exact else (*notes, _SPLIT)

    @property
    def is_exact(self) -> bool:
        """Whether the result is that of one pass over the whole image, to rounding."""
        job = self._job
        can_split = job.norm_statistics == "whole" or self._config.tiles_exactly
        return job.is_exact and (can_split or self.tiling.tile_shape == job.plan.tile_shape)

    @property
    def precision(self) -> Precision:
        """The floating-point format in use."""
        return "float32" if self._runner is None else self._runner.precision

    def measure_seams(self) -> Seams | None:
        """Measure how the tiling shows, where the network cannot be tiled exactly.

        None if the network is exact, the tiles are no longer those of the plan,
        or the user or the memory cuts the measurement short: the labels are done.
        """
        config, plan = self._config, self._job.plan
        if self._job.is_exact or self.tiling.tile_shape != plan.tile_shape:
            return None
        frame = self._job.frames[0]

        def measure() -> Seams | None:
            self._get_ready(frame)
            if self._job.norm_statistics == "blended":
                return Blend(plan, config).measure(
                    config,
                    lambda tile: self._score(self._read((frame,), tile.outer), tile, Tensor.clone),
                )
            return measure_seams(
                plan, config, lambda tile: self._logits(self._the_runner, frame, tile)
            )

        try:
            return attempt(measure, str)
        except (Cancelled, MemoryError):
            return None

    def _logits(
        self, runner: Runner, frame: Frame, tile: Tile, part: Sequence[slice] | None = None
    ) -> Tensor:
        """Return the logits of a tile, or of a part of it, (classes, [Z,] Y, X)."""
        started, logits = runner.start(tile.shape, part), []
        for strip in self._strips(tile):
            rows = self._read((frame,), strip)
            self._check()
            new = runner.push(started, rows, lambda _, scores: scores.clone())
            logits += [scores for (scores,) in new]
        return torch.cat(logits, dim=1)


def _without(tile: Tile, rows: int) -> Tile:
    """Return a tile that does not write its first rows."""
    inner, local = (Span(part[0].start + rows, part[0].stop) for part in (tile.inner, tile.local))
    return replace(tile, inner=(inner, *tile.inner[1:]), local=(local, *tile.local[1:]))


def one_behind(items: Iterator[Item]) -> Iterator[Item]:
    """Yield every item once the one after it has been asked for; if that fails, before it does."""
    held: list[Item] = []
    try:
        for item in items:
            held.append(item)
            if len(held) > 1:
                yield held.pop(0)
    except Exception:
        yield from held
        raise
    yield from held


def _with_following(items: Iterable[Item]) -> Iterator[tuple[Item, Item | None]]:
    """Yield each item with the one after it, the last one with None."""
    before, after = tee(items)
    return zip_longest(before, islice(after, 1, None))
