"""Settings that must stand before napari, Qt or torch are imported, and shared fixtures."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Every run tries the same cases; --hypothesis-profile=explore looks for new ones.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("same")

_SETTINGS = Path(tempfile.mkdtemp(prefix="unetari-tests-"))
atexit.register(shutil.rmtree, _SETTINGS, ignore_errors=True)

# napari reads this once, when it is imported; without it, tests would change the user's settings.
os.environ["NAPARI_CONFIG"] = str(_SETTINGS / "settings.yaml")
# The library of models that the user's own napari works with stays as it is, too.
os.environ["UNETARI_LIBRARY"] = str(_SETTINGS / "library")
os.environ["UNETARI_CACHE"] = ""
# Child processes inherit these: more threads than cores make a busy machine crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
if sys.platform.startswith("linux") and not (
    os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
):
    # pytest-xvfb, which starts later, gives OpenGL a display; the windows need none.
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_widgets_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a Qt test that leaves a window behind."""
    if "qtbot" not in request.fixturenames:
        yield
        return
    from qtpy.QtCore import QCoreApplication, QEvent
    from qtpy.QtWidgets import QApplication

    before = set(QApplication.topLevelWidgets())
    yield
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    if not before.issuperset(QApplication.topLevelWidgets()):
        gc.collect()  # slow, so only where something may be left
    left = set(QApplication.topLevelWidgets()) - before
    assert not left, f"left open: {left}"


@pytest.fixture(autouse=True)
def library_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Give every test a library of models of its own, empty and not even made yet."""
    folder = tmp_path_factory.mktemp("library") / "library"
    monkeypatch.setenv("UNETARI_LIBRARY", str(folder))
    return folder


@pytest.fixture(autouse=True)
def measurements_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Give every test a folder of its own for what is measured of networks."""
    folder = tmp_path_factory.mktemp("cache") / "measurements"
    monkeypatch.setenv("UNETARI_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """Folder of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real images and reference weights, beside the source tree."""
    path = REPOSITORY.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"needs the folder {path.name}/ beside the source tree")
    return path


@pytest.fixture(scope="session")
def napari_config() -> Path:
    """File that napari's settings go to while tests run."""
    return Path(os.environ["NAPARI_CONFIG"])
