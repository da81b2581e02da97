"""While a prediction runs: cancel, failures, and everything a user may do meanwhile."""

from __future__ import annotations

import gc
import time
import weakref
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
import torch
from napari.layers import Image
from napari.utils.notifications import Notification
from pytestqt.qtbot import QtBot

import unetari
from unetari.core.source import ImageSource
from unetari.widgets.dock import UnetariDock
from unetari.widgets.fields import offer
from unetari.widgets.messages import State
from unetari.widgets.prediction_worker import PredictionRequest, PredictionRun, run_request

from .conftest import WAIT_MS, Gate, predict, wait_for_model


@pytest.fixture
def layer(viewer: napari.Viewer, dock: UnetariDock) -> Image:
    """Return an image that takes several tiles."""
    dock.predict.auto_tile.value = False
    dock.predict.tile_field.value = 40
    data = np.random.default_rng(0).integers(0, 1000, (64, 150)).astype(np.uint16)
    return viewer.add_image(data, name="cells")


def start(qtbot: QtBot, dock: UnetariDock) -> Any:
    """Press Predict and wait for the first tile; return the result layer."""
    with qtbot.waitSignal(dock.session.advanced, timeout=WAIT_MS):
        dock.predict.predict_button.native.click()
    assert dock.session.is_running
    assert not dock.predict.predict_button.enabled
    assert dock.predict.cancel_button.enabled
    return dock.session.labels


def begin(qtbot: QtBot, dock: UnetariDock) -> None:
    """Press Predict and wait for the result layer."""
    with qtbot.waitSignal(dock.session.begun, timeout=WAIT_MS):
        dock.predict.predict_button.native.click()


def finish(qtbot: QtBot, dock: UnetariDock, gate: Gate) -> None:
    """Let the run go on to its end."""
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS):
        gate.opened.set()
    assert not dock.session.is_running


def expected(data: Any, dock: UnetariDock) -> Any:
    return unetari.predict(data, dock.model.value().get()).labels


def test_progress_is_shown(qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate) -> None:
    start(qtbot, dock)
    assert 0 < dock.predict.bar.value() < dock.predict.bar.maximum() == 100
    assert "left" in dock.predict.status.text
    finish(qtbot, dock, gate)
    assert dock.predict.status.state is State.GOOD
    assert not dock.predict.cancel_button.enabled


def test_cancel_keeps_what_is_finished(
    qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate
) -> None:
    labels = start(qtbot, dock)
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS):
        dock.predict.cancel_button.native.click()
    assert dock.predict.status.text.endswith("% is done and stays.")
    assert dock.predict.predict_button.enabled
    record = labels.metadata["unetari"]
    assert (record["status"], record["tiles_done"]) == ("cancelled", 1)
    whole = expected(layer.data, dock)
    np.testing.assert_array_equal(labels.data[:16, :16], whole[:16, :16])
    assert not labels.data[:, -16:].any()


def test_cancel_acts_within_a_second(
    viewer: napari.Viewer, qtbot: QtBot, dock: UnetariDock
) -> None:
    viewer.add_image(np.zeros((2048, 2048), np.uint8))
    dock.model.set_page("Build")
    dock.model.editor.set_value(unetari.UNetConfig(n_blocks=4, start_filters=16))
    start(qtbot, dock)
    began = time.monotonic()
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS):
        dock.predict.cancel_button.native.click()
    assert time.monotonic() - began < 1
    assert dock.predict.status.text.startswith("Stopped")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("cuDNN said no"), ValueError("odd"), unetari.errors.OutOfMemoryError("too big")],
)
def test_an_error_in_the_middle_is_shown_and_the_panel_stays_usable(
    qtbot: QtBot,
    dock: UnetariDock,
    layer: Image,
    gate: Gate,
    notifications: list[Notification],
    error: Exception,
) -> None:
    labels = start(qtbot, dock)
    gate.error = error
    finish(qtbot, dock, gate)
    assert str(error) in str(notifications[-1].message)
    assert dock.predict.status.state is State.PROBLEM
    assert str(error) in dock.predict.status.text
    assert labels.data[:16, :16].shape == (16, 16)
    gate.error = None
    predict(qtbot, dock)


def test_a_run_that_cannot_begin_is_shown(
    qtbot: QtBot, dock: UnetariDock, layer: Image, notifications: list[Notification]
) -> None:
    offer(dock.predict.device_field, {"cuda:99": "a device that is gone"})
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS):
        dock.predict.predict_button.native.click()
    assert "cuda:99" in notifications[-1].message
    assert dock.predict.status.state is State.PROBLEM
    offer(dock.predict.device_field, {"cpu": "CPU"})
    predict(qtbot, dock)


