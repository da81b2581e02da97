"""How far the output of a U-Net depends on its surroundings: one axis, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unetari.errors import ShapeError

Stencil = tuple[tuple[int, int], tuple[int, int]]
"""First and last coarse voxel that fine voxel 2k, and 2k + 1, is made of, less k."""

COPY: Stencil = ((0, 0), (0, 0))
"""Nearest neighbour; transposed convolution of kernel 2 and stride 2."""
LINEAR: Stencil = ((-1, 0), (0, 1))
CUBIC: Stencil = ((-2, 1), (-1, 2))
TRANSPOSED_3: Stencil = ((0, 0), (0, 1))
"""Transposed convolution of kernel 3 and stride 2, its padding 1 at the start only."""
TRANSPOSED_3_SHIFTED: Stencil = ((-1, 0), (0, 0))
"""The same without output padding, fitted to the size: shifted by one voxel."""

_LARGEST_SMALLEST = 8192  # a valid network of ten levels needs 6,140 voxels


@dataclass(frozen=True)
class AxisLevel:
    """One level of a U-Net, on one axis."""

    encoder: int
    """Summed radius of the convolutions of the encoder's block."""
    decoder: int = 0
    """Summed radius of the convolutions of the decoder's block; nothing on the deepest level."""
    pool: int = 2
    """Voxels of this level that make one of the next; 1 where the axis is not pooled."""
    stencil: Stencil = COPY
    """How upsampling from the next level makes voxels."""
    resized: int = 0
    """Radius of a convolution between upsampling and block, always zero-padded."""
    gate: bool = False
    """Whether attention of half the resolution weighs the skip features."""

    def coarse(self, first: int, last: int) -> tuple[int, int]:
        """Return the voxels of the next level that these are upsampled from.

        Examples
        --------
        >>> AxisLevel(2).coarse(0, 3), AxisLevel(2, stencil=LINEAR).coarse(0, 3)
        ((0, 1), (-1, 2))
        """
        if self.pool == 1:
            return first, last
        before, after = self.stencil[first % 2][0], self.stencil[last % 2][1]
        return first // 2 + before, last // 2 + after

    def weighed_by(self, first: int, last: int) -> tuple[int, int]:
        """Return the voxels, in pairs, that attention looks at for these."""
        if not self.gate:
            return first, last
        return (first - 1) // 2 * 2, (last + 1) // 2 * 2 + 1


def find_multiple(levels: Sequence[AxisLevel]) -> int:
    """Return the size multiple at which every level pools evenly."""
    multiple = 1
    for level in reversed(levels[:-1]):
        # Attention halves an axis also where it is not pooled.
        multiple = max(level.pool * multiple, 2 if level.gate else 1)
    return multiple


def find_inputs(levels: Sequence[AxisLevel], first: int, last: int) -> tuple[int, int]:
    """Return the first and last input that outputs depend on, in an endless image.

    Examples
    --------
    >>> find_inputs([AxisLevel(2, 2), AxisLevel(2)], 0, 0)
    (-8, 9)
    """
    skips = []
    for level in levels[:-1]:
        first, last = first - level.decoder, last + level.decoder
        skip = level.weighed_by(first, last)
        skips.append(skip)
        coarse = level.coarse(first - level.resized, last + level.resized)
        gate = level.coarse(*skip)
        first, last = min(coarse[0], gate[0]), max(coarse[1], gate[1])
    first, last = first - levels[-1].encoder, last + levels[-1].encoder
    for level, skip in zip(reversed(levels[:-1]), reversed(skips), strict=True):
        first, last = level.pool * first, level.pool * last + level.pool - 1
        first, last = min(first, skip[0]), max(last, skip[1])
        first, last = first - level.encoder, last + level.encoder
    return first, last


def find_valid_size(levels: Sequence[AxisLevel]) -> tuple[int, int]:
    """Return the smallest size that valid convolution takes, and what a pass gives of it.

    Raises
    ------
    ShapeError
        If no size of practical use fits.

    Examples
    --------
    >>> find_valid_size([AxisLevel(2, 2), AxisLevel(2)])
    (18, 2)
    """
    for size in range(1, _LARGEST_SMALLEST):
        output = _valid_output(levels, size)
        if output is not None:
            return size, output
    raise ShapeError(
        f"With valid convolution, {len(levels)} levels need an image of more than "
        f"{_LARGEST_SMALLEST} voxels. Use conv_mode='same'."
    )


