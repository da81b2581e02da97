"""`Reader`: what the network sees of an image, read and sent one strip ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unetari.core.normalization import IntensityMap, fit_intensity
from unetari.core.tiles import Span, read_mirrored
from unetari.errors import Cancelled
from unetari.inference.job import Frame, Job
from unetari.inference.rescale import rescale
from unetari.inference.shortage import attempt
from unetari.inference.transfer import Arrival, Transfer, maps_on_device

Frames = Sequence[Frame]
"""Planes or volumes that pass through the network together."""
Box = tuple[tuple[Frame, ...], tuple[Span, ...]]
"""Planes or volumes, and a box in each, as the network sees it."""


class Reader:
    """Reads, rescales and normalizes boxes in a thread of its own, and sends them to the device.

    Parameters
    ----------
    job : Job
        The image, its region, and how intensities are mapped.
    transfer : Transfer
        The way to the device.
    should_stop : callable
        Asked before every part that is read.
    """

    def __init__(self, job: Job, transfer: Transfer, should_stop: Callable[[], bool]) -> None:
        self._job = job
        self._transfer = transfer
        self._dim = job.model.spec.config.dim
        self._should_stop = should_stop
        self._intensity: tuple[Frame | None, IntensityMap] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="unetari-reader")
        self._ahead: tuple[Box, Future[Arrival]] | None = None
        self._last: tuple[Box, Tensor] | None = None

    def close(self) -> None:
        """End the thread, after what it is reading."""
        self._thread.shutdown(cancel_futures=True)

    def start(self, frames: Frames, box: Sequence[Span]) -> None:
        """Begin to read a box that will be asked for next."""
        wanted = (tuple(frames), tuple(box))
        self._ahead = (wanted, self._submit(wanted))

    def __call__(self, frames: Frames, box: Sequence[Span]) -> Tensor:
        """Return what the network sees of a box of each frame, float32, (N, C, [Z,] Y, X).

        It is on the device, and not to be changed.

        Raises
        ------
        Cancelled
            If `should_stop` said so.
        """
        wanted = (tuple(frames), tuple(box))
        if self._last is None or self._last[0] != wanted:
            self._last = None  # frees its memory before the next one is there
            self._last = wanted, self._wait_for(wanted)
        return self._last[1]

    def forget(self) -> None:
        """Let go of what was read."""
        if self._ahead is not None and not self._ahead[1].cancel():
            wait([self._ahead[1]])  # it is under way, and takes memory until it is done
        self._ahead = self._last = None

    def _wait_for(self, wanted: Box) -> Tensor:
        if self._ahead is not None and self._ahead[0] == wanted:
            future, self._ahead = self._ahead[1], None
        else:
            future = self._submit(wanted)
        return attempt(lambda: self._transfer.receive(future.result()), _describe)

    def _submit(self, wanted: Box) -> Future[Arrival]:
        # What does not fit is said in the thread: torch's own error would hold on, through the
        # future that brings it, to the arrays that were made.
        return self._thread.submit(attempt, partial(self._read, *wanted), _describe)

    def _read(self, frames: Frames, outer: Sequence[Span]) -> Arrival:
        intensity = self._intensity_of(frames[0])  # frames with one of their own come alone
        blocks = (self._read_frame(frame, outer, intensity) for frame in frames)
        block = next(blocks)[np.newaxis]
        if len(frames) > 1:
            first, block = block, np.empty((len(frames), *block.shape[1:]), block.dtype)
            block[0] = first
            for place, values in zip(block[1:], blocks, strict=True):
                place[...] = values
        return self._transfer.send(block, intensity if self._sends_raw else None)

    def _read_frame(
        self, frame: Frame, outer: Sequence[Span], intensity: IntensityMap
    ) -> NDArray[Any]:
        source, scaling = self._job.source, self._job.scaling

        def read(box: Sequence[Span]) -> NDArray[Any]:
            self._check()
            block = read_mirrored(
                lambda within: source.read(frame, [span.slice for span in within]),
                box,
                source.spatial_shape(self._dim),
            )
            return block if self._sends_raw else intensity(block)

        if scaling is None:
            return read(outer)
        return read_mirrored(lambda box: rescale(read, scaling, box), outer, scaling.rescaled_shape)

    @property
    def _sends_raw(self) -> bool:
        """Whether the device normalizes."""
        job = self._job
        is_plain = job.scaling is None and not job.source.grey  # grey is computed as float32
        return is_plain and maps_on_device(job.source.data.dtype, self._transfer.device)

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


def _describe() -> str:
    return "What the network is to see next does not fit."
