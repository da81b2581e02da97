"""The process ends in order, whatever a thread of the panel is doing.

Each script runs in a process of its own. What it holds goes on only once the script is over,
or the application quits: the moment at which Qt's own threads abort the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = """
import sys, threading
import napari, numpy as np
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtWidgets import QApplication

quitting = threading.Event()

def hold(module, name):
    '''Have a function wait for the end of the program; return what tells that it was called.'''
    function, called = getattr(module, name), threading.Event()
    def held(*arguments, **options):
        called.set()
        while threading.main_thread().is_alive() and not quitting.wait(0.01):
            pass
        result = function(*arguments, **options)
        print(name, "is over")
        return result
    setattr(module, name, held)
    return called

def wait(done):
    '''Let the window work until something is true.'''
    loop, ask = QEventLoop(), QTimer()
    ask.timeout.connect(lambda: loop.quit() if done() else None)
    ask.start(2)
    loop.exec()

def open_panel():
    viewer = napari.Viewer()
    QApplication.instance().aboutToQuit.connect(quitting.set)
    return viewer, viewer.window.add_plugin_dock_widget("unetari")[1]

def open_ready():
    viewer, panel = open_panel()
    wait(lambda: panel.model.value() is not None)
    return viewer, panel
"""

LOAD = """
from unetari.widgets import model
loading = hold(model, "load_listed")
viewer, panel = open_panel()
wait(loading.is_set)
"""
SAVE = """
from unetari.widgets import model
viewer, panel = open_ready()
saving = hold(model, "save")
panel.model.save_to("kept.safetensors")
wait(saving.is_set)
"""
PROBE = """
from pathlib import Path
import torch
from unetari.core.files import hash_file
from unetari.model import probe
from unetari.model.trust import trust
network = torch.nn.Conv2d(1, 2, 3, padding=1)
torch.jit.trace(network, torch.zeros(1, 1, 16, 16)).save("foreign.pt")
trust(hash_file(Path("foreign.pt")))
probing = hold(probe, "probe_network")
viewer, panel = open_ready()
panel.model.set_page("File")
panel.model.file.set_path("foreign.pt")
wait(probing.is_set)
"""
PREDICT = """
import unetari.inference.predict as prediction
viewer, panel = open_ready()
viewer.add_image(np.random.default_rng(0).random((300, 300)))
panel.predict.auto_tile.value = False
panel.predict.tile_field.value = 128
running = hold(prediction, "run")
panel.predict.predict_button.native.click()
wait(lambda: running.is_set() and panel.session.labels is not None)
"""
ENDS = {
    "script ends": "",
    "exits": "sys.exit()",
    "closes": "viewer.close()",
    "closes and turns": "viewer.close(); QApplication.processEvents()",
    "forgets": "viewer.close(); del viewer, panel; import gc; gc.collect()",
    "opens another": "viewer.close(); open_panel(); QApplication.processEvents()",
    "runs and closes": "QTimer.singleShot(0, viewer.close); napari.run()",
}


def ends(quick: str, *slow: str) -> pytest.MarkDecorator:
    """Parametrize a test with ways to end, all but one of them slow."""
    later = [pytest.param(ENDS[name], id=name, marks=pytest.mark.slow) for name in slow]
    return pytest.mark.parametrize("end", [pytest.param(ENDS[quick], id=quick), *later])


def run_script(script: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PRELUDE + script],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@ends("closes and turns", "closes", "script ends")
def test_the_panel_was_just_opened(tmp_path: Path, end: str) -> None:
    run_script(f"viewer, panel = open_panel()\n{end}", tmp_path)


@ends("runs and closes", "script ends", "exits", "forgets", "opens another")
def test_a_model_loads(tmp_path: Path, end: str) -> None:
    assert "load_listed is over" in run_script(LOAD + end, tmp_path)


@ends("script ends", "runs and closes")
def test_what_is_saved_is_saved(tmp_path: Path, end: str) -> None:
    from unetari.model.checkpoint import load_model

    run_script(SAVE + end, tmp_path)
    assert load_model(tmp_path / "kept.safetensors").spec.name == "nuclei-2d"


@pytest.mark.slow
@pytest.mark.parametrize("end", [ENDS["script ends"], ENDS["runs and closes"]])
def test_a_network_is_measured(tmp_path: Path, end: str) -> None:
    assert "probe_network is over" in run_script(PROBE + end, tmp_path)


@ends("opens another", "script ends", "exits", "closes", "forgets", "runs and closes")
def test_a_prediction_runs(tmp_path: Path, end: str) -> None:
    assert "run is over" in run_script(PREDICT + end, tmp_path)
