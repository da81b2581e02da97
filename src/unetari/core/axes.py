"""What each axis of an image means, guessed or given.

Letters: T time, C channel, Z Y X space, S the samples of an RGB image (always
last). A guess says in a sentence what it rests on, and whether it is sure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from unetari.errors import AxesError

LETTERS = "TCZYXS"
"""The axes unetari knows, in the usual order."""

NAMES = {
    "T": "time",
    "C": "channels",
    "Z": "depth",
    "Y": "height",
    "X": "width",
    "S": "RGB samples",
}
"""Plain names of the letters."""

_WORDS = {
    "T": ("t", "time", "times", "timepoint", "timepoints", "frame", "frames"),
    "C": ("c", "ch", "channel", "channels", "wavelength", "wavelengths", "stain", "stains"),
    "Z": ("z", "depth", "pln", "plane", "planes", "slice", "slices", "section", "sections"),
    "Y": ("y", "row", "rows", "height"),
    "X": ("x", "col", "cols", "column", "columns", "width"),
    "S": ("s", "rgb", "rgba", "sample", "samples"),
}
_MEANING = {word: letter for letter, words in _WORDS.items() for word in words}

# fmt: off
_TIME_UNITS = frozenset((
    "s", "ms", "us", "µs", "μs", "ns", "h", "hr", "min", "sec", "second", "millisecond",
    "microsecond", "nanosecond", "minute", "hour", "day",
))
_LENGTH_UNITS = frozenset((
    "m", "cm", "mm", "um", "µm", "μm", "nm", "pm", "å", "angstrom", "ångström", "micron", "inch",
    "meter", "metre", "centimeter", "centimetre", "millimeter", "millimetre", "micrometer",
    "micrometre", "nanometer", "nanometre", "picometer", "picometre",
))
# fmt: on
_MAX_CHANNELS = 4
"""An unlabelled axis this short, beside much longer ones, is taken for channels."""
_MIN_PLANE = 16
"""Shorter than this, Y and X are too small to tell a short axis from them."""


@dataclass(frozen=True)
class AxesGuess:
    """One letter per axis, and why."""

    axes: str
    """The letters, such as "TCZYX"."""
    reason: str
    """What the guess rests on, a sentence."""
    sure: bool
    """Whether labels, units or the RGB flag say so; False if sizes alone do."""


def parse_axes(axes: str, shape: Sequence[int]) -> str:
    """Check axis letters against an array's shape.

    Parameters
    ----------
    axes : str
        One letter per axis of the array, from T, C, Z, Y, X, S; case and spaces
        do not matter. S must be last, X and Y must occur, and Z and Y come before X
        in the order ZYX.
    shape : sequence of int
        Shape of the array.

    Returns
    -------
    str
        The letters in upper case.

    Raises
    ------
    AxesError
        If a letter is unknown or occurs twice, the number of letters is not the
        number of axes, or the order is not one unetari can read.

    Examples
    --------
    >>> parse_axes("zcyx", (30, 2, 512, 512))
    'ZCYX'
    >>> parse_axes("yx", (30, 512, 512))
    Traceback (most recent call last):
    ...
    unetari.errors.AxesError: axes='YX' names 2 axes, and the image has 3, ...
    """
    letters = re.sub(r"[\s,]", "", str(axes)).upper()
    problem = _find_problem(letters, shape)
    if problem:
        raise AxesError(f"axes={letters!r} {problem}")
    return letters


def _find_problem(letters: str, shape: Sequence[int]) -> str:
    unknown = sorted(set(letters) - set(LETTERS))
    if unknown:
        meanings = ", ".join(f"{letter} {NAMES[letter]}" for letter in LETTERS)
        return f"holds {', '.join(map(repr, unknown))}. Use the letters {meanings}."
    if len(set(letters)) < len(letters):
        return "names an axis twice. Give each axis a letter of its own."
    if len(letters) != len(shape):
        sizes = " x ".join(map(str, shape)) or "none"
        return (
            f"names {len(letters)} axes, and the image has {len(shape)}, of sizes {sizes}. "
            f"Give {len(shape)} letters, such as {_default(len(shape))!r}."
        )
    if "Y" not in letters or "X" not in letters:
        return "lacks Y or X. Every image needs both."
    if [letter for letter in letters if letter in "ZYX"] != [x for x in "ZYX" if x in letters]:
        return "has its space axes out of order. They must come as (Z,) Y, X: transpose the image."
    if "S" in letters:
        return _find_sample_problem(letters, shape)
    return ""


def _find_sample_problem(letters: str, shape: Sequence[int]) -> str:
    if "C" in letters:
        return "has both C and S. RGB samples are the channels: transpose or select one of them."
    if letters[-1] != "S":
        return "has S before other axes. The RGB samples must be the last axis."
    if shape[-1] not in (3, 4):
        return f"has S with {shape[-1]} samples. RGB has 3, RGBA 4; call another axis C instead."
    return ""


def _default(n_axes: int) -> str:
    return "TCZYX"[-n_axes:] if 2 <= n_axes <= 5 else "YX"


def guess_axes(
    shape: Sequence[int],
    *,
    rgb: bool = False,
    axis_labels: Sequence[str] = (),
    units: Sequence[object] = (),
    dim: int | None = None,
) -> AxesGuess:
    """Guess what each axis of an image means.

    Labels count first ("z", "time", "channel", ...), then units (a time unit is
    T), then the RGB flag; axes that are left are filled in from the end: X, Y,
    then a short axis as C, then Z, T, C.

    Parameters
    ----------
    shape : sequence of int
        Shape of the array, RGB samples included.
    rgb : bool
        Whether the last axis holds RGB or RGBA samples.
    axis_labels : sequence of str
        A label per axis (without the samples); napari's "axis -2" means nothing.
    units : sequence
        A unit per axis (without the samples), text or pint units.
    dim : int, optional
        Dimensions of the network. With 2, a third axis without any hint is still Z:
        both are looped over in the same way.

    Returns
    -------
    AxesGuess
        The letters, the reason as a sentence, and whether it is sure.

    Raises
    ------
    AxesError
        If the image has fewer than two axes besides the samples, or more axes
        than there are letters.

    Examples
    --------
    >>> guess_axes((60, 512, 512)).axes
    'ZYX'
    >>> guess_axes((512, 512, 3), rgb=True).axes
    'YXS'
    >>> guess_axes((60, 2, 512, 512), axis_labels=("z", "channel", "row", "column")).axes
    'ZCYX'
    """
    rgb = rgb or _is_labelled_rgb(shape, axis_labels)
    sizes = tuple(shape[:-1]) if rgb else tuple(shape)
    _check_count(sizes, rgb)
    hints = _read_hints(len(sizes), axis_labels, units)
    channel = None if rgb else _find_channel(sizes, hints, dim)
    options = _list_options(hints, with_channel=not rgb)
    is_usable = bool(options)
    if not is_usable:
        hints = [_Hint()] * len(sizes)
        options = _list_options(hints, with_channel=not rgb)
    letters = min(options, key=lambda option: _cost(option, hints, channel))
    why = [_explain(*parts, channel) for parts in zip(letters, hints, range(9), strict=False)]
    axes = "".join(letters) + ("S" if rgb else "")
    known = (hint.letters or letter in "YX" for letter, hint in zip(letters, hints, strict=True))
    reason = _sentence(axes, [*why, *(["because the image is RGB"] if rgb else [])])
    if not is_usable:
        reason += (
            " The axis labels and units contradict each other or their order, and are ignored."
        )
    return AxesGuess(axes, reason, is_usable and all(known))


@dataclass(frozen=True)
class _Hint:
    """The letters an axis may have ("" for any), and where that is known from."""

    letters: str = ""
    origin: str = ""


def _is_labelled_rgb(shape: Sequence[int], axis_labels: Sequence[str]) -> bool:
    if len(shape) < 3 or len(axis_labels) != len(shape) or shape[-1] not in (3, 4):
        return False
    return _read_label(axis_labels[-1]) == "S"


def _check_count(sizes: Sequence[int], rgb: bool) -> None:
    most = 4 if rgb else 5
    if not 2 <= len(sizes) <= most:
        text = " x ".join(map(str, sizes)) or "none"
        raise AxesError(
            f"The image has {len(sizes)} axes{' besides its RGB samples' if rgb else ''}, of sizes "
            f"{text}, and unetari reads 2 to {most}. "
            + (
                "Select or drop axes first."
                if len(sizes) > most
                else "Height and width are needed."
            )
        )


def _read_hints(n_axes: int, labels: Sequence[str], units: Sequence[object]) -> list[_Hint]:
    hints = [_Hint()] * n_axes
    unit_names = [str(unit).strip().lower() for unit in units][:n_axes]
    # One unit for all axes is what a viewer fills in, so it tells them not apart.
    if len(unit_names) == n_axes and len(set(unit_names)) > 1:
        hints = [_read_unit(name) for name in unit_names]
    if len(labels) >= n_axes:
        letters = [_read_label(label) for label in labels[:n_axes]]
        named = [
            _Hint(letter, "from its label") if letter not in "S" else None for letter in letters
        ]
        hints = [label or unit for label, unit in zip(named, hints, strict=True)]
    return hints


def _read_label(label: str) -> str:
    words = re.findall(r"[a-z]+", str(label).lower())
    return _MEANING.get(words[0], "") if words else ""


def _read_unit(name: str) -> _Hint:
    singular = name.removesuffix("s") if len(name) > 2 else name
    if name in _TIME_UNITS or singular in _TIME_UNITS:
        return _Hint("T", f"from its unit, {name}")
    if name in _LENGTH_UNITS or singular in _LENGTH_UNITS:
        return _Hint("ZYX", f"from its unit, {name}")
    return _Hint()


def _find_channel(sizes: Sequence[int], hints: Sequence[_Hint], dim: int | None) -> int | None:
    """Return the axis whose shortness alone suggests channels, if there is one."""
    n_axes = len(sizes)
    if n_axes < 3 or any(hint.letters == "C" for hint in hints):
        return None
    is_only_depth = dim == 3 and n_axes == 3
    places = [n_axes - 1] if is_only_depth else [n_axes - 3, *range(n_axes - 3), n_axes - 1]
    for axis in places:
        plane = [size for other, size in enumerate(sizes) if other != axis][-2:]
        is_short = 2 <= sizes[axis] <= _MAX_CHANNELS and min(plane) >= _MIN_PLANE
        if is_short and not hints[axis].letters:
            return axis
    return None


def _list_options(hints: Sequence[_Hint], *, with_channel: bool) -> list[tuple[str, ...]]:
    """List the readable orders of letters that agree with the hints."""
    options = permutations("TCZYX" if with_channel else "TZYX", len(hints))
    return [
        option
        for option in options
        if {"Y", "X"} <= set(option)
        and _in_order(option, "ZYX")
        and all(
            letter in (hint.letters or letter) for letter, hint in zip(option, hints, strict=True)
        )
    ]


def _in_order(letters: Sequence[str], order: str) -> bool:
    kept = [letter for letter in letters if letter in order]
    return kept == [letter for letter in order if letter in kept]


def _cost(option: Sequence[str], hints: Sequence[_Hint], channel: int | None) -> tuple[int, ...]:
    """Rank an option: channels where expected, few letters beyond ZYX, the usual order."""
    expected = next((i for i, hint in enumerate(hints) if hint.letters == "C"), channel)
    found = option.index("C") if "C" in option else None
    rank = ["TCZYX".index(letter) for letter in option]
    swaps = sum(a > b for a, b in combinations(rank, 2))
    return int(found != expected), sum("XYZTC".index(letter) for letter in option), swaps


def _explain(letter: str, hint: _Hint, axis: int, channel: int | None) -> str:
    if hint.letters:
        return hint.origin
    if letter == "C" and axis == channel:
        return "because that axis is so much shorter than the others"
    return "by the usual order"


def _sentence(axes: str, reasons: Sequence[str]) -> str:
    parts = []
    for reason in dict.fromkeys(reasons):
        same = [letter for letter, why in zip(axes, reasons, strict=True) if why == reason]
        names = " and ".join(filter(None, [", ".join(same[:-1]), same[-1]]))
        text = reason.replace("its", "their", 1) if len(same) > 1 else reason
        parts.append(f"{names} {text}")
    return f"Read as {axes}: {'; '.join(parts)}."
