"""What the diagram of a network says: the words of each block and each arrow.

Widths of texts are estimated, rather too wide than too narrow, because no font
is known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from unetari.core.config import UNetConfig
from unetari.core.levels import Level, find_levels
from unetari.core.sizes import axis_levels
from unetari.core.stencils import AxisLevel
from unetari.core.tiles import plan_tiles

Role = Literal[
    "text", "muted", "alert", "flow", "skip", "encoder", "deepest", "decoder", "image", "labels"
]
"""What a part of the picture means; its colours follow from it."""

_TIMES, _ARROW, _NONE = "\N{MULTIPLICATION SIGN}", "\N{RIGHTWARDS ARROW}", "\N{EN DASH}"
_ACTIVATIONS = {"relu": "ReLU", "leaky": "leaky ReLU", "elu": "ELU"}
_LETTERS = "ZYX"
_EMS = (("ijlIJftr,.:;()'| -", 0.44), ("mMW", 1.0), (f"w%{_TIMES}{_ARROW}+=", 0.84))
"""Widths of letters, as in DejaVu Sans, which is among the widest that people use."""


@dataclass(frozen=True)
class Run:
    """Words of one colour; what is "alert" is bold as well, so that colour is not all."""

    text: str
    role: Role = "text"


@dataclass(frozen=True)
class Line:
    """Runs after each other."""

    runs: tuple[Run, ...]
    bold: bool = False
    size: int = 12

    @property
    def width(self) -> float:
        """Estimated width, rather too large than too small."""
        return self.size * sum(
            estimate_width(run.text, bold=self.bold or run.role == "alert") for run in self.runs
        )

    @property
    def height(self) -> int:
        """Height, with the distance to the next line."""
        return self.size + 4

    @property
    def text(self) -> str:
        """All words."""
        return "".join(run.text for run in self.runs)


def estimate_width(text: str, *, bold: bool = False) -> float:
    """Estimate the width of a text in ems, rather too large than too small.

    Examples
    --------
    >>> round(estimate_width("conv"), 2)
    2.56
    """
    width = sum(_em(letter) for letter in text)
    return 1.12 * width if bold else width


def _em(letter: str) -> float:
    for letters, width in _EMS:
        if letter in letters:
            return width
    return 0.79 if letter.isupper() else 0.64


@dataclass(frozen=True)
class Row:
    """Two blocks beside each other, and what stands on the arrows to the next row."""

    left: tuple[Line, ...]
    right: tuple[Line, ...]
    roles: tuple[Role, Role]
    skip: tuple[Line, ...] = ()
    below: tuple[tuple[Line, ...], tuple[Line, ...]] = ((), ())
    is_wrong: bool = False

    @property
    def tallest(self) -> tuple[Line, ...]:
        """The lines of the box that has more of them."""
        return max(self.left, self.right, key=total_height)


def total_height(lines: Iterable[Line]) -> int:
    """Return the height of lines below each other."""
    return sum(line.height for line in lines)


def _plain(text: str, role: Role = "text") -> Line:
    return Line((Run(text, role),))


def _head(text: str) -> Line:
    return Line((Run(text),), bold=True, size=13)


def _label(text: str, role: Role = "text") -> Line:
    return Line((Run(text, role),), size=11)


def _kernel(config: UNetConfig, size: int, level: int) -> str:
    sizes = [size] * config.dim
    if level in config.planar_blocks:
        sizes[0] = 1
    return _TIMES.join(map(str, sizes))


def _crop(levels: Sequence[AxisLevel], level: int) -> int:
    """Return the voxels per side that valid convolution takes below a level, at its resolution."""
    if level == len(levels) - 2:
        return levels[level].pool * levels[-1].encoder
    below = levels[level + 1]
    return levels[level].pool * (below.encoder + _crop(levels, level + 1) + below.decoder)


def _sizes(sizes: Sequence[int]) -> str:
    return f" {_TIMES} ".join(map(str, sizes))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Words:
    """What the parts of a network say."""

    def __init__(self, config: UNetConfig, shape: Sequence[int] | None) -> None:
        self.config = config
        self.shape = None if shape is None else tuple(shape)
        self.levels = () if shape is None else find_levels(config, shape)
        first = self.levels[0] if self.levels else None
        self.is_padded = first is not None and first.plain != first.encoder
        self.is_wrong = any(any(level.wrong) for level in self.levels)

    @property
    def title(self) -> str:
        """The whole in a few words."""
        blocks = _count(self.config.n_blocks, "block")
        size = "" if self.shape is None else f", image {_sizes(self.shape)}"
        return f"U-Net: {self.config.dim}D, {blocks}{size}"

    def rows(self) -> list[Row]:
        """Return the rows above the deepest block."""
        outside = Row(self.image(), self.labels(), ("image", "labels"))
        levels = range(self.config.n_blocks - 1)
        return [outside, *(self.row(level) for level in levels)]

    def row(self, level: int) -> Row:
        """Return the two blocks of a level that is not the deepest."""
        filters = self.config.filters
        before = filters[level - 1] if level else self.config.in_channels
        wrong = self.wrong(level)
        pool = _label(f"max pool {_kernel(self.config, 2, level)}")
        return Row(
            left=(*self.block(before, level), *self.encoder_sizes(level)),
            right=(*self.block(2 * filters[level], level), *self.decoder_sizes(level)),
            roles=("encoder", "decoder"),
            skip=self.skip(level),
            below=((pool, _label(wrong, "alert")) if wrong else (pool,), self.up(level)),
            is_wrong=bool(wrong),
        )

    def image(self) -> tuple[Line, ...]:
        """Return what goes in."""
        head = _head(f"Image, {_count(self.config.in_channels, 'channel')}")
        if self.shape is None:
            return (head,)
        if not self.is_padded:
            return head, _plain(_sizes(self.shape))
        padded = plan_tiles(self.shape, self.config).tile_shape
        return head, _plain(_sizes(self.shape)), _plain(f"padded {_sizes(padded)}", "muted")

    def labels(self) -> tuple[Line, ...]:
        """Return the last convolution and what comes out."""
        config = self.config
        channels = f"{config.start_filters} {_ARROW} {config.out_channels}"
        last = f"conv {_kernel(config, 1, 0)}, {channels}"
        lines = [_head(f"Labels, {config.n_classes} classes"), _plain(last)]
        if self.shape is not None:
            cropped = "cropped " if self.is_padded else ""
            lines.append(_plain(f"{cropped}{_sizes(self.shape)}"))
        return tuple(lines)

    def deepest(self) -> tuple[Line, ...]:
        """Return the block at the bottom, which has room for longer lines."""
        config = self.config
        before = config.filters[-2] if config.n_blocks > 1 else config.in_channels
        level = config.n_blocks - 1
        head, *operations = self.block(before, level)
        joined = _plain(", ".join(line.text for line in operations))
        wrong = self.wrong(level)
        reason = [_plain(wrong, "alert")] if wrong else []
        return head, joined, *self.encoder_sizes(level), *reason

    def block(self, before: int, level: int) -> tuple[Line, ...]:
        """Return the channels and the two convolutions of a block."""
        config = self.config
        after = config.filters[level]
        mode = ", valid" if config.conv_mode == "valid" else ""
        parts = [_ACTIVATIONS[config.activation]]
        if config.groups is not None:
            parts.append(f"group norm ({config.groups})")
        elif config.normalization != "none":
            parts.append(f"{config.normalization} norm")
        if config.block_order == "conv-norm-act":
            parts.reverse()
        return (
            _head(f"{before} {_ARROW} {_count(after, 'channel')}"),
            _plain(f"2 {_TIMES} conv {_kernel(config, 3, level)}{mode}"),
            _plain(", ".join(parts)),
        )

    def up(self, level: int) -> tuple[Line, ...]:
        """Return how the level below is upsampled to this one."""
        config = self.config
        channels = f"{config.filters[level + 1]} {_ARROW} {config.filters[level]}"
        if config.up_mode == "transposed":
            return _label(f"transposed conv {_kernel(config, 2, level)}"), _label(channels)
        convolution = f"conv {_kernel(config, 1, level)}, {channels}"
        factor = _kernel(config, 2, level) if level in config.planar_blocks else "2"
        return _label(f"{config.up_mode} {_TIMES}{factor}"), _label(convolution)

    def skip(self, level: int) -> tuple[Line, ...]:
        """Return what happens to the encoder's features on the way to the decoder."""
        if self.config.conv_mode == "same":
            return (_label("skip"),)
        axes = range(-self.config.dim, 0)
        crops = [_crop(axis_levels(self.config, axis), level) for axis in axes]
        crop = _sizes(crops if len(set(crops)) > 1 else crops[:1])
        return _label("skip"), _label(f"crop {crop}"), _label("per side")

    def encoder_sizes(self, level: int) -> tuple[Line, ...]:
        """Return the sizes without padding, and with it."""
        if not self.levels:
            return ()
        sizes = self.levels[level]
        if not self.is_padded:
            return (_plain(_sizes(sizes.encoder)),)
        padded = _plain(f"padded {_sizes(sizes.encoder)}", "muted")
        if all(size is None for size in sizes.plain):
            return (padded,)
        return self.plain_sizes(sizes), padded

    def plain_sizes(self, level: Level) -> Line:
        """Return the sizes without padding, those that go wrong in red."""
        runs: list[Run] = []
        for size, wrong in zip(level.plain, level.wrong, strict=True):
            if runs:
                runs.append(Run(f" {_TIMES} "))
            text = _NONE if size is None else str(size)
            runs.append(Run(text, "alert" if wrong else "text"))
        return Line(tuple(runs))

    def decoder_sizes(self, level: int) -> tuple[Line, ...]:
        """Return the sizes that prediction has on the way up."""
        if not self.levels:
            return ()
        sizes = _sizes(self.levels[level].decoder)
        return (_plain(f"padded {sizes}", "muted") if self.is_padded else _plain(sizes),)

    def wrong(self, level: int) -> str:
        """Say which axes of the plain image go wrong on a level; empty if none does."""
        if not self.levels:
            return ""
        wrong = self.levels[level].wrong
        letters = _LETTERS[-self.config.dim :]
        axes = ", ".join(letter for letter, reason in zip(letters, wrong, strict=True) if reason)
        return f"{axes} {' or '.join(sorted({reason for reason in wrong if reason}))}".strip()

    def legend(self) -> tuple[Line, ...]:
        """Explain the red, if there is any."""
        if not self.is_wrong:
            return ()
        odd = "odd, so it cannot be halved"
        reason = odd if self.config.conv_mode == "same" else "odd or too small"
        return (Line((Run("Red", "alert"), Run(f": {reason}; prediction pads.")), size=11),)
