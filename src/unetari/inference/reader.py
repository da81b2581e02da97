"""`Reader`: what the network sees of an image, read one strip ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetari.core.normalization import IntensityMap, fit_intensity
from unetari.core.tiles import Span, read_mirrored
from unetari.errors import Cancelled
from unetari.inference.job import Frame, Job
from unetari.inference.rescale import rescale

Block = NDArray[np.float32]
Box = tuple[Frame, tuple[Span, ...]]
"""A plane or volume, and a box in it, as the network sees it."""


class Reader:
    """Reads, rescales and normalizes boxes in a thread of its own.

    Parameters
    ----------
    job : Job
        The image, its region, and how intensities are mapped.
    should_stop : callable
        Asked before every part that is read.
    """

    def __init__(self, job: Job, should_stop: Callable[[], bool]) -> None:
        self._job = job
        self._dim = job.model.spec.config.dim
        self._should_stop = should_stop
        self._intensity: tuple[Frame | None, IntensityMap] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="unetari-reader")
        self._ahead: tuple[Box, Future[Block]] | None = None
        self._last: tuple[Box, Block] | None = None

    def close(self) -> None:
        """End the thread, after what it is reading."""
        self._thread.shutdown(cancel_futures=True)

    def start(self, frame: Frame, box: Sequence[Span]) -> None:
        """Begin to read a box that will be asked for next."""
        wanted = (frame, tuple(box))
        self._ahead = (wanted, self._thread.submit(self._read, *wanted))

    def __call__(self, frame: Frame, box: Sequence[Span]) -> Block:
        """Return what the network sees of a box, (C, [Z,] Y, X).

        Raises
        ------
        Cancelled
            If `should_stop` said so.
        """
        wanted = (frame, tuple(box))
        if self._last is None or self._last[0] != wanted:
            self._last = None  # frees its memory before the next one is there
            self._last = wanted, self._wait_for(wanted)
        return self._last[1]

    def forget(self) -> None:
        """Let go of what was read."""
        if self._ahead is not None:
            self._ahead[1].cancel()
        self._ahead = self._last = None

    def _wait_for(self, wanted: Box) -> Block:
        if self._ahead is not None and self._ahead[0] == wanted:
            future, self._ahead = self._ahead[1], None
        else:
            future = self._thread.submit(self._read, *wanted)
        return future.result()

    def _read(self, frame: Frame, outer: Sequence[Span]) -> Block:
        intensity = self._intensity_of(frame)
        source, scaling = self._job.source, self._job.scaling

        def read(box: Sequence[Span]) -> Block:
            self._check()
            block = read_mirrored(
                lambda within: source.read(frame, [span.slice for span in within]),
                box,
                source.spatial_shape(self._dim),
            )
            return intensity(block)

        if scaling is None:
            return read(outer)
        return read_mirrored(lambda box: rescale(read, scaling, box), outer, scaling.rescaled_shape)

    def _intensity_of(self, frame: Frame) -> IntensityMap:
        normalization = self._job.model.spec.normalization
        key = frame if normalization.scope == "frame" else None
        if self._intensity is None or self._intensity[0] != key:
            blocks = self._job.source.iter_blocks(self._dim, key)
            fitted = fit_intensity(normalization, self._until_stopped(blocks))
            self._intensity = (key, fitted)
        return self._intensity[1]

    def _until_stopped(self, blocks: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        for block in blocks:
            self._check()
            yield block

    def _check(self) -> None:
        if self._should_stop():
            raise Cancelled("Stopped on request.")