def test_an_error_while_the_layer_is_added_is_shown(
    viewer: napari.Viewer,
    qtbot: QtBot,
    dock: UnetariDock,
    layer: Image,
    notifications: list[Notification],
) -> None:
    def fail(event: Any) -> None:
        raise TypeError("a listener failed")

    viewer.layers.events.inserted.connect(fail)
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS):
        dock.predict.predict_button.native.click()
    viewer.layers.events.inserted.disconnect(fail)
    assert "a listener failed" in notifications[-1].message
    assert "a listener failed" in dock.predict.status.text
    predict(qtbot, dock)


def test_removing_the_image_leaves_the_run_alone(
    viewer: napari.Viewer, qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate
) -> None:
    labels = start(qtbot, dock)
    whole = expected(layer.data, dock)
    sent: list[Any] = []
    labels.events.colormap.connect(sent.append)
    viewer.layers.remove(layer)
    finish(qtbot, dock, gate)
    assert len(sent) == 1  # without it, Mesa's OpenGL crashes when labels are alone on screen
    np.testing.assert_array_equal(labels.data, whole)
    assert not dock.predict.predict_button.enabled


def test_replacing_the_data_leaves_the_run_alone(
    qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate
) -> None:
    labels = start(qtbot, dock)
    whole = expected(layer.data, dock)
    layer.data = np.zeros((10, 20), np.uint8)
    finish(qtbot, dock, gate)
    np.testing.assert_array_equal(labels.data, whole)


def test_renaming_layers_leaves_the_run_and_the_choice_alone(
    viewer: napari.Viewer, qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate
) -> None:
    viewer.add_image(np.zeros((8, 8)), name="other")
    dock.image.layers.set_layer(layer)
    labels = start(qtbot, dock)
    layer.name = "renamed"
    labels.name = "mine"
    assert dock.image.layer is layer
    assert dock.image.layers.field.current_choice == "renamed"
    finish(qtbot, dock, gate)
    assert "mine" in dock.predict.status.text
    np.testing.assert_array_equal(labels.data, expected(layer.data, dock))


def test_removing_the_result_stops_the_run(
    viewer: napari.Viewer, qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate
) -> None:
    labels = start(qtbot, dock)
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS):
        viewer.layers.remove(labels)
    assert dock.predict.status.text.startswith("Stopped")
    predict_again(qtbot, dock, gate)


def test_removing_all_layers_stops_the_run(
    viewer: napari.Viewer, qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate
) -> None:
    start(qtbot, dock)
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS):
        viewer.layers.clear()
    assert dock.predict.status.text == "Stopped, because its layer was removed."
    assert not dock.predict.predict_button.enabled


def test_removing_the_image_before_the_result_is_there_stops_the_run(
    viewer: napari.Viewer, qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate
) -> None:
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS):
        dock.predict.predict_button.native.click()
        viewer.layers.clear()
    assert not viewer.layers
    # The thread may have come to a tile that nobody sees.
    assert dock.predict.status.text.startswith("Stopped")
    assert "stay" not in dock.predict.status.text


def test_the_outcome_stays_until_something_is_changed(
    viewer: napari.Viewer, qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate
) -> None:
    start(qtbot, dock)
    viewer.layers.remove(layer)
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS):
        dock.predict.cancel_button.native.click()
    assert dock.predict.status.text.endswith("% is done and stays.")
    assert not dock.predict.predict_button.enabled
    viewer.add_image(np.zeros((64, 64), np.uint8))
    assert dock.predict.status.text == ""
    assert dock.predict.predict_button.enabled


@pytest.mark.parametrize(("method", "reads"), [("percentile", True), ("range", False)])
def test_the_time_before_the_first_tile_is_explained(
    qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate, method: Any, reads: bool
) -> None:
    gate.tiles = 0
    dock.model.set_page("Build")
    dock.model.intensities.set_value(unetari.Normalization(method=method))
    begin(qtbot, dock)
    assert "computing the first part..." in dock.predict.status.text.lower()
    assert ("intensities" in dock.predict.status.text) == reads
    finish(qtbot, dock, gate)


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_no_empty_layer_is_left(
    viewer: napari.Viewer,
    qtbot: QtBot,
    dock: UnetariDock,
    layer: Image,
    gate: Gate,
    notifications: list[Notification],
    end: str,
) -> None:
    gate.tiles = 0
    dock.predict.scores_box.value = True
    begin(qtbot, dock)
    assert len(viewer.layers) == 3
    if end == "cancelled":
        dock.session.cancel()
    else:
        gate.error = RuntimeError("out of memory")
    finish(qtbot, dock, gate)
    assert list(viewer.layers) == [layer]
    expected_text = "Stopped before there was a result." if end == "cancelled" else "Failed: out of"
    assert dock.predict.status.text.startswith(expected_text)
    assert dock.predict.predict_button.enabled


