"""The picture of a package: a test image beside the same with what the model finds in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEIGHT = 256
_OPACITY = 0.45
_COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167)], np.float32
)
"""Told apart with all kinds of colour vision (Okabe and Ito)."""


def draw_cover(image: NDArray[Any], scores: NDArray[Any], classes: str) -> bytes:
    """Draw a PNG, twice as wide as high.

    Parameters
    ----------
    image : ndarray, (C, [Z,] Y, X)
        Intensities; the first channel is shown, of a volume its middle plane.
    scores : ndarray, (classes, [Z,] Y, X)
        Probabilities; with valid convolution for the middle of the image only.
    classes : str
        "exclusive" or "independent", see `ForeignConfig`.
    """
    import imageio.v3 as iio

    grey = _stretch(_plane(image[0]))
    labels = scores.argmax(axis=0) if classes == "exclusive" else _independent(scores)
    found = _plane(labels)
    margins = [(have - need) // 2 for have, need in zip(grey.shape, found.shape, strict=True)]
    middle = tuple(
        slice(margin, margin + size) for margin, size in zip(margins, found.shape, strict=True)
    )
    left = np.repeat(grey[..., None], 3, axis=-1)
    right = left.copy()
    where = found > 0
    colours = _COLOURS[(found[where] - 1) % len(_COLOURS)]
    right[middle][where] = (1 - _OPACITY) * right[middle][where] + _OPACITY * colours
    both = np.concatenate([_to_square(left), _to_square(right)], axis=1)
    picture: bytes = iio.imwrite("<bytes>", both.round().astype(np.uint8), extension=".png")
    return picture


def _plane(volume: NDArray[Any]) -> NDArray[Any]:
    return volume if volume.ndim == 2 else volume[len(volume) // 2]


def _independent(scores: NDArray[Any]) -> NDArray[Any]:
    return np.where(scores.max(axis=0) > 0.5, scores.argmax(axis=0) + 1, 0)


def _stretch(plane: NDArray[Any]) -> NDArray[np.float32]:
    low, high = np.percentile(plane, (0.5, 99.7))
    stretched: NDArray[np.float32] = np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255
    return stretched.astype(np.float32)


def _to_square(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut the middle square out and bring it to the height of the cover, without smoothing."""
    size = min(picture.shape[:2])
    top, left = ((have - size) // 2 for have in picture.shape[:2])
    square = picture[top : top + size, left : left + size]
    index = np.arange(_HEIGHT) * size // _HEIGHT
    resized: NDArray[np.float32] = square[index][:, index]
    return resized
