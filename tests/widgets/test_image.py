"""The image, its axes and channels; the choice follows the layer list."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from unetari.core.source import ImageSource
from unetari.widgets.image import ImageWidget
from unetari.widgets.messages import State, is_marked


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def widget(viewer: ViewerModel, qtbot: QtBot) -> ImageWidget:
    panel = ImageWidget(viewer)
    qtbot.addWidget(panel)
    return panel


def names(widget: ImageWidget) -> list[str]:
    return [widget.layers.field.native.itemText(i) for i in range(len(widget.layers.field))]


def get_source(widget: ImageWidget) -> ImageSource:
    source = widget.value()
    assert source is not None
    return source


def test_the_choice_follows_the_layer_list(viewer: ViewerModel, widget: ImageWidget) -> None:
    assert widget.value() is None
    first = viewer.add_image(np.zeros((8, 8)), name="first")
    second = viewer.add_image(np.zeros((8, 8)), name="second")
    viewer.add_labels(np.zeros((8, 8), np.uint8))
    viewer.add_points(np.zeros((1, 2)))
    assert names(widget) == ["second", "first"]
    # A new layer does not take the place of the chosen one.
    assert widget.layer is first
    first.name = "renamed"
    assert widget.layer is first
    assert names(widget) == ["second", "renamed"]
    viewer.layers.move(0, 4)
    assert widget.layer is first
    viewer.layers.remove(first)
    assert widget.layer is second
    viewer.layers.clear()
    assert widget.layer is None
    assert "Open an image" in widget.problem


def test_changed_is_emitted_when_the_image_goes(viewer: ViewerModel, widget: ImageWidget) -> None:
    viewer.add_image(np.zeros((8, 8)))
    seen: list[object] = []
    widget.changed.connect(lambda: seen.append(widget.value()))
    viewer.layers.clear()
    assert seen[-1] is None


def test_axes_are_guessed_and_can_be_overridden(viewer: ViewerModel, widget: ImageWidget) -> None:
    layer = viewer.add_image(np.zeros((30, 20, 25)))
    assert widget.axes.value == "ZYX"
    assert "ZYX" in widget.axes_reason.text
    widget.set_axes("tyx")
    assert get_source(widget).axes == "TYX"
    # Each layer keeps its own.
    other = viewer.add_image(np.zeros((30, 20, 25)))
    widget.layers.set_layer(other)
    assert widget.axes.value == "ZYX"
    widget.layers.set_layer(layer)
    assert widget.axes.value == "TYX"
    widget.set_axes("")
    assert widget.axes.value == "ZYX"


def test_wrong_axes_are_marked_with_the_reason(viewer: ViewerModel, widget: ImageWidget) -> None:
    viewer.add_image(np.zeros((30, 20, 25)))
    widget.set_axes("QYX")
    assert widget.value() is None
    assert is_marked(widget.axes.native)
    assert widget.axes_reason.state is State.PROBLEM
    assert "'Q'" in widget.axes_reason.text
    assert widget.axes.value == "QYX"
    widget.set_axes("ZYX")
    assert not is_marked(widget.axes.native)


def test_a_short_axis_taken_for_channels_can_be_named_depth(
    viewer: ViewerModel, widget: ImageWidget
) -> None:
    viewer.add_image(np.zeros((3, 64, 64)))
    assert widget.axes.value == "CYX"
    assert "depth" in widget.axes_reason.text
    widget.set_axes("ZYX")
    assert get_source(widget).n_channels == 1


def test_no_letter_is_proposed_twice(viewer: ViewerModel, widget: ImageWidget) -> None:
    viewer.add_image(np.zeros((2, 3, 4, 64, 64)))
    assert sorted(widget.axes.value) == sorted("TCZYX")
    assert "If C is really" not in widget.axes_reason.text


def test_channels_are_offered_where_there_are_some(
    viewer: ViewerModel, widget: ImageWidget
) -> None:
    viewer.add_image(np.zeros((2, 64, 64)), axis_labels=("c", "y", "x"))
    assert widget.channels.choices == ("all", 0, 1)
    widget.set_channel(1)
    source = widget.value()
    assert source is not None
    assert (source.channel, source.n_channels) == (1, 1)


def test_rgb_can_be_grey_or_one_sample(viewer: ViewerModel, widget: ImageWidget) -> None:
    viewer.add_image(np.zeros((32, 32, 3), np.uint8), rgb=True)
    assert widget.channels.choices == ("all", "grey", 0, 1, 2)
    widget.set_channel("grey")
    assert get_source(widget).grey


def test_new_data_is_read_anew(viewer: ViewerModel, widget: ImageWidget) -> None:
    layer = viewer.add_image(np.zeros((30, 20, 25)))
    layer.data = np.zeros((40, 20, 25))
    assert get_source(widget).label_shape == (40, 20, 25)
    layer.axis_labels = ("time", "y", "x")
    assert widget.axes.value == "TYX"


def test_images_of_too_many_axes_are_refused_with_the_reason(
    viewer: ViewerModel, widget: ImageWidget
) -> None:
    viewer.add_image(np.zeros((1, 1, 1, 1, 8, 8)))
    assert widget.value() is None
    assert "6 axes" in widget.problem
    assert is_marked(widget.axes.native)
