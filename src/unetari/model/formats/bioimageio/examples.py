"""Test images for packages: the middle of a given one, or blobs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetari.core.network import NetworkConfig, reach_of
from unetari.core.sizes import Reach
from unetari.errors import ShapeError

_GENERATED = {2: 256, 3: 48}
_LARGEST = {2: 512, 3: 96}
"""Voxels per axis, where the network takes so few."""
_BACKGROUND, _PEAK, _NOISE = 100.0, 900.0, 10.0


def make_example(config: NetworkConfig, image: NDArray[Any] | None) -> NDArray[np.float32]:
    """Return an image whose size the network takes.

    Parameters
    ----------
    config : UNetConfig or ForeignConfig
        The network.
    image : ndarray, optional
        (C, [Z,] Y, X); mirrored at its ends where it is too small.

    Returns
    -------
    ndarray of float32, (C, [Z,] Y, X)

    Raises
    ------
    ShapeError
        If the image has other dimensions or channels than the network takes.
    """
    reaches = reach_of(config)
    if image is None:
        shape = tuple(_size(reach, _GENERATED[config.dim]) for reach in reaches)
        generator = np.random.default_rng(0)
        return np.stack([_blobs(shape, generator) for _ in range(config.in_channels)])
    if image.ndim != config.dim + 1 or image.shape[0] != config.in_channels or image.size == 0:
        axes = "C, Y, X" if config.dim == 2 else "C, Z, Y, X"
        raise ShapeError(
            f"The test image has shape {image.shape}, and the network takes ({axes}) with "
            f"{config.in_channels} channel(s). Choose another image, or one of its channels."
        )
    most = _LARGEST[config.dim]
    shape = tuple(
        _size(reach, min(size, most)) for reach, size in zip(reaches, image.shape[1:], strict=True)
    )
    return _fit(image.astype(np.float32), shape)


def smallest_size(reach: Reach) -> int:
    """Return the smallest size that leaves something beside the halo."""
    return reach.rule.smallest if reach.largest is not None else reach.smallest_tile


def _size(reach: Reach, wanted: int) -> int:
    """Return the largest size the network takes up to what is wanted, or its smallest."""
    if reach.largest is not None:
        return reach.largest
    return max(reach.rule.below(wanted) or 0, smallest_size(reach))


def _fit(image: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    for axis, size in enumerate(shape, start=1):
        start = max((image.shape[axis] - size) // 2, 0)
        image = image.take(range(start, min(start + size, image.shape[axis])), axis=axis)
    widths = [(0, 0)]
    for have, need in zip(image.shape[1:], shape, strict=True):
        before = (need - have) // 2
        widths.append((before, need - have - before))
    return np.pad(image, widths, mode="symmetric")


def _blobs(shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
    """Return bright blobs of several sizes on a noisy background."""
    image = generator.normal(_BACKGROUND, _NOISE, shape)
    grids = np.ogrid[tuple(slice(0, size) for size in shape)]
    for _ in range(12 + 4 * len(shape)):
        centre = [generator.uniform(0, size) for size in shape]
        radius = generator.uniform(0.03, 0.09) * max(shape)
        distance = sum(((grid - at) / radius) ** 2 for grid, at in zip(grids, centre, strict=True))
        image += _PEAK * generator.uniform(0.4, 1) * np.exp(-distance)
    return image.clip(0).astype(np.float32)
