"""Does the image fit the network? Sizes, depths, and what can be done about it.

Everything here is arithmetic on sizes and options; nothing reads the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from unetari.core.axes import guess_axes
from unetari.core.config import UNetConfig
from unetari.core.source import ImageSource
from unetari.errors import ShapeError

FixKind = Literal["pad", "n_blocks", "slice_by_slice", "channel", "grey", "in_channels"]

_MAX_BLOCKS = 10
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
    even, odd = _INTERPOLATION[config.up_mode]
    first, last = position - 2, position + 2
    for _ in range(config.n_blocks - 1):
        first = first // 2 + (odd if first % 2 else even)[0] - 2
        last = last // 2 + (odd if last % 2 else even)[1] + 2
    for _ in range(config.n_blocks - 1):
        first, last = 2 * first - 2, 2 * last + 1 + 2
    return last - first + 1


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
    rule = _SizeRule.of(config)
    if not rule.allows(size):
        smaller, larger = rule.below(size), rule.above(size)
        raise ShapeError(
            f"Size {size} does not pool evenly in {config.n_blocks} blocks with "
            f"{config.conv_mode} convolution. Sizes that do: "
            f"{larger if smaller is None else f'{smaller} and {larger}'}."
        )
    return size - 2 * rule.loss


@dataclass(frozen=True)
class _SizeRule:
    """The sizes that fit a network: from `smallest` on, in steps of `multiple`."""

    multiple: int
    smallest: int
    loss: int
    """Voxels a pass loses per side."""

    @classmethod
    def of(cls, config: UNetConfig) -> _SizeRule:
        p = config.multiple
        if config.conv_mode == "same":
            return cls(p, p, 0)
        # With d voxels entering the deepest block, p * d + 4 * (p - 1) go in and
        # p * (d - 8) + 4 come out.
        deepest = next(d for d in range(5, 9) if p * (d - 8) + 4 >= 1)
        return cls(p, p * deepest + 4 * (p - 1), 6 * p - 4)

    def allows(self, size: int) -> bool:
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
class AxisReport:
    """How one spatial axis meets the network."""

    axis: str
    """Z, Y or X."""
    size: int
    """Size in voxels."""
    multiple: int
    """Size multiple of the network."""
    levels: tuple[int, ...]
    """Sizes per level while pooling stays even, see `compute_max_depth`."""
    max_level: int
    """Deepest level of `levels`."""
    max_blocks: int
    """Most blocks that take this size without padding."""
    smaller: int | None
    """Nearest size that fits, at most `size`; None if there is none."""
    larger: int
    """Nearest size that fits, at least `size`."""
    pad: int
    """Voxels that prediction adds by mirroring, both sides together, and crops off again."""
    output_size: int
    """Size after one plain pass: `size` with same convolution; with valid convolution what
    comes out of `smaller` (0 if there is none)."""
    fits: bool
    """Whether a plain pass takes this size as it is."""
    thin: bool = False
    """Whether the axis is too short for the network's depth. With same convolution:
    size <= multiple, so that the deepest level has a single voxel, which is what the
    valid-depth rule forbids. With valid convolution: below the smallest size that fits."""


@dataclass(frozen=True)
class Fix:
    """One thing a user can do about a mismatch."""

    kind: FixKind
    """What to change."""
    value: int | None
    """The new value: voxels, blocks, channel index, channels; None where there is none."""
    text: str
    """The fix as a request, such as "Use channel 0 only"."""


@dataclass(frozen=True)
class ShapeReport:
    """Whether an image fits a network, and what can be done."""

    axes: tuple[AxisReport, ...]
    """One per spatial axis the network and the image share, in the order ZYX."""
    problems: tuple[str, ...]
    """What blocks prediction."""
    notes: tuple[str, ...]
    """What does not block: padding, thin volumes."""
    fixes: tuple[Fix, ...]
    """What can be done about problems and notes."""
    facts: tuple[str, ...] = ()
    """What fits, and what is looped over."""

    @property
    def can_predict(self) -> bool:
        """Whether nothing blocks prediction."""
        return not self.problems

    @property
    def fits(self) -> bool:
        """Whether the image fits as it is, without padding."""
        return self.can_predict and all(axis.fits for axis in self.axes)

    def sentences(self) -> list[str]:
        """Return the report in plain language, the most important first."""
        return [*self.problems, *self.facts, *self.notes]


def check_shape(
    config: UNetConfig, source_or_shape: ImageSource | Sequence[int], axes: str | None = None
) -> ShapeReport:
    """Compare an image with a network, before any work starts.

    Parameters
    ----------
    config : UNetConfig
        The network.
    source_or_shape : ImageSource or sequence of int
        The image, or its shape.
    axes : str, optional
        One letter per axis (T, C, Z, Y, X, S). Default: the source's own, or
        guessed from the shape.

    Returns
    -------
    ShapeReport
        Sizes, problems, notes and fixes.

    Raises
    ------
    AxesError
        If `axes` does not match the shape.

    Examples
    --------
    >>> report = check_shape(UNetConfig(), (510, 512))
    >>> report.can_predict, report.fits
    (True, False)
    >>> print(report.notes[0])
    Y: 510 px is not a multiple of 8. Prediction pads 2 px by reflection and crops them off
    again; 512 fits as it is. At most 2 blocks fit 510 without padding.
    """
    source = _as_source(config, source_or_shape, axes)
    problems, fixes = _check_axes(config, source)
    channel_problem, channel_fixes = _check_channels(config, source)
    spatial = [letter for letter in "ZYX"[-config.dim :] if source.size.get(letter)]
    reports = tuple(_check_axis(config, letter, source.size[letter]) for letter in spatial)
    return ShapeReport(
        axes=reports,
        problems=(*problems, *channel_problem),
        notes=tuple(_note(config, reports)),
        fixes=(*channel_fixes, *fixes, *_size_fixes(config, reports)),
        facts=tuple(_facts(config, source, reports)),
    )


def _as_source(
    config: UNetConfig, given: ImageSource | Sequence[int], axes: str | None
) -> ImageSource:
    if isinstance(given, ImageSource):
        if axes is None:
            return given
        return ImageSource(given.data, axes, channel=given.channel, grey=given.grey)
    shape = tuple(int(size) for size in given)
    letters = guess_axes(shape, dim=config.dim).axes if axes is None else axes
    # An array of any shape that takes no memory.
    return ImageSource(np.broadcast_to(np.zeros((), np.uint8), shape), letters)


def _check_axes(config: UNetConfig, source: ImageSource) -> tuple[list[str], list[Fix]]:
    problems = [
        f"Axis {letter} is empty (size 0). Load an image with data."
        for letter, size in source.size.items()
        if size == 0
    ]
    if config.dim == 2 or "Z" in source.axes:
        return problems, []
    problems.append(
        f"The network is 3D, and the image has no Z axis ({source.describe()}). Use a 2D network, "
        "or name the axis that is depth Z."
    )
    return problems, [Fix("slice_by_slice", None, "Use a 2D network, plane by plane")]


def _check_channels(config: UNetConfig, source: ImageSource) -> tuple[list[str], list[Fix]]:
    has, wants, total = source.n_channels, config.in_channels, source.data_channels
    if has == wants or total == 0:
        return [], []
    fixes = []
    if wants == 1:
        fixes = [Fix("channel", i, f"Use channel {i} only") for i in range(total)]
    if wants == 1 and total == 3:
        fixes.append(Fix("grey", None, "Convert RGB to grey"))
    if has != total == wants:
        fixes.append(Fix("channel", None, f"Use all {total} channels"))
    fixes.append(Fix("in_channels", has, f"Build a network with {_count(has, 'input channel')}"))
    choices = " or ".join(text[0].lower() + text[1:] for text in _summarize(fixes, total))
    problem = f"The image has {_count(has, 'channel')}, and the network takes {wants}."
    return [
        f"{problem} Either {choices}."
        if " or " in choices
        else f"{problem} {choices[0].upper()}{choices[1:]}."
    ], fixes


def _summarize(fixes: Sequence[Fix], total: int) -> Iterator[str]:
    """Yield the fixes' texts, with one for all single channels."""
    if any(fix.kind == "channel" and fix.value is not None for fix in fixes):
        yield f"Use one channel (0 to {total - 1})"
    for fix in fixes:
        if fix.kind != "channel" or fix.value is None:
            yield fix.text


