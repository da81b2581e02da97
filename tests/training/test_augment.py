from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from unetari.core.config import UNetConfig
from unetari.training.augment import RandHaze, draw_patch, intensity_changes
from unetari.training.data import TrainingSample
from unetari.training.options import Augmentation, TrainingOptions

PLAIN = Augmentation(flip=False, turn=False, affine=0, intensity=0, blur=0, noise=0)


def two_sided(shape: tuple[int, ...], seed: int = 0) -> TrainingSample:
    """Return smooth random structures whose image is their mask, 0 or 1."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    mask = (smooth > 0).astype(np.uint16)
    return TrainingSample("mask", mask[np.newaxis].astype(np.float32), mask)


def patch_of(sample: TrainingSample, options: TrainingOptions, seed: int) -> tuple[Tensor, Tensor]:
    changes = intensity_changes(options.augmentation)
    return draw_patch(sample, options, np.random.default_rng(seed), changes)


@pytest.mark.parametrize("shape", [(70, 60), (20, 40, 44)])
@pytest.mark.parametrize("affine", [0.0, 1.0])
def test_image_and_labels_move_together(shape: tuple[int, ...], affine: float) -> None:
    dim = len(shape)
    patch = (48, 48) if dim == 2 else (16, 24, 24)
    options = TrainingOptions(
        network=UNetConfig(dim=dim),
        patch_size=patch,
        augmentation=Augmentation(affine=affine, intensity=0, blur=0, noise=0),
    )
    sample = two_sided(shape)
    for seed in range(8):
        image, labels = patch_of(sample, options, seed)
        assert image.shape == labels.shape == (1, *patch)
        assert set(np.unique(labels.numpy()).tolist()) <= {0.0, 1.0}
        # Interpolation blurs the image's edges; inside, mask and image must agree.
        assert ((image > 0.5) != labels.bool()).float().mean() < 0.025


def test_intensity_changes_leave_the_labels_alone() -> None:
    loud = PLAIN.replace(intensity=1, blur=1, noise=1)
    sample = two_sided((40, 40))
    plain_image, plain_labels = patch_of(sample, options_with(PLAIN), 3)
    image, labels = patch_of(sample, options_with(loud), 3)
    assert torch.equal(labels, plain_labels)
    assert not torch.allclose(image, plain_image)
    assert torch.isfinite(image).all()


@pytest.mark.parametrize("shape", [(40, 40), (16, 40, 40)])
def test_haze_is_light_around_what_is_bright(shape: tuple[int, ...]) -> None:
    image = np.zeros((2, *shape), np.float32)
    centre = tuple(size // 2 for size in shape)
    around = tuple(slice(at - 3, at + 4) for at in centre)
    image[0][around] = 1.0
    haze = RandHaze(prob=1, most=100)
    haze.set_random_state(seed=1)
    hazy = haze(image)
    light = hazy - image
    assert light.min() >= 0
    assert light[(0, *centre)] > light[(0, *(at - 6 for at in centre))] > 0
    assert not light[1].any()  # channels do not shine into each other
    haze.set_random_state(seed=1)
    np.testing.assert_array_equal(haze(image), hazy)
    assert RandHaze(prob=0, most=1)(image) is image


def options_with(augmentation: Augmentation) -> TrainingOptions:
    return TrainingOptions(patch_size=(32, 32), augmentation=augmentation)


def test_without_augmentation_a_patch_is_a_part_of_the_image() -> None:
    sample = two_sided((32, 32))
    image, labels = patch_of(sample, options_with(PLAIN), 5)
    np.testing.assert_array_equal(image.numpy(), sample.image)
    np.testing.assert_array_equal(labels[0].numpy(), sample.labels)


def test_the_seed_decides_everything() -> None:
    sample, options = two_sided((60, 60)), options_with(Augmentation(affine=1))
    first, again, other = (patch_of(sample, options, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_zoom_changes_sizes_both_ways() -> None:
    sample = two_sided((96, 96))
    zoomed = options_with(PLAIN.replace(affine=1, zoom=4, stretch=1))
    lengths = [edge_length(patch_of(sample, zoomed, seed)[1]) for seed in range(24)]
    usual = edge_length(patch_of(sample, options_with(PLAIN), 0)[1])
    assert min(lengths) < usual / 1.5
    assert max(lengths) > usual * 1.5


def edge_length(labels: Tensor) -> float:
    return float(labels.diff(dim=-1).abs().sum() + labels.diff(dim=-2).abs().sum())


def test_rotation_is_limited() -> None:
    bars = np.zeros((96, 96), np.uint16)
    bars[::8] = bars[1::8] = bars[2::8] = bars[3::8] = 1
    sample = TrainingSample("bars", bars[np.newaxis].astype(np.float32), bars)
    level = options_with(PLAIN.replace(affine=1, zoom=1, stretch=1, rotation=10))
    turned = options_with(PLAIN.replace(affine=1, zoom=1, stretch=1, rotation=180))
    assert all(crossings(patch_of(sample, level, seed)[1]) < 0.06 for seed in range(10))
    assert any(crossings(patch_of(sample, turned, seed)[1]) > 0.1 for seed in range(10))


def crossings(labels: Tensor) -> float:
    """Return how often horizontal neighbours differ."""
    return float(labels.diff(dim=-1).abs().mean())
