"""Sizes: which ones a network's poolings halve evenly, and how far it sees.

Everything here is arithmetic on sizes and options.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unetari.core.config import UNetConfig, UpMode
from unetari.errors import ShapeError

_MAX_BLOCKS = 10
_CONVOLUTION_RADIUS = 2  # two 3x3 convolutions per block
_INTERPOLATION = {
    # First and last coarse voxel that fine voxel 2k, and 2k + 1, is made of, less k.
    "transposed": ((0, 0), (0, 0)),
    "nearest": ((0, 0), (0, 0)),
    "bilinear": ((-1, 0), (0, 1)),
    "trilinear": ((-1, 0), (0, 1)),
    "bicubic": ((-2, 1), (-1, 2)),
}


def compute_max_depth(size: int, max_depth: int = 10) -> list[int]:
    """List the sizes an axis has on each level, while pooling stays even.

    Level L is allowed while size % 2**L == 0 and size / 2**L > 1.

    Parameters
    ----------
    size : int
        Size of the axis, in voxels.
    max_depth : int
        Most levels to list.

    Returns
    -------
    list of int
        Sizes from level 0 on. The deepest level is `len(sizes) - 1`, and a
        network may have up to `len(sizes)` blocks.

    Raises
    ------
    ShapeError
        If `size` or `max_depth` is below 1.

    Examples
    --------
    >>> compute_max_depth(1920)
    [1920, 960, 480, 240, 120, 60, 30, 15]
    """
    _check_positive(size=size, max_depth=max_depth)
    levels = [int(size)]
    while len(levels) < max_depth and levels[-1] % 2 == 0 and levels[-1] > 2:
        levels.append(levels[-1] // 2)
    return levels


def compute_possible_shapes(low: int, high: int, depth: int) -> dict[int, list[int]]:
    """List the sizes that a given depth allows, by the rule of `compute_max_depth`.

    Parameters
    ----------
    low, high : int
        First and last size to try, in voxels.
    depth : int
        Number of levels, level 0 included.

    Returns
    -------
    dict of int to list of int
        Per possible size its sizes on each level.

    Raises
    ------
    ShapeError
        If `low` or `depth` is below 1.

    Examples
    --------
    >>> list(compute_possible_shapes(10, 512, 8))
    [256, 384, 512]
    """
    _check_positive(low=low, depth=depth)
    levels = {size: compute_max_depth(size, depth) for size in range(low, high + 1)}
    return {size: sizes for size, sizes in levels.items() if len(sizes) == depth}


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ShapeError(f"{name}={value} must be at least 1.")


def receptive_field(config: UNetConfig) -> int:
    """Compute how many input voxels, per axis, one output voxel depends on at most.

    Parameters
    ----------
    config : UNetConfig
        The network. Statistics of instance and group normalization, which see
        everything, are not counted.

    Returns
    -------
    int
        Width in voxels. It can differ by position, since pooling makes pairs;
        this is the widest.

    Examples
    --------
    >>> receptive_field(UNetConfig(n_blocks=1)), receptive_field(UNetConfig(n_blocks=2))
    (5, 18)
    """
    return max(_count_inputs(position, config) for position in range(config.multiple))


def _count_inputs(position: int, config: UNetConfig) -> int:
    """Follow an output voxel back through the deepest path, which spans all others."""
    first, last = position - 2, position + 2
    for _ in range(config.n_blocks - 1):
        first, last = upsampling_inputs(first, last, config.up_mode)
        first, last = first - 2, last + 2
    for _ in range(config.n_blocks - 1):
        first, last = 2 * first - 2, 2 * last + 1 + 2
    return last - first + 1


def upsampling_inputs(first: int, last: int, up_mode: UpMode) -> tuple[int, int]:
    """Return the first and last coarse voxel that fine voxels `first` to `last` are made of.

    Examples
    --------
    >>> upsampling_inputs(0, 3, "nearest"), upsampling_inputs(0, 3, "bilinear")
    ((0, 1), (-1, 2))
    """
    stencils = _INTERPOLATION[up_mode]
    return (
        first // 2 + stencils[first % 2][0],
        last // 2 + stencils[last % 2][1],
    )


def valid_output_size(size: int, config: UNetConfig) -> int:
    """Compute the output size of one plain pass.

    Parameters
    ----------
    size : int
        Input size of an axis, in voxels.
    config : UNetConfig
        The network.

    Returns
    -------
    int
        The same size with same convolution, a smaller one with valid convolution.

    Raises
    ------
    ShapeError
        If the size does not pool evenly, or nothing would be left of it.

    Examples
    --------
    >>> valid_output_size(572, UNetConfig(n_blocks=5, conv_mode="valid"))
    388
    """
    rule = SizeRule.of(config)
    if not rule.allows(size):
        smaller, larger = rule.below(size), rule.above(size)
        raise ShapeError(
            f"Size {size} does not pool evenly in {config.n_blocks} blocks with "
            f"{config.conv_mode} convolution. Sizes that do: "
            f"{larger if smaller is None else f'{smaller} and {larger}'}."
        )
    return size - 2 * rule.loss


@dataclass(frozen=True)
class SizeRule:
    """The sizes that fit a network: from `smallest` on, in steps of `multiple`."""

    multiple: int
    smallest: int
    loss: int
    """Voxels a pass loses per side."""

    @classmethod
    def of(cls, config: UNetConfig) -> SizeRule:
        """Return the rule of a network."""
        if config.conv_mode == "same":
            return cls(config.multiple, config.multiple, 0)
        return cls.valid(config.multiple)

    @classmethod
    def valid(cls, multiple: int) -> SizeRule:
        """Return the rule of valid convolution."""
        p = multiple
        # With d voxels entering the deepest block, p * d + 4 * (p - 1) go in and
        # p * (d - 8) + 4 come out.
        deepest = next(d for d in range(5, 9) if p * (d - 8) + 4 >= 1)
        return cls(p, p * deepest + 4 * (p - 1), 6 * p - 4)

    def allows(self, size: int) -> bool:
        """Whether a plain pass takes this size."""
        return size >= self.smallest and (size - self.smallest) % self.multiple == 0

    def below(self, size: int) -> int | None:
        """Return the largest size that fits, at most `size`."""
        steps = (size - self.smallest) // self.multiple
        return self.smallest + steps * self.multiple if steps >= 0 else None

    def above(self, size: int) -> int:
        """Return the smallest size that fits, at least `size`."""
        steps = max(0, -(-(size - self.smallest) // self.multiple))
        return self.smallest + steps * self.multiple


@dataclass(frozen=True)
class Reach:
    """How far one output voxel of a network depends on its surroundings, per axis."""

    rule: SizeRule
    """Which sizes the network takes, and the voxels per side that valid convolution loses."""
    halo: int
    """Voxels read and not written per side, with same convolution: a multiple of P."""
    trim: int = 0
    """Voxels per side that interpolation spoils where a tile of valid convolution ends."""
    largest: int | None = None
    """Largest size the network takes, if there is a limit; equal to `rule.smallest` for
    networks of one fixed size."""

    @classmethod
    def of(cls, config: UNetConfig, rim: int = 0) -> Reach:
        """Derive the reach of a U-Net from its options.

        The margin follows one output voxel backwards: through the decoder,
        where an interpolation widens it by its stencil, to the deepest block,
        and through the encoder, where every pooling doubles it. `rim` voxels
        around what a tile writes come out right, too.
        """
        rule = SizeRule.of(config)
        if rule.loss:
            # Per level, interpolation mixes what lies beyond the end into this many voxels.
            spoilt = max(0, -2 * upsampling_inputs(0, 0, config.up_mode)[0] - 1)
            return cls(rule, 0, spoilt * (rule.multiple - 1)).with_rim(rim)
        margin = _CONVOLUTION_RADIUS + rim
        for _ in range(config.n_blocks - 1):
            margin = _CONVOLUTION_RADIUS - upsampling_inputs(-margin, 0, config.up_mode)[0]
        for _ in range(config.n_blocks - 1):
            margin = 2 * margin + _CONVOLUTION_RADIUS
        return cls(rule, round_up(margin, rule.multiple), 0)

    @property
    def multiple(self) -> int:
        """Size multiple P at which every level pools evenly."""
        return self.rule.multiple

    @property
    def loss(self) -> int:
        """Voxels that valid convolution takes away per side; 0 with same convolution."""
        return self.rule.loss

    def with_rim(self, rim: int) -> Reach:
        """Return a reach with which `rim` more voxels on each side come out right."""
        more = round_up(rim, self.multiple)  # the pooling grid must stay where it is
        if self.loss:
            return replace(self, trim=self.trim + more)
        return replace(self, halo=self.halo + more)

    @property
    def margin(self) -> int:
        """Voxels per side that a tile reads and does not write."""
        return self.halo + self.loss + self.trim

    def step(self, tile: int) -> int:
        """Return how far neighbouring tiles of an outer size lie apart at most."""
        return round_down(tile - 2 * self.margin, self.multiple)

    @property
    def smallest_tile(self) -> int:
        """Smallest outer size of a tile that writes at least P voxels."""
        return self.rule.above(2 * self.margin + self.multiple)


def max_valid_blocks(size: int) -> int:
    """Return the most blocks that take a size as it is with valid convolution, 0 if none."""
    rules = ((blocks, SizeRule.valid(2 ** (blocks - 1))) for blocks in range(_MAX_BLOCKS, 0, -1))
    return next((blocks for blocks, rule in rules if rule.allows(size)), 0)


def round_up(value: int, multiple: int) -> int:
    """Return the next multiple, at least `value`."""
    return -(-value // multiple) * multiple


def round_down(value: int, multiple: int) -> int:
    """Return the previous multiple, at most `value`."""
    return value // multiple * multiple