def _check_axis(config: UNetConfig, letter: str, size: int) -> AxisReport:
    rule = _SizeRule.of(config)
    levels = tuple(compute_max_depth(size))
    smaller, larger = rule.below(size), rule.above(size)
    is_valid = config.conv_mode == "valid"
    thin = size < rule.smallest if is_valid else config.n_blocks > 1 and size <= rule.multiple
    return AxisReport(
        axis=letter,
        size=size,
        multiple=config.multiple,
        levels=levels,
        max_level=len(levels) - 1,
        max_blocks=_max_valid_blocks(config, size) if is_valid else len(levels),
        smaller=smaller,
        larger=larger,
        pad=rule.above(size + 2 * rule.loss) - size,
        output_size=(0 if smaller is None else smaller - 2 * rule.loss) if is_valid else size,
        fits=rule.allows(size),
        thin=thin,
    )


def _max_valid_blocks(config: UNetConfig, size: int) -> int:
    """Return the most blocks that take a size as it is with valid convolution, 0 if none."""
    choices = range(_MAX_BLOCKS, 0, -1)
    rules = (
        (n, _SizeRule.of(UNetConfig(n_blocks=n, conv_mode="valid", start_filters=1)))
        for n in choices
    )
    return next((n for n, rule in rules if rule.allows(size)), 0)


