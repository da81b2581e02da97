"""A real viewer, small model files, and a panel that is ready to predict."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from napari.utils.notifications import Notification, notification_manager
from pytestqt.qtbot import QtBot

import unetari.inference.predict as prediction
from unetari.core.config import UNetConfig
from unetari.inference.job import Job
from unetari.model import bundled
from unetari.widgets import prediction_worker
from unetari.widgets.dock import UnetariDock
from unetari.widgets.messages import State

WAIT_MS = 30_000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Tell `make_napari_viewer` how the test ended."""
    report = yield
    setattr(item, f"rep_{report.when}", report)
    return report


@pytest.fixture(scope="session", autouse=True)
def light_collections() -> Iterator[None]:
    """Keep what is loaded out of garbage collections.

    napari runs a full one whenever a layer goes and a viewer closes, of 0.25 s each: a third
    of what these tests compute, and on a starved machine long enough to look like a hang.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small models, as if they came with unetari: tiny-2d and tiny-3d."""
    from unetari.model.checkpoint import Model, save_model

    folder = tmp_path_factory.mktemp("models")
    for dim in (2, 3):
        config = UNetConfig(n_blocks=2, start_filters=4, dim=dim)
        card = {
            "class_names": ("background", "nucleus"),
            "name": f"tiny-{dim}d",
            "description": "Nuclei, for tests.",
            "license": "CC0-1.0",
        }
        model = Model.build(config, seed=0).replace(**card)
        save_model(model, folder / f"tiny-{dim}d.safetensors")
    return folder


@pytest.fixture
def bundled_folder(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the small models the bundled ones."""
    files = {path.stem: path for path in sorted(model_folder.glob("*.safetensors"))}
    monkeypatch.setattr(bundled, "_files", lambda: files)
    return model_folder


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer]) -> napari.Viewer:
    """Return a viewer whose window is hidden."""
    return make_napari_viewer()


@pytest.fixture
def notifications() -> Iterator[list[Notification]]:
    """Return what is shown to the user."""
    seen: list[Notification] = []
    notification_manager.notification_ready.connect(seen.append)
    yield seen
    notification_manager.notification_ready.disconnect(seen.append)


@pytest.fixture
def image() -> np.ndarray[Any, Any]:
    """Return a noisy plane whose size is odd."""
    return np.random.default_rng(0).integers(0, 1000, (61, 83)).astype(np.uint16)


@pytest.fixture
def dock(viewer: napari.Viewer, bundled_folder: Path, qtbot: QtBot) -> UnetariDock:
    """Return the panel in its viewer, with a bundled model loaded."""
    panel = UnetariDock(viewer)
    viewer.window.add_dock_widget(panel, name="U-Net", area="right")
    wait_for_model(qtbot, panel)
    return panel


def wait_for_model(qtbot: QtBot, dock: UnetariDock) -> None:
    """Wait until the chosen model can be used."""
    qtbot.waitUntil(lambda: dock.model.value() is not None, timeout=WAIT_MS)


def predict(qtbot: QtBot, dock: UnetariDock) -> Any:
    """Press Predict and wait for the end; return the result layer."""
    assert dock.predict.predict_button.enabled
    with qtbot.waitSignal(dock.session.ended, timeout=WAIT_MS):
        dock.predict.predict_button.native.click()
    assert dock.predict.status.state is State.GOOD, dock.predict.status.text
    return dock.session.labels


class Gate:
    """Holds a run after its first tiles, until it is opened or the run is asked to stop."""

    def __init__(self) -> None:
        self.tiles = 1
        self.opened = threading.Event()
        self.error: Exception | None = None

    def run(self, job: Job, *, should_stop: Callable[[], bool]) -> Any:
        results = prediction.run(job, should_stop=should_stop)
        for _ in range(self.tiles):
            try:
                result = next(results)
            except StopIteration as end:  # cancelled before
                return end.value
            yield result
        while not (self.opened.wait(0.005) or should_stop()):
            pass
        if self.error is not None:
            raise self.error
        return (yield from results)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Hold runs after their first tile, or after as many as it says."""
    gate = Gate()
    monkeypatch.setattr(prediction_worker, "start_job", gate.run)
    yield gate
    gate.opened.set()
