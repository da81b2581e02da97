"""Sizes: which ones a network's poolings halve evenly, and how far it sees.

Everything here is arithmetic on sizes and options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral

from unetari.core.config import UNetConfig
from unetari.core.stencils import (
    COPY,
    CUBIC,
    LINEAR,
    AxisLevel,
    count_spoilt,
    find_inputs,
    find_multiple,
    find_valid_size,
)
from unetari.errors import ShapeError

_MAX_BLOCKS = 10
_CONVOLUTION_RADIUS = 2  # two convolutions of kernel 3 per block
_STENCILS = {
    "transposed": COPY,
    "nearest": COPY,
    "bilinear": LINEAR,
    "trilinear": LINEAR,
    "bicubic": CUBIC,
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
    _check_counts(size=size, max_depth=max_depth)
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
    _check_counts(low=low, depth=depth)
    levels = {size: compute_max_depth(size, depth) for size in range(low, high + 1)}
    return {size: sizes for size, sizes in levels.items() if len(sizes) == depth}


def _check_counts(**values: object) -> None:
    for name, value in values.items():
        if not is_count(value):
            raise ShapeError(f"{name}={value!r} must be a whole number from 1 on, such as 8.")


def is_count(value: object, least: int = 1) -> bool:
    """Whether a value is a whole number, and large enough."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


@lru_cache(maxsize=256)
def axis_levels(config: UNetConfig, axis: int = -1) -> tuple[AxisLevel, ...]:
    """Return the levels of a U-Net on one axis, from the image's resolution to the deepest.

    Parameters
    ----------
    config : UNetConfig
        The network.
    axis : int
        Spatial axis, counted from the end of ([z,] y, x).

    Returns
    -------
    tuple of AxisLevel
        One per block. Along z, planar blocks convolve and pool nothing.
    """
    planar = config.planar_blocks if axis == -3 else ()
    stencil = _STENCILS[config.up_mode]
    levels = []
    for block in range(config.n_blocks):
        radius = 0 if block in planar else _CONVOLUTION_RADIUS
        is_deepest = block == config.n_blocks - 1
        levels.append(
            AxisLevel(
                encoder=radius,
                decoder=0 if is_deepest else radius,
                pool=1 if block in planar else 2,
                stencil=stencil,
            )
        )
    return tuple(levels)


def receptive_field(config: UNetConfig, axis: int = -1) -> int:
    """Compute how many input voxels, on one axis, one output voxel depends on at most.

    Parameters
    ----------
    config : UNetConfig
        The network. Statistics of instance and group normalization, which see
        everything, are not counted.
    axis : int
        Spatial axis, counted from the end of ([z,] y, x). Only planar blocks make
        a difference.

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
    levels = axis_levels(config, axis)
    inputs = (find_inputs(levels, at, at) for at in range(find_multiple(levels)))
    return max(last - first + 1 for first, last in inputs)


def valid_output_size(size: int, config: UNetConfig, axis: int = -1) -> int:
    """Compute the output size of one plain pass.

    Parameters
    ----------
    size : int
        Input size of an axis, in voxels.
    config : UNetConfig
        The network.
    axis : int
        Spatial axis, counted from the end of ([z,] y, x). Only planar blocks make
        a difference.

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
    rule = Reach.of(config, axis).rule
    if not rule.allows(size):
        smaller, larger = rule.below(size), rule.above(size)
        raise ShapeError(
            f"Size {size} does not pool evenly in {config.n_blocks} blocks with "
            f"{config.conv_mode} convolution. Sizes that do: "
            f"{larger if smaller is None else f'{smaller} and {larger}'}."
        )
    return size - 2 * rule.loss


def even_sizes(size: int, config: UNetConfig, axis: int = -1) -> list[int]:
    """List the sizes an axis has on each level, while pooling stays even.

    As `compute_max_depth`, with planar blocks, which do not pool z. Blocks that the
    network lacks are taken to pool.

    Examples
    --------
    >>> even_sizes(30, UNetConfig(dim=3, planar_blocks=(0, 1)), axis=-3)
    [30, 30, 30, 15]
    """
    planar = config.planar_blocks if axis == -3 else ()
    sizes = compute_max_depth(size)
    for block in sorted(planar):
        if block < len(sizes):
            sizes.insert(block, sizes[block])
    return sizes


@dataclass(frozen=True)
class SizeRule:
    """The sizes that fit a network: from `smallest` on, in steps of `multiple`."""

    multiple: int
    smallest: int
    loss: int
    """Voxels a pass loses per side."""

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
    def of(cls, config: UNetConfig, axis: int = -1, rim: int = 0) -> Reach:
        """Derive the reach of a U-Net on one axis from its options.

        `axis` is counted from the end of ([z,] y, x).
        """
        is_valid = config.conv_mode == "valid"
        return cls.derive(axis_levels(config, axis), valid=is_valid, rim=rim)

    @classmethod
    def derive(
        cls, levels: Sequence[AxisLevel], *, valid: bool = False, smallest: int = 1, rim: int = 0
    ) -> Reach:
        """Derive the reach of one axis from the levels of a U-Net.

        With same convolution, output voxels are followed backwards: through the
        decoder, where an interpolation widens them by its stencil, to the deepest
        block, and through the encoder, where every pooling doubles them.

        Parameters
        ----------
        levels : sequence of AxisLevel
            From the image's resolution to the deepest.
        valid : bool
            Whether the blocks' convolutions go without zero padding.
        smallest : int
            Voxels that must be left on the deepest level.
        rim : int
            Voxels around what a tile writes that come out right, too.

        Returns
        -------
        Reach
            Sizes and surroundings.

        Raises
        ------
        ShapeError
            If no size of practical use fits.

        Examples
        --------
        >>> Reach.derive([AxisLevel(2, 2), AxisLevel(2)])
        Reach(rule=SizeRule(multiple=2, smallest=2, loss=0), halo=8, trim=0, largest=None)
        """
        multiple = find_multiple(levels)
        if valid:
            size, output = find_valid_size(levels)
            rule = SizeRule(multiple, size, (size - output) // 2)
            return cls(rule, 0, count_spoilt(levels)).with_rim(rim)
        stop = 8 * multiple  # of an inner box: both of its ends on the grid, far from each other
        first, last = find_inputs(levels, -rim, stop - 1 + rim)
        margin = max(-first, last - stop + 1)
        return cls(SizeRule(multiple, multiple * smallest, 0), round_up(margin, multiple))

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


def max_valid_blocks(size: int, config: UNetConfig, axis: int = -1) -> int:
    """Return the most blocks that take a size as it is with valid convolution, 0 if none."""
    lean = config.replace(start_filters=1, normalization="none", conv_mode="valid")
    deeper = ((n, lean.with_blocks(n)) for n in range(_MAX_BLOCKS, 0, -1))
    fitting = (n for n, network in deeper if Reach.of(network, axis).rule.allows(size))
    return next(fitting, 0)


def round_up(value: int, multiple: int) -> int:
    """Return the next multiple, at least `value`."""
    return -(-value // multiple) * multiple


def round_down(value: int, multiple: int) -> int:
    """Return the previous multiple, at most `value`."""
    return value // multiple * multiple