def _size_fixes(config: UNetConfig, axes: Sequence[AxisReport]) -> Iterator[Fix]:
    for axis in axes:
        if not axis.fits:
            target = axis.size + axis.pad
            text = f"Pad {axis.axis} by {axis.pad} px to {target} px (prediction does so by itself)"
            yield Fix("pad", axis.pad, text)
    misfits = [axis for axis in axes if not axis.fits]
    blocks = min((axis.max_blocks for axis in axes), default=0)
    if misfits and 2 <= blocks < config.n_blocks:
        yield Fix("n_blocks", blocks, f"Use {blocks} blocks: the image then fits without padding")
    yield from _thin_fixes(config, [axis for axis in axes if axis.thin])


def _thin_fixes(config: UNetConfig, thin: Sequence[AxisReport]) -> Iterator[Fix]:
    if not thin:
        return
    smallest = min(axis.size for axis in thin)
    blocks = _deepest_network(config, smallest)
    if blocks:
        names = _join([axis.axis for axis in thin])
        yield Fix("n_blocks", blocks, f"Use {_count(blocks, 'block')}: enough for {names}")
    if config.dim == 3 and any(axis.axis == "Z" for axis in thin):
        yield Fix("slice_by_slice", None, "Use a 2D network, plane by plane along Z")


def _deepest_network(config: UNetConfig, size: int) -> int:
    """Return the most blocks for which an axis of this size is not thin, 0 if none."""
    for blocks in range(config.n_blocks - 1, 0, -1):
        shallower = config.replace(n_blocks=blocks)
        if not _check_axis(shallower, "Z", size).thin:
            return blocks
    return 0


def _note(config: UNetConfig, axes: Sequence[AxisReport]) -> Iterator[str]:
    describe = _describe_valid if config.conv_mode == "valid" else _describe_misfit
    for _, group in groupby(axes, key=lambda axis: axis.size):
        same = list(group)
        if not same[0].fits or config.conv_mode == "valid":
            yield describe(_join([axis.axis for axis in same]), same[0], config)
        for axis in same:
            if axis.thin:
                yield _describe_thin(axis, config)


def _describe_misfit(names: str, axis: AxisReport, config: UNetConfig) -> str:
    text = (
        f"{names}: {axis.size} px is not a multiple of {axis.multiple}. Prediction pads "
        f"{axis.pad} px by reflection and crops them off again; {axis.larger} fits as it is."
    )
    if axis.thin or axis.max_blocks >= config.n_blocks:
        return text
    if axis.max_blocks == 1:
        return f"{text} No pooling network fits {axis.size} without padding."
    return f"{text} At most {axis.max_blocks} blocks fit {axis.size} without padding."


def _describe_valid(names: str, axis: AxisReport, config: UNetConfig) -> str:
    loss = _SizeRule.of(config).loss
    text = (
        f"{names}: {axis.size} px. Valid convolution loses {loss} px on each side; prediction "
        f"mirrors {axis.pad} px in all, so that the result still covers the image."
    )
    if axis.fits:
        return f"{text} One plain pass would give {axis.output_size} px."
    nearest = str(axis.larger) if axis.smaller is None else f"{axis.smaller} or {axis.larger}"
    return f"{text} A plain pass takes sizes such as {nearest}, not {axis.size}."


def _describe_thin(axis: AxisReport, config: UNetConfig) -> str:
    blocks = _count(config.n_blocks, "block")
    reason = (
        f"a plain pass of {blocks} takes at least {axis.larger} px"
        if config.conv_mode == "valid"
        else f"the deepest of {blocks} sees a single voxel along {axis.axis}"
    )
    advice = "fewer blocks"
    if axis.axis == "Z":
        advice += ", or a 2D network plane by plane,"
    return (
        f"{axis.axis}: {axis.size} px is thin: {reason}. A network with {advice} suits it better."
    )


def _facts(config: UNetConfig, source: ImageSource, axes: Sequence[AxisReport]) -> Iterator[str]:
    fitting = [axis for axis in axes if axis.fits and config.conv_mode == "same"]
    for size, group in groupby(fitting, key=lambda axis: axis.size):
        names = _join([axis.axis for axis in group])
        rule = f" (a multiple of {config.multiple})" if config.n_blocks > 1 else ""
        yield f"{names}: {size} px fits as it is{rule}."
    looped = {x: source.size[x] for x in source.label_axes if x not in "ZYX"[-config.dim :]}
    if looped and all(looped.values()):
        sizes = " x ".join(f"{size} along {letter}" for letter, size in looped.items())
        kind = "plane" if config.dim == 2 else "volume"
        yield f"Each {kind} is predicted on its own: {sizes}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
