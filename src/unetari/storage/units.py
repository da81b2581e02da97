"""Lengths in micrometre, whatever unit a file speaks."""

from __future__ import annotations

import math
from collections.abc import Mapping

MICROMETER = "micrometer"
"""The one unit of length that unetari passes on."""

_MICROMETERS: dict[str, float] = {
    "m": 1e6,
    "meter": 1e6,
    "dm": 1e5,
    "decimeter": 1e5,
    "cm": 1e4,
    "centimeter": 1e4,
    "mm": 1e3,
    "millimeter": 1e3,
    "um": 1.0,
    "\N{MICRO SIGN}m": 1.0,
    "\N{GREEK SMALL LETTER MU}m": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "pm": 1e-6,
    "picometer": 1e-6,
    "\N{LATIN SMALL LETTER A WITH RING ABOVE}": 1e-4,
    "\N{ANGSTROM SIGN}": 1e-4,
    "angstrom": 1e-4,
    "in": 25400.0,
    "inch": 25400.0,
}


def micrometers(unit: str) -> float | None:
    """Return how many micrometres one `unit` is, or None if it is no known length.

    Examples
    --------
    >>> micrometers("nm"), micrometers("Micrometre"), micrometers("pixel")
    (0.001, 1.0, None)
    """
    # ImageJ writes the micro sign as an escape sequence.
    text = unit.strip().replace("\\u00B5", "\N{MICRO SIGN}")
    for name in (text, text.lower(), text.lower().replace("metre", "meter")):
        for candidate in (name, name.removesuffix("s")):
            if candidate in _MICROMETERS:
                return _MICROMETERS[candidate]
    return None


def to_micrometers(sizes: Mapping[str, float], unit: str) -> tuple[dict[str, float], str]:
    """Convert voxel sizes to micrometre.

    Parameters
    ----------
    sizes
        Size per axis, in `unit`. Sizes that are not positive and finite are
        left out.
    unit
        Name of a unit of length, in English or as a symbol; anything else,
        such as "pixel" or "", counts as unknown.

    Returns
    -------
    tuple of dict and str
        The sizes in micrometre and "micrometer"; or, for an unknown unit, the
        sizes as they are and "" (and no sizes where all of them are 1, which
        files say when they know nothing).

    Examples
    --------
    >>> to_micrometers({"Y": 325.0, "X": 325.0}, "nm")
    ({'Y': 0.325, 'X': 0.325}, 'micrometer')
    >>> to_micrometers({"Z": 2.0, "Y": 1.0}, "pixel")
    ({'Z': 2.0, 'Y': 1.0}, '')
    """
    usable = {axis: size for axis, size in sizes.items() if math.isfinite(size) and size > 0}
    factor = micrometers(unit)
    if factor is not None:
        # 12 digits: 325 nm is 0.325 um, not 0.32500000000000001.
        return {a: float(f"{s * factor:.12g}") for a, s in usable.items()}, MICROMETER
    if all(size == 1 for size in usable.values()):
        return {}, ""
    return usable, ""


def axes_to_micrometers(
    sizes: Mapping[str, float], units: Mapping[str, str]
) -> tuple[dict[str, float], str]:
    """Convert voxel sizes whose axes may have different units.

    Returns
    -------
    tuple of dict and str
        The sizes in micrometre and "micrometer"; or the sizes as they are and
        "" if one of the axes has no known unit.

    Examples
    --------
    >>> axes_to_micrometers({"Z": 0.002, "Y": 325.0}, {"Z": "mm", "Y": "nm"})
    ({'Z': 2.0, 'Y': 0.325}, 'micrometer')
    """
    if any(micrometers(units.get(axis, "")) is None for axis in sizes):
        return to_micrometers(sizes, "")
    converted: dict[str, float] = {}
    for axis, size in sizes.items():
        converted |= to_micrometers({axis: size}, units[axis])[0]
    return converted, MICROMETER
