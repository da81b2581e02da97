"""The picture of a package: a test image beside the same with what the model finds in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetari.model.overlay import overlay, stretch

_HEIGHT = 256


def draw_cover(image: NDArray[Any], labels: NDArray[np.unsignedinteger[Any]]) -> bytes:
    """Draw a PNG, twice as wide as high.

    Parameters
    ----------
    image : ndarray, (C, [Z,] Y, X)
        Intensities; the first channel is shown, of a volume its middle plane.
    labels : ndarray of uint8 or uint16, ([Z,] Y, X)
        What was found; with valid convolution for the middle of the image only.
    """
    import imageio.v3 as iio

    grey = stretch(_plane(image[0]))
    found = _plane(labels)
    margins = [(have - need) // 2 for have, need in zip(grey.shape, found.shape, strict=True)]
    found = np.pad(found, [(margin, margin) for margin in margins])
    pictures = [overlay(grey, np.zeros_like(found)), overlay(grey, found)]
    both = np.concatenate([_to_square(picture) for picture in pictures], axis=1)
    picture: bytes = iio.imwrite("<bytes>", both.round().astype(np.uint8), extension=".png")
    return picture


def _plane(volume: NDArray[Any]) -> NDArray[Any]:
    return volume if volume.ndim == 2 else volume[len(volume) // 2]


def _to_square(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut the middle square out and bring it to the height of the cover, without smoothing."""
    size = min(picture.shape[:2])
    top, left = ((have - size) // 2 for have in picture.shape[:2])
    square = picture[top : top + size, left : left + size]
    index = np.arange(_HEIGHT) * size // _HEIGHT
    resized: NDArray[np.float32] = square[index][:, index]
    return resized
