"""The whole panel in a real viewer: choose, check, predict."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import napari
import numpy as np
import pytest
from napari.utils.notifications import Notification
from pytestqt.qtbot import QtBot

import unetari
from unetari.widgets import dock as dock_module
from unetari.widgets.dock import UnetariDock
from unetari.widgets.messages import State, TextLabel

from .conftest import WAIT_MS, predict, wait_for_model


def test_a_bundled_model_predicts_what_the_library_predicts(
    viewer: napari.Viewer,
    dock: UnetariDock,
    qtbot: QtBot,
    image: np.ndarray,
    model_folder: Path,
) -> None:
    layer = viewer.add_image(image, name="cells", scale=(0.5, 0.5), units=("um", "um"))
    labels = predict(qtbot, dock)
    expected = unetari.predict(image, str(model_folder / "tiny-2d.safetensors")).labels
    np.testing.assert_array_equal(labels.data, expected)
    assert labels.data.dtype == np.uint8
    assert labels.name == "cells tiny-2d"
    assert list(labels.features["class"]) == ["background", "nucleus"]
    np.testing.assert_allclose(labels.scale, layer.scale)
    assert labels.units == layer.units
    record = labels.metadata["unetari"]
    assert record["status"] == "finished"
    assert record["tiles_done"] == record["n_tiles"]
    assert len(record["model_sha256"]) == 64


def test_the_devices_of_the_machine_are_offered(dock: UnetariDock, qtbot: QtBot) -> None:
    from unetari.model.device import available_devices

    devices = available_devices()
    field = dock.predict.device_field
    qtbot.waitUntil(
        lambda: field.native.itemText(0) == f"automatic ({devices[0]})", timeout=WAIT_MS
    )
    assert field.choices == ("auto", *devices)


def test_a_built_network_predicts(
    viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot, image: np.ndarray
) -> None:
    viewer.add_image(image)
    dock.model.set_page("Build")
    dock.model.editor.set_value(unetari.UNetConfig(n_blocks=2, start_filters=4, out_channels=4))
    labels = predict(qtbot, dock)
    assert labels.data.shape == image.shape
    assert len(labels.features) == 4


def test_a_region_lies_on_its_image(viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot) -> None:
    volume = np.random.default_rng(1).random((5, 2, 40, 48)).astype(np.float32)
    angle = np.deg2rad(25)
    rotate = np.eye(4)
    rotate[2:, 2:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    layer = viewer.add_image(
        volume,
        scale=(2, 1, 0.5, 0.25),
        translate=(1, 0, 3, 4),
        rotate=rotate,
        shear=[0, 0, 0, 0, 0, 0.2],
        units=("um", "pixel", "um", "um"),
        axis_labels=("z", "c", "y", "x"),
    )
    dock.image.set_channel(1)
    viewer.dims.set_point(0, layer.data_to_world((3, 0, 0, 0))[0])
    dock.predict.region_field.value = "slice"
    labels = predict(qtbot, dock)
    assert labels.data.shape == (1, 1, 40, 48)
    np.testing.assert_allclose(
        labels.data_to_world((0, 0, 7, 9)), layer.data_to_world((3, 0.5, 7, 9))
    )
    whole = unetari.predict(volume, dock.model.value().get(), axes="ZCYX", channel=1).labels
    np.testing.assert_array_equal(labels.data[0, 0], whole[3])


def test_probabilities_come_as_a_layer_of_their_own(
    viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot, image: np.ndarray
) -> None:
    viewer.add_image(image)
    dock.predict.scores_box.value = True
    labels = predict(qtbot, dock)
    scores = viewer.layers[-2]
    assert scores.data.shape == (2, *image.shape)
    np.testing.assert_array_equal(scores.data.argmax(axis=0), labels.data)
    # Results are not offered as images to segment.
    assert len(dock.image.layers.field.choices) == 1


def test_every_run_makes_a_new_layer_and_keeps_what_was_painted(
    viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot, image: np.ndarray
) -> None:
    viewer.add_image(image)
    first = predict(qtbot, dock)
    first.data[:5] = 7
    second = predict(qtbot, dock)
    assert second is not first
    assert (first.data[:5] == 7).all()
    assert len(viewer.layers) == 3


def test_the_tile_size_does_not_change_the_result(
    viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot, image: np.ndarray
) -> None:
    viewer.add_image(image)
    whole = predict(qtbot, dock)
    dock.predict.auto_tile.value = False
    dock.predict.tile_field.value = 40
    tiled = predict(qtbot, dock)
    assert tiled.metadata["unetari"]["n_tiles"] > 1
    np.testing.assert_array_equal(whole.data, tiled.data)


def test_predict_is_enabled_exactly_when_it_can_work(
    viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot, image: np.ndarray
) -> None:
    button, status = dock.predict.predict_button.native, dock.predict.status
    assert not button.isEnabled()
    assert "Open an image" in status.text
    layer = viewer.add_image(image)
    assert button.isEnabled()
    assert status.text == ""
    dock.image.set_axes("TZYX")
    assert not button.isEnabled()
    assert status.text == "See 2. Image."
    assert "names 4 axes" in dock.image.axes_reason.text
    dock.image.set_axes("")
    assert button.isEnabled()
    dock.model.set_page("File")
    assert not button.isEnabled()
    assert "Choose a model file" in status.text
    dock.model.set_page("Library")
    wait_for_model(qtbot, dock)
    assert button.isEnabled()
    viewer.layers.remove(layer)
    assert not button.isEnabled()
    assert "Open an image" in status.text


def test_a_position_beside_the_image_disables_predict_until_it_is_left(
    viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot
) -> None:
    viewer.add_image(np.zeros((6, 32, 32), np.uint8), name="short")
    viewer.add_labels(np.zeros((9, 32, 32), np.uint8))
    dock.predict.region_field.value = "slice"
    viewer.dims.set_current_step(0, 7)
    button = dock.predict.predict_button
    qtbot.waitUntil(lambda: not button.enabled)
    assert "positions 0 to 5" in dock.predict.status.text
    viewer.dims.set_current_step(0, 2)
    qtbot.waitUntil(lambda: button.enabled)


def test_too_many_channels_are_fixed_by_a_click(
    viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot, image: np.ndarray
) -> None:
    viewer.add_image(np.stack([image.astype(np.uint8)] * 3, axis=-1), rgb=True)
    assert not dock.predict.predict_button.enabled
    messages = dock.image.report.messages
    assert messages[0].state is State.PROBLEM
    assert "3 channels" in messages[0].text
    click(dock, "grey")
    assert dock.image.value().grey
    predict(qtbot, dock)
    dock.image.set_channel(None)
    click(dock, "channel 1")
    assert dock.image.value().channel == 1
    predict(qtbot, dock)
    dock.image.set_channel(None)
    places, messages = dock.image.report.layout(), dock.image.report.messages
    rows = [places.itemAt(at).widget() for at in range(places.count())]
    # The problem, four rows of fixes, the notes, and nothing of the reports before.
    assert [rows.index(message) for message in messages] == [0, *range(5, len(rows))]
    click(dock, "Build an untrained 3-channel network")
    assert dock.model.page == "Build"
    assert dock.model.value().spec.config.in_channels == 3
    predict(qtbot, dock)


def test_fewer_blocks_change_the_builder(viewer: napari.Viewer, dock: UnetariDock) -> None:
    viewer.add_image(np.zeros((100, 100), np.uint8))
    dock.model.set_page("Build")
    click(dock, "Use 3 blocks")
    assert dock.model.editor.value().n_blocks == 3
    assert dock.model.editor.fields["n_blocks"].value == 3
    assert not dock.image.report.buttons


def test_a_thin_volume_goes_slice_by_slice(
    viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot
) -> None:
    viewer.add_image(np.zeros((2, 64, 64), np.uint8), axis_labels=("z", "y", "x"))
    dock.model.library.choose("tiny-3d")
    wait_for_model(qtbot, dock)
    click(dock, "2D network")
    wait_for_model(qtbot, dock)
    assert dock.model.value().spec.name == "tiny-2d"
    dock.model.set_page("Build")
    dock.model.editor.set_value(
        unetari.UNetConfig(dim=3, n_blocks=3, start_filters=4, up_mode="trilinear")
    )
    click(dock, "2D network")
    config = dock.model.value().spec.config
    assert (config.dim, config.up_mode) == (2, "bilinear")


def test_a_trained_network_is_not_replaced_unsaid(
    viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot, model_folder: Path
) -> None:
    viewer.add_image(np.zeros((2, 64, 64), np.uint8), axis_labels=("z", "y", "x"))
    dock.model.set_page("File")
    dock.model.file.set_path(str(model_folder / "tiny-3d.safetensors"))
    wait_for_model(qtbot, dock)
    click(dock, "Build an untrained 2D network")
    choice = dock.model.value()
    assert (choice.spec.config.dim, choice.is_trained) == (2, False)


def test_devices_that_cannot_be_listed_are_said_and_asked_for_again(
    viewer: napari.Viewer,
    bundled_folder: Path,
    qtbot: QtBot,
    notifications: list[Notification],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> Sequence[str]:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(dock_module, "list_devices", fail)
    dock = UnetariDock(viewer)
    qtbot.addWidget(dock)
    qtbot.waitUntil(lambda: bool(notifications), timeout=WAIT_MS)
    assert "the driver is too old" in notifications[-1].message
    monkeypatch.setattr(dock_module, "list_devices", lambda: ("cpu", "npu"))
    dock.model.library.choose("tiny-3d")
    qtbot.waitUntil(lambda: "npu" in dock.predict.device_field.choices, timeout=WAIT_MS)


def test_a_3d_network_and_a_plane_are_refused(
    viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot, image: np.ndarray
) -> None:
    viewer.add_image(image)
    dock.model.library.choose("tiny-3d")
    wait_for_model(qtbot, dock)
    assert not dock.predict.predict_button.enabled
    assert dock.predict.status.text == "See 2. Image."
    assert any("no Z axis" in message.text for message in dock.image.report.messages)


def test_voxels_of_another_size_are_said(
    viewer: napari.Viewer, dock: UnetariDock, qtbot: QtBot, model_folder: Path, tmp_path: Path
) -> None:
    model = unetari.load_model(str(model_folder / "tiny-2d.safetensors"))
    unetari.save_model(model.replace(voxel_size=(0.5, 0.5)), tmp_path / "half.safetensors")
    viewer.add_image(np.zeros((32, 32)), scale=(0.1, 0.1), units=("um", "um"))
    dock.model.set_page("File")
    dock.model.file.set_path(str(tmp_path / "half.safetensors"))
    wait_for_model(qtbot, dock)
    texts = [message.text for message in dock.image.report.messages]
    assert any("trained at 0.5" in text for text in texts)
    assert dock.predict.predict_button.enabled


def test_napari_opens_the_panel_from_the_manifest(
    viewer: napari.Viewer, bundled_folder: Path, qtbot: QtBot, image: np.ndarray
) -> None:
    _, panel = viewer.window.add_plugin_dock_widget("unetari")
    viewer.add_image(image)
    wait_for_model(qtbot, panel)
    predict(qtbot, panel)


def click(dock: UnetariDock, text: str) -> None:
    """Click the button of a fix."""
    (button,) = [b for b in dock.image.report.buttons if text in b.text()]
    button.click()


def test_opening_imports_no_torch() -> None:
    code = (
        "import sys; from qtpy.QtWidgets import QApplication; app = QApplication([]);"
        "from napari.components import ViewerModel; from unetari.widgets.dock import UnetariDock;"
        "dock = UnetariDock(ViewerModel()); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("page", ["Library", "File", "Build"])
def test_no_text_is_cut_in_a_narrow_panel(
    viewer: napari.Viewer, bundled_folder: Path, qtbot: QtBot, tmp_path: Path, page: str
) -> None:
    """Texts get the height they need even where a page wants to be wider than the panel."""
    panel = UnetariDock(viewer)
    qtbot.addWidget(panel)
    viewer.add_image(np.zeros((61, 83), np.uint8))
    panel.resize(1, 500)
    panel.show()
    panel.model.set_page(page)
    if page == "File":
        panel.model.file.set_path(str(tmp_path / ("a very long name " * 8 + ".pth")))
        panel.model.file.show_options(True)
    elif page == "Build":
        panel.model.editor.set_value(unetari.UNetConfig(normalization="group8", start_filters=24))
        panel.model.diagram.set_open(True)
    qtbot.waitUntil(lambda: panel.model.message.state is not State.BUSY, timeout=WAIT_MS)
    qtbot.waitUntil(lambda: not cut_texts(panel), timeout=WAIT_MS)


def cut_texts(panel: UnetariDock) -> list[str]:
    """Return the texts that are in sight and have too little room."""
    labels = [label for label in panel.findChildren(TextLabel) if label.isVisible()]
    assert labels
    return [
        label.text() for label in labels if label.height() < label.heightForWidth(label.width())
    ]