def _valid_output(levels: Sequence[AxisLevel], size: int) -> int | None:
    """Return the size of the output, None if a level goes odd or vanishes."""
    for level in levels[:-1]:
        size -= 2 * level.encoder
        even = size % (2 if level.gate else level.pool) == 0
        if size < 1 or not even:
            return None
        size //= level.pool
    size -= 2 * levels[-1].encoder
    if size < 1:
        return None
    for level in reversed(levels[:-1]):
        size = size * level.pool - 2 * level.decoder
    return size if size >= 1 else None


def count_spoilt(levels: Sequence[AxisLevel]) -> int:
    """Return how many voxels where a tile of valid convolution ends differ from a larger one's."""
    spoilt = 0
    for level in reversed(levels[:-1]):
        gate = 2 * -(-spoilt // (2 // level.pool)) + 1 if level.gate else 0
        if level.pool == 2:
            spoilt = 2 * spoilt - 2 * min(level.stencil[0][0], 0) - (level.stencil != COPY)
        spoilt = max(spoilt + level.resized, gate)
    return spoilt


class DecoderStep(NamedTuple):
    """What the decoder's block of one level works on, on one axis."""

    skip: slice
    """The voxels of the encoder's features that are joined."""
    up: slice
    """Those of the features upsampled from the next level."""
    result: slice
    """Those of the block's output that go on."""


class DecoderPlan(NamedTuple):
    """What the decoder works on, on one axis."""

    steps: tuple[DecoderStep, ...]
    """One per level but the deepest, from the image's resolution on."""
    deepest: slice
    """The voxels of the deepest features that are upsampled."""

    def kept(self, level: int) -> int:
        """Return how many voxels of a level's features go on to the level before it."""
        part = self.deepest if level == len(self.steps) else self.steps[level].result
        return int(part.stop - part.start)


def plan_decoder(
    levels: Sequence[AxisLevel], size: int, part: slice, *, valid: bool = False
) -> DecoderPlan:
    """Plan the least that a decoder computes for a part of its output.

    Parameters
    ----------
    levels : sequence of AxisLevel
        From the image's resolution to the deepest.
    size : int
        Size of the network's input; it fits the network.
    part : slice
        The part of the output that is wanted, start and stop given.
    valid : bool
        Whether the blocks' convolutions go without zero padding. The decoder then
        works on what there is, and only its last output is cut.

    Returns
    -------
    DecoderPlan

    Examples
    --------
    >>> plan_decoder([AxisLevel(2, 2), AxisLevel(2)], 32, slice(8, 16)).steps[0].skip
    slice(6, 18, None)
    """
    if valid:
        return _plan_valid_decoder(levels, size, part)
    steps = []
    start, stop = part.start, part.stop
    for level in levels[:-1]:
        first, last = max(0, start - level.decoder), min(size, stop + level.decoder)
        size //= level.pool
        low, high = level.coarse(first, last - 1)
        low, high = max(0, low), min(size, high + 1)
        origin = level.pool * low
        steps.append(
            DecoderStep(
                skip=slice(first, last),
                up=slice(first - origin, last - origin),
                result=slice(start - first, stop - first),
            )
        )
        start, stop = low, high
    return DecoderPlan(tuple(steps), slice(start, stop))


def _plan_valid_decoder(levels: Sequence[AxisLevel], size: int, part: slice) -> DecoderPlan:
    sizes = []
    for level in levels:
        sizes.append(size - 2 * level.encoder)
        size = sizes[-1] // level.pool
    deepest = size = sizes[-1]
    steps: list[DecoderStep] = []
    for level, encoded in zip(reversed(levels[:-1]), reversed(sizes[:-1]), strict=True):
        size *= level.pool
        crop = (encoded - size) // 2
        result = slice(0, size - 2 * level.decoder)
        steps.insert(0, DecoderStep(slice(crop, crop + size), slice(0, size), result))
        size = result.stop
    if not steps:
        return DecoderPlan((), part)
    steps[0] = steps[0]._replace(result=part)
    return DecoderPlan(tuple(steps), slice(0, deepest))
