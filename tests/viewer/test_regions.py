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


def look_at(viewer: ViewerModel, centre: tuple[float, float], height: float) -> None:
    """Point the camera, so that so much of the world fits into the canvas, which is square."""
    viewer.canvas.size = (100, 100)
    viewer.scene.camera.center = (0, *centre)
    viewer.scene.camera.zoom = 100 / height


def test_the_visible_part_is_cut_in_the_displayed_axes_only(viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((5, 40, 50)))
    viewer.dims.set_current_step(0, 3)
    look_at(viewer, (14.5, 40), 10)
    region = region_slices(viewer, image, "ZYX", "visible")
    assert region == (slice(3, 4), slice(10, 20), slice(35, 46))


def test_the_visible_part_follows_scale_and_axis_order(viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((30, 40, 50)), scale=(2, 1, 0.5), translate=(10, 0, 0))
    viewer.dims.order = (1, 2, 0)
    viewer.dims.set_point(1, 7)
    look_at(viewer, (10.25, 31), 4)  # x, then z
    region = region_slices(viewer, image, "ZYX", "visible")
    assert region == (slice(10, 12), slice(7, 8), slice(17, 25))


def test_the_visible_part_of_a_rotated_image_holds_all_that_is_visible(
    viewer: ViewerModel,
) -> None:
    image = viewer.add_image(np.zeros((200, 200)), rotate=rotation(2, 30), shear=[0.2])
    centre = image.data_to_world((100, 90))
    look_at(viewer, (float(centre[0]), float(centre[1])), 20)
    region = region_slices(viewer, image, "YX", "visible")
    corners = [
        image.world_to_data((centre[0] + y, centre[1] + x)) for y in (-10, 10) for x in (-10, 10)
    ]
    for axis, part in enumerate(region):
        assert part.start <= min(corner[axis] for corner in corners) + 0.5
        assert part.stop >= max(corner[axis] for corner in corners) - 0.5
        assert part.stop - part.start < 40


def test_the_visible_part_of_a_multiscale_image_is_in_full_resolution(viewer: ViewerModel) -> None:
    levels = [np.zeros((64, 60)), np.zeros((32, 30)), np.zeros((16, 15))]
    image = viewer.add_image(levels, multiscale=True)
    look_at(viewer, (15.5, 50), 16)
    assert region_slices(viewer, image, "YX", "visible") == (slice(8, 24), slice(42, 59))


def test_the_visible_part_in_other_units(viewer: ViewerModel) -> None:
    micro = viewer.add_image(np.zeros((64, 64)), units=("um", "um"))
    nano = viewer.add_image(np.zeros((64, 64)), scale=(500, 500), units=("nm", "nm"))
    assert str(viewer.dims.units[0]) == "nanometer"
    look_at(viewer, (9750, 9750), 10_000)
    assert region_slices(viewer, nano, "YX", "visible") == (slice(10, 30), slice(10, 30))
    assert region_slices(viewer, micro, "YX", "visible") == (slice(5, 16), slice(5, 16))


def test_an_image_outside_the_canvas_is_refused_with_the_way_out(viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((40, 50)), name="away")
    look_at(viewer, (500, 20), 30)
    with pytest.raises(ShapeError, match=r"'away' is inside the canvas.*Reset View"):
        region_slices(viewer, image, "YX", "visible")


def test_boxes_are_shown_only_at_their_position(viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((5, 40, 50)), rotate=rotation(3, 20))
    viewer.dims.set_current_step(0, 3)
    assert is_shown(viewer, image, (slice(2, 4), slice(0, 8), slice(0, 8)))
    assert not is_shown(viewer, image, (slice(0, 3), slice(0, 8), slice(0, 8)))


def test_a_layer_without_a_displayed_axis_has_no_visible_part(viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((4, 5, 20, 30)))
    image = viewer.add_image(np.zeros((20, 30)), name="flat")
    viewer.dims.order = (2, 3, 0, 1)
    with pytest.raises(ShapeError, match=r"'flat' .*edge on.*predict the whole image"):
        region_slices(viewer, image, "YX", "visible")


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_a_layer_turned_out_of_the_canvas_has_no_visible_part(viewer: ViewerModel) -> None:
    turned = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])  # Y along the slider's axis
    image = viewer.add_image(np.zeros((20, 20, 30)), name="flat", rotate=turned)
    with pytest.raises(ShapeError, match=r"'flat' .*edge on"):
        region_slices(viewer, image, "ZYX", "visible")
