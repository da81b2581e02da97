"""Small pictures of what models do: an image with its labels, or a package's cover, as PNG."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetari.core.source import ImageSource
from unetari.model.overlay import overlay, stretch

MOST_PIXELS = 128
"""Along the longer side."""

_READ = 512  # pixels of the image that are read along each axis: enough to see objects
_LARGEST_COVER = 2**25  # pixels: decoding costs four bytes each


def draw_prediction(
    source: ImageSource, region: tuple[slice, ...], labels: NDArray[np.unsignedinteger[Any]]
) -> bytes:
    """Draw the middle of a prediction.

    Parameters
    ----------
    source : ImageSource
        The image; a small part of one plane is read.
    region : tuple of slice
        What was predicted, one per label axis.
    labels : ndarray of uint8 or uint16
        The result, of the region's shape.

    Returns
    -------
    bytes
        A PNG of at most `MOST_PIXELS` along each side.
    """
    starts = {
        letter: part.indices(size)[0]
        for letter, part, size in zip(source.label_axes, region, source.label_shape, strict=True)
    }
    sizes = dict(zip(source.label_axes, labels.shape, strict=True))
    windows = {letter: _middle(sizes[letter]) for letter in "YX"}
    planes = {letter: sizes[letter] // 2 for letter in sizes if letter not in "YX"}
    frame = {letter: starts[letter] + index for letter, index in planes.items()}
    box = [
        slice(starts[axis] + windows[axis].start, starts[axis] + windows[axis].stop)
        for axis in "YX"
    ]
    image = source.read(frame, box)[0]
    inner = {**windows, **planes}
    return draw_overlay(image, labels[tuple(inner[letter] for letter in source.label_axes)])


def _middle(size: int) -> slice:
    read = min(size, _READ)
    start = (size - read) // 2
    return slice(start, start + read)


def draw_overlay(plane: NDArray[Any], labels: NDArray[Any]) -> bytes:
    """Draw labels over grey values, both (Y, X), as a small PNG."""
    return _to_png(overlay(stretch(plane), labels))


def shrink_picture(content: bytes) -> bytes:
    """Return a picture in any usual format as a small PNG; empty if it is none, or too large."""
    import imageio.v3 as iio

    try:
        shape = iio.improps(content, plugin="pillow").shape
        if math.prod(shape) > _LARGEST_COVER:
            return b""
        picture = iio.imread(content, plugin="pillow", index=0, mode="RGB")
    except Exception:  # noqa: BLE001 -- decoders fail with types of their own, and a cover is no must
        return b""
    return _to_png(picture.astype(np.float32))


def _to_png(picture: NDArray[np.float32]) -> bytes:
    """Average squares of pixels until the picture is small; (Y, X, 3), 0 to 255."""
    import imageio.v3 as iio

    step = math.ceil(max(picture.shape[:2]) / MOST_PIXELS)
    down, along = (min(step, size) for size in picture.shape[:2])  # a thin picture stays one
    height, width = picture.shape[0] // down, picture.shape[1] // along
    cut = picture[: height * down, : width * along]
    cut = cut.reshape(height, down, width, along, 3).mean(axis=(1, 3))
    content: bytes = iio.imwrite("<bytes>", cut.round().astype(np.uint8), extension=".png")
    return content
