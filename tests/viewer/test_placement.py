"""A result lies exactly on its image, whatever the image's transform."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from unetari.viewer.placement import place

REGION = (slice(2, 5), slice(10, 30), slice(20, 45))


def make_labels(image: Image, axes: str, region: tuple[slice, ...]) -> Labels:
    placement = place(image, axes, region)
    data = np.zeros([part.stop - part.start for part in region], np.uint8)
    return Labels(placement.with_channel(data), **placement.layer_options())


@pytest.mark.parametrize("voxel", [(0, 0, 0), (2, 19, 24), (1, 3, 7)])
def test_every_voxel_of_a_region_lies_on_its_image(
    placed_image: Image, voxel: tuple[int, int, int]
) -> None:
    labels = make_labels(placed_image, "ZCYX", REGION)
    z, y, x = voxel
    world = labels.data_to_world((z, 0, y, x))
    # The single plane stands for all channels, so it lies at the middle one.
    expected = placed_image.data_to_world((z + 2, 1, y + 10, x + 20))
    np.testing.assert_allclose(world, expected, atol=1e-9)


def test_copies_what_describes_the_axes(placed_image: Image) -> None:
    labels = make_labels(placed_image, "ZCYX", REGION)
    assert labels.units == placed_image.units
    assert labels.axis_labels == placed_image.axis_labels
    np.testing.assert_allclose(labels.rotate, placed_image.rotate)
    np.testing.assert_allclose(labels.shear, placed_image.shear)
    np.testing.assert_allclose(labels.affine.affine_matrix, placed_image.affine.affine_matrix)
    np.testing.assert_allclose(labels.scale, [2, 3, 0.5, 0.25])


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_channel_axis_in_the_middle_shows_the_result_on_every_channel(
    placed_image: Image, channel: int
) -> None:
    viewer = ViewerModel()
    viewer.add_layer(placed_image)
    labels = make_labels(placed_image, "ZCYX", REGION)
    viewer.add_layer(labels)
    viewer.dims.set_point(1, placed_image.data_to_world((3, channel, 0, 0))[1])
    shown = labels.world_to_data(viewer.dims.point)
    assert round(shown[1]) == 0


def test_channels_as_the_first_axis_are_dropped() -> None:
    image = Image(
        np.zeros((2, 20, 30)),
        scale=(1, 0.5, 0.25),
        translate=(7, 3, 4),
        units=("pixel", "um", "um"),
    )
    labels = make_labels(image, "CYX", (slice(5, 15), slice(10, 20)))
    assert labels.ndim == 2
    np.testing.assert_allclose(labels.scale, [0.5, 0.25])
    np.testing.assert_allclose(labels.translate, [3 + 5 * 0.5, 4 + 10 * 0.25])
    assert [str(unit) for unit in labels.units] == ["micrometer", "micrometer"]


def test_rgb_images_have_labels_without_samples() -> None:
    image = Image(np.zeros((20, 30, 3), np.uint8), rgb=True, scale=(2, 3))
    labels = make_labels(image, "YXS", (slice(4, 20), slice(0, 30)))
    np.testing.assert_allclose(labels.translate, [8, 0])
    assert labels.data.shape == (16, 30)


def test_multiscale_images_are_placed_at_full_resolution() -> None:
    levels = [np.zeros((64, 64)), np.zeros((32, 32))]
    image = Image(levels, multiscale=True, scale=(0.5, 0.5))
    labels = make_labels(image, "YX", (slice(8, 40), slice(0, 64)))
    np.testing.assert_allclose(labels.data_to_world((0, 0)), image.data_to_world((8, 0)))


def test_a_leading_class_axis_moves_nothing(placed_image: Image) -> None:
    placement = place(placed_image, "ZCYX", REGION).with_leading_axis("class")
    scores = Image(
        placement.with_channel(np.zeros((2, 3, 20, 25), np.float32)), **placement.layer_options()
    )
    assert scores.data.shape == (2, 3, 1, 20, 25)
    assert scores.axis_labels[0] == "class"
    world = scores.data_to_world((1, 0, 0, 0, 0))
    np.testing.assert_allclose(world, [1, *placed_image.data_to_world((2, 1, 10, 20))])


def test_boxes_gain_the_channel_axis(placed_image: Image) -> None:
    box = place(placed_image, "ZCYX", REGION).to_layer((slice(0, 1), slice(2, 3), slice(4, 5)))
    assert box == (slice(0, 1), slice(0, 1), slice(2, 3), slice(4, 5))
