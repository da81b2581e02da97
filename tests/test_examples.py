"""Every example runs as it stands, in an empty folder."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
IN_VIEWER = "in_napari"
SLOW = {"train_on_folder", "predict_3d_slice_by_slice"}
SCRIPTS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
    for path in sorted(EXAMPLES.glob("*.py"))
    if path.stem != IN_VIEWER
]


def run_example(path: Path, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(path)],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", SCRIPTS)
def test_example_runs(path: Path, tmp_path: Path) -> None:
    assert run_example(path, tmp_path).strip()


def test_example_in_napari(make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    viewers: list[Any] = []

    def open_viewer() -> Any:
        viewers.append(make_napari_viewer())
        return viewers[0]

    monkeypatch.setattr("napari.Viewer", open_viewer)
    monkeypatch.setattr("napari.run", lambda: None)
    runpy.run_path(str(EXAMPLES / f"{IN_VIEWER}.py"), run_name="__main__")
    assert len(viewers[0].layers) == 2
    assert len(viewers[0].window.dock_widgets) == 1
