"""Random changes to training patches, with MONAI: the same for image and labels."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from unetari.errors import MissingExtraError
from unetari.training.data import TrainingSample, draw_window
from unetari.training.options import Augmentation, TrainingOptions

try:
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.array import (
        RandAdjustContrast,
        RandGaussianNoise,
        RandGaussianSmooth,
        RandScaleIntensity,
        RandShiftIntensity,
    )
    from monai.transforms.spatial.array import Affine
    from monai.transforms.transform import RandomizableTransform
except ImportError as error:
    raise MissingExtraError("monai", "train", "Training") from error


def draw_patch(
    sample: TrainingSample, options: TrainingOptions, rng: np.random.Generator, intensity: Compose
) -> tuple[Tensor, Tensor]:
    """Cut a random, augmented patch out of a sample.

    Parameters
    ----------
    sample : TrainingSample
        The image and its labels.
    options : TrainingOptions
        Patch size and augmentation.
    rng : numpy.random.Generator
        Decides everything about the patch.
    intensity : callable
        From `intensity_changes`.

    Returns
    -------
    image : (C, [Z,] Y, X) float32 tensor
    labels : (1, [Z,] Y, X) float32 tensor of whole numbers
    """
    augmentation, patch = options.augmentation, options.patch
    warps = rng.random() < augmentation.affine
    margin = augmentation.zoom * augmentation.stretch if warps else 1.0
    window = [2 * math.ceil(size * margin / 2) if warps else size for size in patch]
    image, classes = draw_window(sample, patch, window, rng, foreground=options.foreground)
    labels = classes[np.newaxis].astype(np.float32)
    if warps:
        image, labels = warp(image, labels, patch, augmentation, rng)
    image, labels = turn(image, labels, augmentation, rng)
    intensity.set_random_state(seed=int(rng.integers(2**31)))
    changed = np.asarray(intensity(np.ascontiguousarray(image)), np.float32)
    return torch.from_numpy(changed), torch.from_numpy(np.ascontiguousarray(labels))


def warp(
    image: NDArray[np.float32],
    labels: NDArray[np.float32],
    patch: tuple[int, ...],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rotate in the plane and zoom a window, and return its central patch.

    Both arrays are (C, [Z,] Y, X); labels are taken from the nearest voxel.
    """
    axes = len(patch)
    zoom = math.log(augmentation.zoom)
    stretch = math.log(augmentation.stretch)
    scale = np.exp(rng.uniform(-zoom, zoom) + rng.uniform(-stretch, stretch, axes))
    limit = math.radians(augmentation.rotation)
    angle = float(rng.uniform(-limit, limit))
    affine = Affine(
        # In 3D the first of the three angles turns around z, the first axis.
        rotate_params=angle if axes == 2 else (angle, 0.0, 0.0),
        scale_params=tuple(scale.tolist()),
        spatial_size=patch,
        padding_mode="reflection",
        image_only=True,
    )
    warped = affine(torch.from_numpy(image), mode="bilinear")
    nearest = affine(torch.from_numpy(labels), mode="nearest")
    return np.asarray(warped, np.float32), np.asarray(nearest, np.float32)


def turn(
    image: NDArray[np.float32],
    labels: NDArray[np.float32],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flip along random axes and rotate by a random multiple of 90 degrees in the plane."""
    flips = tuple(axis for axis in range(1, image.ndim) if rng.random() < 0.5)
    turns = int(rng.integers(4))
    if augmentation.flip and flips:
        image, labels = np.flip(image, flips), np.flip(labels, flips)
    if augmentation.turn and image.shape[-1] == image.shape[-2]:
        image, labels = (np.rot90(array, turns, axes=(-2, -1)) for array in (image, labels))
    return image, labels


class RandHaze(RandomizableTransform):
    """Adds light from out of focus: the image, blurred over many voxels.

    Parameters
    ----------
    prob : float
        How often it is added.
    most : float
        Largest share of the blurred image that is added.
    """

    def __init__(self, prob: float, most: float) -> None:
        super().__init__(prob)
        self._most = most

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the image (C, [Z,] Y, X) with haze, or as it is."""
        self.randomize(None)
        if not self._do_transform:
            return image
        width = self.R.uniform(3, 10)  # voxels
        blurred = gaussian_filter(np.asarray(image), (0, *[width] * (image.ndim - 1)))
        hazy: NDArray[np.float32] = image + self.R.uniform(0, self._most) * blurred
        return hazy


def intensity_changes(augmentation: Augmentation) -> Compose:
    """Return the random changes of intensity: blur, haze, gamma, brightness, offset, noise.

    They expect an image (C, [Z,] Y, X) normalized to about 0..1.
    """
    strength, often = augmentation.strength, augmentation.intensity
    gamma = 1 + strength
    blur = (0.3, 0.3 + 1.2 * strength)
    return Compose(
        [
            RandGaussianSmooth(blur, blur, blur, prob=augmentation.blur),
            RandHaze(augmentation.haze, 2 * strength),
            RandAdjustContrast(prob=often, gamma=(1 / gamma, gamma)),
            RandScaleIntensity(factors=0.5 * strength, prob=often),
            RandShiftIntensity(offsets=0.1 * strength, prob=often),
            RandGaussianNoise(prob=augmentation.noise, std=0.1 * strength),
        ]
    )
