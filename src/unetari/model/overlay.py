"""Labels in colour, the same everywhere: layers, small pictures, covers of packages."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Okabe and Ito's palette, which colour-blind people can tell apart; strong ones first.
_PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00")
_GOLDEN = 0.618034  # steps of the golden ratio spread hues evenly, however many there are
_OPACITY = 0.5


def label_color(label: int) -> tuple[float, float, float]:
    """Return the colour of a label from 1 on: red, green and blue, 0 to 1.

    Examples
    --------
    >>> label_color(7)
    (0.8352941176470589, 0.3686274509803922, 0.0)
    """
    if label > len(_PALETTE):
        return colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.75, 0.95)
    red, green, blue = bytes.fromhex(_PALETTE[label - 1][1:])
    return red / 255, green / 255, blue / 255


def stretch(plane: NDArray[Any]) -> NDArray[np.float32]:
    """Return intensities, (Y, X), as grey values from 0 to 255; what is not finite is black."""
    plane = np.nan_to_num(plane.astype(np.float32), nan=0, posinf=0, neginf=0)
    low, high = np.percentile(plane, (0.5, 99.7))
    grey: NDArray[np.float32] = np.clip((plane - low) / max(float(high - low), 1e-6), 0, 1) * 255
    return grey.astype(np.float32)


def overlay(
    grey: NDArray[np.float32], labels: NDArray[np.unsignedinteger[Any]]
) -> NDArray[np.float32]:
    """Draw labels over grey values, both (Y, X); return (Y, X, 3), 0 to 255."""
    picture = np.repeat(grey[..., None], 3, axis=-1)
    where = labels > 0
    found, index = np.unique(labels[where], return_inverse=True)
    colors = np.array([label_color(int(label)) for label in found], np.float32).reshape(-1, 3)
    picture[where] = (1 - _OPACITY) * picture[where] + _OPACITY * 255 * colors[index]
    return picture
