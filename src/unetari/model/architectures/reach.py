"""Sizes and surroundings of a U-Net whose layers are known, derived axis by axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unetari.core.sizes import Reach, SizeRule, round_up
from unetari.errors import ModelFileError

Stencil = tuple[tuple[int, int], tuple[int, int]]
"""First and last coarse voxel that fine voxel 2k, and 2k + 1, is made of, less k."""

COPY: Stencil = ((0, 0), (0, 0))
LINEAR: Stencil = ((-1, 0), (0, 1))
TRANSPOSED_3: Stencil = ((0, 0), (0, 1))
"""Transposed convolution of kernel 3 and stride 2, its padding 1 at the start only."""
TRANSPOSED_3_SHIFTED: Stencil = ((-1, 0), (0, 0))
"""The same without output padding, fitted to the size: shifted by one voxel."""

_LARGEST_SMALLEST = 4096  # a valid network of ten levels needs about 1,900 voxels


@dataclass(frozen=True)
class Level:
    """One level of a U-Net, on one axis."""

    encoder: int
    """Summed radius of the convolutions of the encoder's block."""
    decoder: int = 0
    """Summed radius of the convolutions of the decoder's block; nothing on the deepest level."""
    pool: int = 2
    """Voxels of this level that make one of the next."""
    stencil: Stencil = COPY
    """How upsampling from the next level makes voxels."""
    resized: int = 0
    """Radius of a convolution between upsampling and block, always zero-padded."""
    gate: bool = False
    """Whether attention of half the resolution weighs the skip features."""

    def coarse(self, first: int, last: int) -> tuple[int, int]:
        """Return the voxels of the next level that these are upsampled from."""
        if self.pool == 1:
            return first, last
        before, after = self.stencil[first % 2][0], self.stencil[last % 2][1]
        return first // 2 + before, last // 2 + after

    def weighed_by(self, first: int, last: int) -> tuple[int, int]:
        """Return the voxels, in pairs, that attention looks at for these."""
        if not self.gate:
            return first, last
        return (first - 1) // 2 * 2, (last + 1) // 2 * 2 + 1


def derive_reach(levels: Sequence[Level], *, valid: bool = False, smallest: int = 1) -> Reach:
    """Derive the reach of one axis.

    Parameters
    ----------
    levels : sequence of Level
        From the image's resolution to the deepest.
    valid : bool
        Whether the blocks' convolutions go without zero padding.
    smallest : int
        Voxels that must be left on the deepest level.

    Returns
    -------
    Reach
        Sizes and surroundings.

    Raises
    ------
    ModelFileError
        If no size of practical use fits.

    Examples
    --------
    >>> derive_reach([Level(2, 2), Level(2)])
    Reach(rule=SizeRule(multiple=2, smallest=2, loss=0), halo=8, trim=0, largest=None)
    """
    multiple = 1
    for level in reversed(levels[:-1]):
        # Attention halves an axis also where it is not pooled.
        multiple = max(level.pool * multiple, 2 if level.gate else 1)
    if valid:
        return Reach(_valid_rule(levels, multiple), 0, _spoilt(levels))
    outputs = 8 * multiple
    first, last = _inputs(levels, 0, outputs - 1)
    margin = max(-first, last - outputs + 1)
    return Reach(SizeRule(multiple, multiple * smallest, 0), round_up(margin, multiple))


def _inputs(levels: Sequence[Level], first: int, last: int) -> tuple[int, int]:
    """Return the first and last input that the outputs depend on, in an endless image."""
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


def _valid_rule(levels: Sequence[Level], multiple: int) -> SizeRule:
    for size in range(1, _LARGEST_SMALLEST):
        output = _valid_output(levels, size)
        if output is not None:
            return SizeRule(multiple, size, (size - output) // 2)
    raise ModelFileError(
        f"With valid convolution, its {len(levels)} levels need an image of more than "
        f"{_LARGEST_SMALLEST} voxels. Load it with conv_mode='same'."
    )


def _valid_output(levels: Sequence[Level], size: int) -> int | None:
    """Return the size of the output, None if a level goes odd or vanishes."""
    for level in levels[:-1]:
        size -= 2 * level.encoder
        even = size % (2 if level.gate else level.pool) == 0
        if size < 1 or not even:
            return None
        size //= level.pool
    size -= 2 * levels[-1].encoder
    for level in reversed(levels[:-1]):
        size = size * level.pool - 2 * level.decoder
    return size if size >= 1 else None


def _spoilt(levels: Sequence[Level]) -> int:
    """Return how many voxels where a tile ends differ from those within a larger one."""
    spoilt = 0
    for level in reversed(levels[:-1]):
        gate = 2 * -(-spoilt // (2 // level.pool)) + 1 if level.gate else 0
        if level.pool == 2:
            spoilt = 2 * spoilt - 2 * min(level.stencil[0][0], 0) - (level.stencil != COPY)
        spoilt = max(spoilt + level.resized, gate)
    return spoilt
