"""Small image/label pairs, and options that train in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from unetari.core.config import UNetConfig
from unetari.training.data import Pair, find_pairs
from unetari.training.options import TrainingOptions

SHAPES = {2: (40, 52), 3: (12, 24, 20)}


def blobs(shape: tuple[int, ...], seed: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Return a noisy image of bright blobs, uint16, and their instances, uint8."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    mask = smooth > np.quantile(smooth, 0.8)
    image = 100 + 400 * ndimage.gaussian_filter(mask.astype(float), 0.7) + rng.normal(0, 20, shape)
    return image.clip(0).astype(np.uint16), ndimage.label(mask)[0].astype(np.uint8)


def write_pairs(folder: Path, dim: int, count: int) -> tuple[Pair, ...]:
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for index in range(count):
        image, labels = blobs(SHAPES[dim], index)
        tifffile.imwrite(folder / "images" / f"{index}.tif", image)
        tifffile.imwrite(folder / "labels" / f"{index}.tif", labels)
    return find_pairs(folder / "images", folder / "labels")


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Pair, ...]:
    """Five pairs of 2D images, named "0" to "4"."""
    return write_pairs(tmp_path, 2, 5)


@pytest.fixture
def options() -> TrainingOptions:
    """Six steps of a tiny 2D network, a validation after every third."""
    return TrainingOptions(
        network=UNetConfig(n_blocks=2, start_filters=4),
        patch_size=(16, 16),
        batch_size=2,
        steps=6,
        validate_every=3,
        validation=("4",),
        device="cpu",
        threads=1,
    )


@pytest.fixture
def volumes(tmp_path: Path) -> tuple[Pair, ...]:
    """Two pairs of 3D images, named "0" and "1"."""
    return write_pairs(tmp_path, 3, 2)
