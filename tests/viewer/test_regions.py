"""What the viewer shows, in voxels of the image."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from unetari.errors import ShapeError
from unetari.viewer.regions import is_shown, region_slices

from .conftest import rotation


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


def test_the_whole_image_has_one_slice_per_label_axis(
    viewer: ViewerModel, placed_image: Image
) -> None:
    viewer.add_layer(placed_image)
    region = region_slices(viewer, placed_image, "ZCYX", "whole")
    assert region == (slice(0, 6), slice(0, 40), slice(0, 50))


@pytest.mark.parametrize("index", [0, 2, 5])
def test_the_slice_is_the_shown_one(viewer: ViewerModel, placed_image: Image, index: int) -> None:
    viewer.add_layer(placed_image)
    viewer.dims.set_point(0, placed_image.data_to_world((index, 0, 0, 0))[0])
    region = region_slices(viewer, placed_image, "ZCYX", "slice")
    assert region == (slice(index, index + 1), slice(0, 40), slice(0, 50))


def test_the_slice_follows_what_is_displayed(viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((4, 5, 20, 30)))
    viewer.dims.order = (0, 2, 1, 3)
    viewer.dims.set_current_step(2, 7)
    viewer.dims.set_current_step(0, 3)
    region = region_slices(viewer, image, "TZYX", "slice")
    assert region == (slice(3, 4), slice(0, 5), slice(7, 8), slice(0, 30))


def test_a_3d_view_shows_the_volume_of_the_current_time(viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((4, 5, 20, 30)))
    viewer.dims.ndisplay = 3
    viewer.dims.set_current_step(0, 2)
    expected = (slice(2, 3), slice(0, 5), slice(0, 20), slice(0, 30))
    for kind in ("slice", "visible"):
        assert region_slices(viewer, image, "TZYX", kind) == expected


def test_layers_of_fewer_axes_are_aligned_at_the_last(viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((9, 6, 20, 30)))
    image = viewer.add_image(np.zeros((6, 20, 30)))
    viewer.dims.set_current_step(0, 8)
    viewer.dims.set_current_step(1, 4)
    assert region_slices(viewer, image, "ZYX", "slice")[0] == slice(4, 5)


def test_layers_in_other_units_are_sliced_where_they_are_shown(viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((11, 8, 8)), units=("um", "um", "um"))
    image = viewer.add_image(
        np.zeros((11, 8, 8)), scale=(1000, 1000, 1000), units=("nm", "nm", "nm")
    )
    viewer.dims.set_current_step(0, 7)
    shown = [np.asarray(layer._slicing_state.data_slice.point)[0] for layer in viewer.layers]
    assert round(shown[0]) == 7
    assert region_slices(viewer, image, "ZYX", "slice")[0] == slice(7, 8)


def test_a_shear_between_slider_and_canvas_is_left_out_as_napari_does(
    viewer: ViewerModel,
) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.5
    image = viewer.add_image(np.zeros((10, 40, 20)), affine=affine)
    viewer.dims.set_point(0, 6.0)
    shown = image._slicing_state.data_slice.point[0]
    assert round(shown) == 6
    assert region_slices(viewer, image, "ZYX", "slice")[0] == slice(6, 7)


def test_a_position_beside_the_image_is_refused_with_the_way_out(viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((20, 8, 8)))
    image = viewer.add_image(np.zeros((5, 8, 8)), name="short")
    viewer.dims.set_current_step(0, 12)
    with pytest.raises(ShapeError, match=r"position 12 .*'short' has positions 0 to 4.*slider"):
        region_slices(viewer, image, "ZYX", "slice")


def show(image: Image, first: tuple[int, ...], last: tuple[int, ...]) -> None:
    """Pretend that the canvas has been drawn with these corners."""
    image.corner_pixels = np.array([first, last])


def test_the_visible_part_is_cut_in_the_displayed_axes_only(viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((5, 40, 50)))
    viewer.dims.set_current_step(0, 3)
    show(image, (0, 10, 5), (0, 19, 49))
    region = region_slices(viewer, image, "ZYX", "visible")
    assert region == (slice(3, 4), slice(10, 20), slice(5, 50))


def test_the_visible_part_of_a_multiscale_image_is_in_full_resolution(viewer: ViewerModel) -> None:
    levels = [np.zeros((64, 60)), np.zeros((32, 30)), np.zeros((16, 15))]
    image = viewer.add_image(levels, multiscale=True)
    image.data_level = 1
    show(image, (4, 0), (11, 29))
    assert region_slices(viewer, image, "YX", "visible") == (slice(8, 24), slice(0, 60))


def test_an_image_outside_the_canvas_is_refused_with_the_way_out(viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((40, 50)), name="away")
    show(image, (39, 5), (39, 20))
    with pytest.raises(ShapeError, match=r"'away' is inside the canvas.*Reset View"):
        region_slices(viewer, image, "YX", "visible")


def test_boxes_are_shown_only_at_their_position(viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((5, 40, 50)), rotate=rotation(3, 20))
    viewer.dims.set_current_step(0, 3)
    assert is_shown(viewer, image, (slice(2, 4), slice(0, 8), slice(0, 8)))
    assert not is_shown(viewer, image, (slice(0, 3), slice(0, 8), slice(0, 8)))
