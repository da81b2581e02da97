"""Where the statistics of instance and group normalization come from when they are frozen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from unetari.core.tiles import Span
from unetari.errors import OutOfMemoryError
from unetari.inference.job import Frame, Job
from unetari.inference.memory import Tiling, shrink
from unetari.inference.planning import FIXED
from unetari.inference.reader import Reader
from unetari.inference.runner import Runner
from unetari.inference.shortage import attempt


class Statistics:
    """Finds the statistics that hold for a whole plane or volume.

    Parameters
    ----------
    job : Job
        Says what they are taken from.
    read : Reader
        Reads the image.
    """

    def __init__(self, job: Job, read: Reader) -> None:
        self._job, self._read = job, read
        self._strip = job.pass_strip

    def find(self, runner: Runner, frame: Frame) -> None:
        """Give a runner the statistics of a frame, if they are not those of each tile.

        Raises
        ------
        OutOfMemoryError
            If memory does not suffice.
        Cancelled
            If the job is to stop.
        """
        is_found = self._job.norm_statistics not in FIXED
        while not is_found:
            try:
                self._pass_through(runner, frame)
                is_found = True
            except OutOfMemoryError as error:
                self._make_thinner(runner, error)

    def _pass_through(self, runner: Runner, frame: Frame) -> None:
        """Pass what they are taken from through the network: once if at once, else once per layer.

        Samples pass together, as a batch.
        """
        images = self._job.statistics_boxes
        sizes = [span.size for span in images[0]]
        starts = range(0, sizes[0], self._strip)
        boxes = [_rows(box, start, self._strip) for start in starts for box in images]
        if len(starts) == 1:
            runner.freeze(_join(self._read((frame,), box) for box in boxes))
            return
        for _ in runner.gather():
            started, strips = runner.start(sizes), self._read_all(frame, boxes)
            for _ in starts:
                batch = _join(islice(strips, len(images)))
                for _ in runner.push(started, batch, lambda _, scores: scores):
                    pass

    def _read_all(self, frame: Frame, boxes: Sequence[tuple[Span, ...]]) -> Iterator[Tensor]:
        """Yield what the network sees of boxes; after the last one, they begin again."""
        for box, following in zip(boxes, [*boxes[1:], boxes[0]], strict=True):
            rows = self._read((frame,), box)
            self._read.start((frame,), following)
            yield rows

    def _make_thinner(self, runner: Runner, error: OutOfMemoryError) -> None:
        """Halve the strips; raise the error if they cannot be thinner."""
        shape = tuple(span.size for span in self._job.statistics_boxes[0])
        thinner = shrink(Tiling(shape, self._strip), self._job.model.spec.config, in_strips=True)
        if thinner is None or thinner.tile_shape != shape:
            is_whole = self._job.norm_statistics == "whole"
            advice = ', or choose norm_statistics="sampled" or "blended"' if is_whole else ""
            raise OutOfMemoryError(
                f"{error} Statistics of normalization need all of it to pass through the network, "
                f"and this is the thinnest strip. Free memory{advice}."
            ) from error
        self._strip = thinner.strip
        self._read.forget()
        runner.give_back()


def _join(images: Iterable[Tensor]) -> Tensor:
    """Return a batch."""
    return attempt(lambda: torch.cat(list(images)), lambda: "A batch of samples does not fit.")


def _rows(box: Sequence[Span], start: int, n: int) -> tuple[Span, ...]:
    """Return n rows of a box, or as many as there are."""
    rows, *others = box
    first = rows.start + start
    return (Span(first, min(first + n, rows.stop)), *others)