def test_the_outcome_is_in_view_in_a_low_window(
    viewer: napari.Viewer, bundled_folder: Path, qtbot: QtBot, gate: Gate
) -> None:
    panel = UnetariDock(viewer)
    qtbot.addWidget(panel)
    panel.resize(350, 400)
    panel.show()
    viewer.add_image(np.zeros((61, 83), np.uint8))
    wait_for_model(qtbot, panel)
    gate.tiles = 0
    begin(qtbot, panel)
    panel.session.cancel()
    finish(qtbot, panel, gate)
    status = panel.predict.status
    assert status.text == "Stopped before there was a result."
    qtbot.waitUntil(lambda: status.height() >= status.heightForWidth(status.width()) > 0)
    assert status.visibleRegion().boundingRect().height() == status.height()


def test_findings_go_with_the_model_they_were_made_with(
    qtbot: QtBot, dock: UnetariDock, layer: Image
) -> None:
    dock.predict.show_outcome("Done.", State.GOOD, "At 2 sampled tile borders ...")
    assert dock.predict.warnings.text
    dock.model.set_page("Build")
    assert not dock.predict.warnings.text


def test_another_model_does_not_reach_the_run(
    qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate
) -> None:
    labels = start(qtbot, dock)
    whole = expected(layer.data, dock)
    dock.model.set_page("Build")
    dock.model.editor.set_value(unetari.UNetConfig(n_blocks=3, start_filters=4))
    assert not dock.predict.predict_button.enabled
    finish(qtbot, dock, gate)
    assert labels.metadata["unetari"]["model"]["name"] == "tiny-2d"
    np.testing.assert_array_equal(labels.data, whole)
    assert dock.predict.predict_button.enabled


@pytest.mark.parametrize("end", ["finished", "cancelled", "failed"])
def test_the_result_can_be_painted_once_the_run_is_over(
    qtbot: QtBot,
    dock: UnetariDock,
    layer: Image,
    gate: Gate,
    notifications: list[Notification],
    end: str,
) -> None:
    labels = start(qtbot, dock)
    labels.mode = "paint"
    assert (labels.editable, labels.mode) == (False, "pan_zoom")
    if end == "cancelled":
        dock.session.cancel()
    elif end == "failed":
        gate.error = RuntimeError("out of memory")
    finish(qtbot, dock, gate)
    labels.mode = "paint"
    assert (labels.editable, labels.mode) == (True, "paint")


def test_a_result_that_cannot_be_drawn_is_said_and_the_panel_goes_on(
    qtbot: QtBot,
    dock: UnetariDock,
    layer: Image,
    gate: Gate,
    notifications: list[Notification],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**options: bool) -> None:
        if not options:  # at the end
            raise TypeError("cannot be drawn")

    labels = start(qtbot, dock)
    monkeypatch.setattr(labels, "refresh", fail)
    finish(qtbot, dock, gate)
    assert "cannot be drawn" in dock.predict.status.text
    assert labels.metadata["unetari"]["status"] == "finished"
    predict(qtbot, dock)


@pytest.mark.parametrize(("allowed", "used"), [(2, 2), (16, 7), (1, 1)])
def test_a_run_takes_no_more_threads_than_allowed(
    monkeypatch: pytest.MonkeyPatch, allowed: int, used: int
) -> None:
    def get_model() -> Any:
        raise RuntimeError("enough")

    seen: list[int] = []
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: allowed)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    request = PredictionRequest(ImageSource(np.zeros((8, 8)), "YX"), get_model, region=())
    with pytest.raises(StopIteration):
        next(run_request(request, lambda: False))
    assert seen == [used]


