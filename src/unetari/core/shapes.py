"""Does the image fit the network? Sizes, depths, and what can be done about it.

Everything here is arithmetic on sizes and options; nothing reads the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from unetari.core.axes import guess_axes
from unetari.core.config import UNetConfig
from unetari.core.network import NetworkConfig, reach_of
from unetari.core.scaling import AxisScaling, check_factors
from unetari.core.sizes import (
    Reach,
    compute_max_depth,
    compute_possible_shapes,
    even_sizes,
    is_count,
    max_valid_blocks,
    receptive_field,
    valid_output_size,
)
from unetari.core.source import ImageSource
from unetari.errors import ShapeError

__all__ = [
    "AxisReport",
    "Fix",
    "ShapeReport",
    "check_shape",
    "compute_max_depth",
    "compute_possible_shapes",
    "receptive_field",
    "valid_output_size",
]

FixKind = Literal[
    "pad", "n_blocks", "slice_by_slice", "channel", "grey", "in_channels", "rescale", "own_size"
]
_AXES = {"Z": -3, "Y": -2, "X": -1}


@dataclass(frozen=True)
class AxisReport:
    """How one spatial axis meets the network."""

    axis: str
    """Z, Y or X."""
    size: int
    """Size in voxels, as the network sees it."""
    multiple: int
    """Size multiple of the network."""
    levels: tuple[int, ...]
    """Sizes per level while pooling stays even, see `even_sizes`."""
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
    loss: int = 0
    """Voxels per side that valid convolution takes away."""
    only_size: int | None = None
    """The one size a network takes, if it takes no other."""
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
    config: NetworkConfig,
    source_or_shape: ImageSource | Sequence[int],
    axes: str | None = None,
    *,
    scale: Sequence[float] | None = None,
) -> ShapeReport:
    """Compare an image with a network, before any work starts.

    Parameters
    ----------
    config : UNetConfig or ForeignConfig
        The network.
    source_or_shape : ImageSource or sequence of int
        The image, or its shape.
    axes : str, optional
        One letter per axis (T, C, Z, Y, X, S). Default: the source's own, or
        guessed from the shape.
    scale : sequence of float, optional
        Factors by which the image is resampled for the network, ([Z,] Y, X).

    Returns
    -------
    ShapeReport
        Sizes, problems, notes and fixes.

    Raises
    ------
    AxesError
        If `axes` does not match the shape.
    ShapeError
        If a size is no whole number from 0 on, or `scale` is not one allowed factor per axis
        that the network sees.

    Examples
    --------
    >>> report = check_shape(UNetConfig(), (510, 512))
    >>> report.can_predict, report.fits
    (True, False)
    >>> print(report.notes[0])
    Y: 510 px is not a multiple of 8: prediction pads to 512, mirrored, and crops the result.
    """
    source = _as_source(config, source_or_shape, axes)
    problems, fixes = _check_axes(config, source)
    channel_problem, channel_fixes = _check_channels(config, source)
    factors = (1.0,) * config.dim if scale is None else check_factors(scale, config.dim)
    per_axis = zip("ZYX"[-config.dim :], reach_of(config), factors, strict=True)
    reports = tuple(
        _check_axis(config, reach, letter, AxisScaling(source.size[letter], factor).rescaled_size)
        for letter, reach, factor in per_axis
        if source.size.get(letter)
    )
    return ShapeReport(
        axes=reports,
        problems=(*problems, *channel_problem),
        notes=tuple(_notes(config, reports)),
        fixes=(*channel_fixes, *fixes, *_size_fixes(config, reports)),
        facts=(*_describe_scale(source, reports), *_facts(config, source, reports)),
    )


def _as_source(
    config: NetworkConfig, given: ImageSource | Sequence[int], axes: str | None
) -> ImageSource:
    if isinstance(given, ImageSource):
        if axes is None:
            return given
        return ImageSource(given.data, axes, channel=given.channel, grey=given.grey)
    if not all(is_count(size, least=0) for size in given):
        raise ShapeError(
            f"The shape {tuple(given)} must have a whole number per axis, 0 or more, such as "
            "(512, 512). Give the shape of the image."
        )
    shape = tuple(int(size) for size in given)
    letters = guess_axes(shape, dim=config.dim).axes if axes is None else axes
    # An array of any shape that takes no memory.
    return ImageSource(np.broadcast_to(np.zeros((), np.uint8), shape), letters)


def _check_axes(config: NetworkConfig, source: ImageSource) -> tuple[list[str], list[Fix]]:
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
    return problems, [Fix("slice_by_slice", None, "Use a 2D network: plane by plane")]


def _check_channels(config: NetworkConfig, source: ImageSource) -> tuple[list[str], list[Fix]]:
    has, wants, total = source.n_channels, config.in_channels, source.data_channels
    if has == wants or total == 0:
        return [], []
    fixes = []
    choices = []
    if wants == 1:
        fixes = [Fix("channel", i, f"Use channel {i} only") for i in range(total)]
        choices.append(f"use one channel only (0 to {total - 1})")
    if wants == 1 and source.may_be_rgb:
        fixes.append(Fix("grey", None, "Convert RGB to grey"))
        choices.append("convert RGB to grey")
    if has != total == wants:
        fixes.append(Fix("channel", None, f"Use all {total} channels"))
        choices.append(f"use all {total} channels")
    fixes.append(Fix("in_channels", has, f"Build a network with {_count(has, 'input channel')}"))
    choices.append(f"build or load a network with {_count(has, 'input channel')}")
    return [
        f"The image has {_count(has, 'channel')}, and the network takes {wants}. "
        f"You can {_join(choices, 'or')}."
    ], fixes


def _check_axis(config: NetworkConfig, reach: Reach, letter: str, size: int) -> AxisReport:
    rule, axis = reach.rule, _AXES[letter]
    unet = config if isinstance(config, UNetConfig) else UNetConfig(dim=config.dim)
    levels = tuple(even_sizes(size, unet, axis))
    smaller, larger = rule.below(size), rule.above(size)
    is_valid = rule.loss > 0
    thin = size < rule.smallest if is_valid else 1 < rule.multiple >= size
    return AxisReport(
        axis=letter,
        size=size,
        multiple=rule.multiple,
        levels=levels,
        max_level=len(levels) - 1,
        max_blocks=max_valid_blocks(size, unet, axis) if is_valid else len(levels),
        smaller=smaller,
        larger=larger,
        pad=rule.above(size + 2 * rule.loss) - size,
        output_size=(0 if smaller is None else smaller - 2 * rule.loss) if is_valid else size,
        fits=rule.allows(size) and (reach.largest is None or size <= reach.largest),
        loss=rule.loss,
        only_size=rule.smallest if reach.largest == rule.smallest else None,
        thin=thin,
    )


def _size_fixes(config: NetworkConfig, axes: Sequence[AxisReport]) -> Iterator[Fix]:
    for axis in axes:
        if not axis.fits:
            target = axis.size + axis.pad
            text = f"Pad {axis.axis} by {axis.pad} px to {target} px (prediction does so by itself)"
            yield Fix("pad", axis.pad, text)
    thin = [axis for axis in axes if axis.thin]
    if isinstance(config, UNetConfig):
        yield from _depth_fixes(config, axes, thin)
    if config.dim == 3 and "Z" in [axis.axis for axis in thin]:
        yield Fix("slice_by_slice", None, "Use a 2D network: plane by plane along Z")


def _depth_fixes(
    config: UNetConfig, axes: Sequence[AxisReport], thin: Sequence[AxisReport]
) -> Iterator[Fix]:
    blocks = min((axis.max_blocks for axis in axes), default=0)
    fewer_fit = 2 <= blocks < config.n_blocks and not all(axis.fits for axis in axes)
    if fewer_fit:
        yield Fix("n_blocks", blocks, f"Use {blocks} blocks: every size is then taken as it is")
    if not thin:
        return
    enough = min(_deepest_network(config, axis.axis, axis.size) for axis in thin)
    if enough and not (fewer_fit and enough == blocks):
        names = _join([axis.axis for axis in thin])
        yield Fix("n_blocks", enough, f"Use {_count(enough, 'block')}, which suits a short {names}")


def _deepest_network(config: UNetConfig, letter: str, size: int) -> int:
    """Return the most blocks for which an axis of this size is not thin, 0 if none."""
    for blocks in range(config.n_blocks - 1, 0, -1):
        shallower = config.with_blocks(blocks)
        if not _check_axis(shallower, Reach.of(shallower, _AXES[letter]), letter, size).thin:
            return blocks
    return 0


def _notes(config: NetworkConfig, axes: Sequence[AxisReport]) -> Iterator[str]:
    for names, axis in _by_size(axes):
        if axis.only_size is not None and not axis.fits:
            yield _describe_only_size(names, axis)
        elif axis.loss:
            yield _describe_valid(names, axis)
        elif not axis.fits:
            yield _describe_misfit(names, axis)
        if axis.thin:
            yield _describe_thin(names, axis, config)


def _by_size(axes: Sequence[AxisReport]) -> Iterator[tuple[str, AxisReport]]:
    """Join axes that differ in their letter only, so that they share a sentence."""
    alike: dict[AxisReport, list[str]] = {}
    for axis in axes:
        alike.setdefault(replace(axis, axis=""), []).append(axis.axis)
    for axis, names in alike.items():
        yield _join(names), axis


def _describe_only_size(names: str, axis: AxisReport) -> str:
    return (
        f"{names}: {axis.size} px. The network takes {axis.only_size} px and no other size: "
        "prediction covers the image with such tiles, and mirrors what they lack."
    )


def _describe_misfit(names: str, axis: AxisReport) -> str:
    rule = f"is not a multiple of {axis.multiple}"
    if axis.larger % axis.multiple or axis.size % axis.multiple == 0:
        rule = f"is no size that the network takes ({axis.larger}, and every {axis.multiple} more)"
    return (
        f"{names}: {axis.size} px {rule}: prediction pads to {axis.larger}, mirrored, and crops "
        "the result."
    )


def _describe_valid(names: str, axis: AxisReport) -> str:
    return (
        f"{names}: {axis.size} px. Valid convolution loses {axis.loss} px on each side: prediction "
        "pads as much, mirrored, and the result covers the image."
    )


def _describe_thin(names: str, axis: AxisReport, config: NetworkConfig) -> str:
    ours = isinstance(config, UNetConfig)
    blocks = _count(config.n_blocks, "block") if isinstance(config, UNetConfig) else "the network"
    deepest = f"the deepest of {blocks}" if ours else "its deepest level"
    reason = (
        f"a plain pass of {blocks} takes at least {axis.larger} px"
        if axis.loss
        else f"{deepest} sees a single voxel of it"
    )
    plane_by_plane = ", or a 2D one plane by plane," if config.dim == 3 and "Z" in names else ""
    unit = "blocks" if ours else "levels"
    advice = f"A network with fewer {unit}{plane_by_plane} suits it better."
    return f"{names}: {axis.size} px is thin: {reason}. {advice}"


def _describe_scale(source: ImageSource, axes: Sequence[AxisReport]) -> Iterator[str]:
    sizes = [
        f"{axis.axis} from {source.size[axis.axis]} to {axis.size} px"
        for axis in axes
        if axis.size != source.size[axis.axis]
    ]
    if sizes:
        yield (
            f"The network sees the image rescaled: {_join(sizes)}. Labels come back on the "
            "image's own voxels."
        )


def _facts(config: NetworkConfig, source: ImageSource, axes: Sequence[AxisReport]) -> Iterator[str]:
    for names, axis in _by_size([axis for axis in axes if axis.fits and not axis.loss]):
        is_rule = axis.multiple > 1 and axis.larger % axis.multiple == 0
        rule = f", being a multiple of {axis.multiple}" if is_rule else ""
        yield f"{names}: {axis.size} px fits as it is{rule}."
    looped = {x: source.size[x] for x in source.label_axes if x not in "ZYX"[-config.dim :]}
    count = math.prod(looped.values())
    if count > 1 and len(axes) == config.dim:
        sizes = ", ".join(f"{letter} {size}" for letter, size in looped.items())
        kind = "planes" if config.dim == 2 else "volumes"
        yield f"{count} {kind} ({sizes}) are predicted one by one."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _join(names: Sequence[str], word: str = "and") -> str:
    if len(names) < 3:
        return f" {word} ".join(names)
    return f"{', '.join(names[:-1])}, {word} {names[-1]}"
