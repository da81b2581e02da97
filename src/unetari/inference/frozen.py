"""Where the statistics of instance and group normalization come from when they are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from unetari.core.network import NetworkConfig, reach_of
from unetari.core.tiles import Span
from unetari.errors import OutOfMemoryError
from unetari.inference.job import Frame, Job
from unetari.inference.memory import Tiling, shrink
from unetari.inference.reader import Block, Reader
from unetari.inference.runner import Runner

_SIZE = {2: 256, 3: 64}
_PER_AXIS = {2: 3, 3: 2}


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
        self._samples: tuple[Frame, Block] | None = None
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
        if self._job.norm_statistics == "sampled":
            runner.freeze(self._sample(frame))
        is_found = self._job.norm_statistics != "whole"
        while not is_found:
            try:
                self._pass_through(runner, frame)
                is_found = True
            except OutOfMemoryError as error:
                self._make_thinner(error)

    def _sample(self, frame: Frame) -> Block:
        """Return samples of a frame, (N, C, [Z,] Y, X)."""
        if self._samples is None or self._samples[0] != frame:
            boxes = sample_boxes(self._job.plan.shape, self._job.model.spec.config)
            self._samples = frame, np.stack([self._read(frame, box) for box in boxes])
        return self._samples[1]

    def _pass_through(self, runner: Runner, frame: Frame) -> None:
        """Pass all of a frame through the network, once if at once, else once per layer."""
        (whole,) = self._job.whole
        rows, *others = whole.outer
        starts = range(rows.start, rows.stop, self._strip)
        boxes = [(Span(at, min(at + self._strip, rows.stop)), *others) for at in starts]
        if len(boxes) == 1:
            runner.freeze(self._read(frame, boxes[0])[None])
            return
        for _ in runner.gather():
            block = runner.start(whole.shape)
            for box, following in zip(boxes, [*boxes[1:], boxes[0]], strict=True):
                strip = self._read(frame, box)
                self._read.start(frame, following)
                for _ in runner.push(block, strip, lambda scores: scores):
                    pass

    def _make_thinner(self, error: OutOfMemoryError) -> None:
        """Halve the strips; raise the error if they cannot be thinner."""
        shape = self._job.whole.tile_shape
        thinner = shrink(Tiling(shape, self._strip), self._job.model.spec.config, in_strips=True)
        if thinner is None or thinner.tile_shape != shape:
            raise OutOfMemoryError(
                f"{error} All of the image has to pass through the network, and this is the "
                'thinnest strip. Free memory, or choose norm_statistics="sampled" or "blended".'
            ) from error
        self._strip = thinner.strip
        self._read.forget()


def sample_boxes(shape: Sequence[int], config: NetworkConfig) -> list[tuple[Span, ...]]:
    """Return boxes of one size, spread over an image: up to 9 in 2D and 8 in 3D.

    They depend on nothing but the image's shape, and so do the statistics: neither on
    tiles nor on the region.

    Parameters
    ----------
    shape : sequence of int
        Size of the image, ([Z,] Y, X).
    config : UNetConfig or ForeignConfig
        The network, which takes their size.

    Returns
    -------
    list of tuple of Span
        They may reach past a small image, which is mirrored there.

    Examples
    --------
    >>> from unetari.core.config import UNetConfig
    >>> [box[1] for box in sample_boxes((200, 1000), UNetConfig())]
    [Span(start=0, stop=256), Span(start=372, stop=628), Span(start=744, stop=1000)]
    """
    axes = []
    for size, reach in zip(shape, reach_of(config), strict=True):
        length = reach.rule.above(min(size, _SIZE[config.dim]))
        last = max(0, size - length)
        starts = np.linspace(0, last, _PER_AXIS[config.dim]).round().astype(int)
        axes.append([Span(start, start + length) for start in dict.fromkeys(starts.tolist())])
    return list(product(*axes))