def test_closing_the_panel_stops_the_run_in_order(
    viewer: napari.Viewer, qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate
) -> None:
    labels = start(qtbot, dock)
    session = dock.session
    with qtbot.waitSignal(session.ended, timeout=WAIT_MS):
        viewer.window.remove_dock_widget(dock)
    qtbot.addWidget(dock)  # napari leaves it without an owner
    assert not session.is_running
    assert labels.metadata["unetari"]["status"] == "cancelled"
    # The viewer goes on without the panel.
    viewer.add_image(np.zeros((8, 8)))
    layer.name = "renamed"
    viewer.layers.remove(labels)


def test_a_panel_that_is_closed_and_forgotten_leaves_its_result_in_order(
    viewer: napari.Viewer, bundled_folder: Path, qtbot: QtBot, gate: Gate
) -> None:
    viewer.add_image(np.random.default_rng(0).random((64, 150)))
    frame, panel = viewer.window.add_plugin_dock_widget("unetari")
    wait_for_model(qtbot, panel)
    panel.predict.auto_tile.value = False
    panel.predict.tile_field.value = 40
    labels = start(qtbot, panel)
    gone = weakref.ref(panel)
    (run,) = PredictionRun.running()
    with qtbot.waitSignal(run.ended, timeout=WAIT_MS):
        frame.destroyOnClose()
        del frame, panel
        gc.collect()
        assert gone() is None
    assert labels.editable
    assert labels.metadata["unetari"]["status"] == "cancelled"


def test_a_closed_panel_is_gone(viewer: napari.Viewer, bundled_folder: Path, qtbot: QtBot) -> None:
    viewer.add_image(np.zeros((100, 100), np.uint8))
    frame, panel = viewer.window.add_plugin_dock_widget("unetari")
    wait_for_model(qtbot, panel)
    panel.model.set_page("Build")
    assert panel.image.report.buttons
    gone = weakref.ref(panel)
    frame.destroyOnClose()
    del frame, panel
    gc.collect()
    qtbot.waitUntil(lambda: gone() is None)
    viewer.add_image(np.zeros((8, 8)))


@pytest.mark.parametrize("tiles", [0, 1])
def test_closing_the_window_stops_the_run(
    viewer: napari.Viewer, qtbot: QtBot, dock: UnetariDock, layer: Image, gate: Gate, tiles: int
) -> None:
    gate.tiles = tiles
    (start if tiles else begin)(qtbot, dock)
    (run,) = PredictionRun.running()
    with qtbot.waitSignal(run.ended, timeout=WAIT_MS):
        viewer.close()
    assert not PredictionRun.running()


def predict_again(qtbot: QtBot, dock: UnetariDock, gate: Gate) -> None:
    gate.opened.set()
    predict(qtbot, dock)


def test_all_tiles_share_their_statistics(
    viewer: napari.Viewer, qtbot: QtBot, dock: UnetariDock
) -> None:
    image = np.random.default_rng(0).integers(0, 999, (300, 300)).astype(np.uint16)
    viewer.add_image(image)
    # tiny-2d has batch normalization.
    assert not dock.predict.statistics_field.native.isVisibleTo(dock)
    dock.model.set_page("Build")
    config = unetari.UNetConfig(n_blocks=2, start_filters=4, normalization="instance")
    dock.model.editor.set_value(config)
    qtbot.waitUntil(lambda: dock.predict.statistics_field.native.isVisibleTo(dock), timeout=WAIT_MS)
    dock.predict.statistics_field.value = "sampled"
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS) as ended:
        dock.predict.predict_button.native.click()
    record = ended.args[0].record
    assert record.norm_statistics == "sampled"
    model = dock.model.value()
    assert model is not None
    expected = unetari.predict(image, model.get(), norm_statistics="sampled").labels
    assert dock.session.labels is not None
    np.testing.assert_array_equal(dock.session.labels.data, expected)


def test_the_fast_precision_is_said(
    viewer: napari.Viewer, qtbot: QtBot, dock: UnetariDock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetari.inference.precision._has_fast_bf16", lambda: True)
    monkeypatch.setattr("unetari.inference.precision.MOST_CHANGED", 1.0)
    viewer.add_image(np.random.default_rng(0).integers(0, 999, (900, 900)).astype(np.uint16))
    dock.predict.precision_field.value = "auto"
    dock.predict.auto_tile.value = False
    dock.predict.tile_field.value = 128
    qtbot.waitUntil(lambda: dock.predict.predict_button.enabled, timeout=WAIT_MS)
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS) as ended:
        dock.predict.predict_button.native.click()
    assert ended.args[0].record.precision == "bf16"
    assert "(bf16)" in dock.predict.status.text
    assert "bf16 changes" in dock.predict.warnings.text
