"""How the window feels: `python -m benchmarks.responsiveness`.

A real viewer with the panel and `nuclei-2d` predicts an image of 2048 x 2048. A timer in the
event loop tells how long the window keeps a person waiting. Without a display:

    xvfb-run -a -s "-screen 0 1600x1000x24" python -m benchmarks.responsiveness
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

BARS = {"panel": 0.3, "first part": 0.5, "tick": 0.05}
"""Seconds: to open the panel, to the first part on screen, of 95 % of the ticks."""
MODEL = "nuclei-2d"
_TICK_MS = 5
_LONGEST_MS = 300_000


class Ticks:
    """Times between the ticks of a timer in the event loop, less its interval."""

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self.gaps: list[float] = []
        self._last = 0.0
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(_TICK_MS)
        self._timer.timeout.connect(self._tick)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._last - _TICK_MS / 1000)
        self._last = now

    def start(self) -> None:
        """Begin to count, with nothing."""
        self.gaps.clear()
        self._last = time.perf_counter()
        self._timer.start()

    def stop(self) -> NDArray[np.float64]:
        """Return the delays so far, in seconds."""
        self._timer.stop()
        return np.array(self.gaps)


def open_panel() -> tuple[Any, Any, float]:
    """Open a viewer and the panel; return both, and the seconds that the panel took."""
    import napari
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer(show=True)
    QApplication.processEvents()
    start = time.perf_counter()
    _, dock = viewer.window.add_plugin_dock_widget("unetari")
    QApplication.processEvents()
    return viewer, dock, time.perf_counter() - start


def wait(done: Callable[[], bool]) -> None:
    """Let the window work until something is true."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    ask = QTimer()
    ask.setInterval(2)
    ask.timeout.connect(lambda: loop.quit() if done() else None)
    ask.start()
    QTimer.singleShot(_LONGEST_MS, loop.quit)
    loop.exec()
    if not done():
        raise TimeoutError(f"Nothing happened within {_LONGEST_MS // 1000} seconds.")


def predict(viewer: Any, dock: Any) -> dict[str, float]:
    """Click Predict; return seconds."""
    seen: dict[str, float] = {}
    ticks = Ticks()
    start = time.perf_counter()

    def note(name: str) -> Callable[..., float]:
        return lambda *_: seen.setdefault(name, time.perf_counter() - start)

    def on_tile(*_: Any) -> None:
        if "tile" not in seen:
            note("tile")()
            dock.session.labels.events.set_data.connect(note("shown"))

    dock.session.begun.connect(note("begun"))
    dock.session.advanced.connect(on_tile)
    ticks.start()
    start = time.perf_counter()
    dock.predict.predict_button.native.click()
    wait(lambda: not dock.session.is_running)
    seen["all"] = time.perf_counter() - start
    delays = ticks.stop()
    dock.session.advanced.disconnect(on_tile)
    seen["tick median"], seen["tick"], seen["tick longest"] = np.percentile(delays, [50, 95, 100])
    viewer.layers.remove(dock.session.labels)
    return seen


def measure(size: int, runs: int) -> dict[str, Any]:
    """Open, load, and predict several times; the first run also imports what it needs."""
    from benchmarks.cases import Case, make_image

    viewer, dock, panel = open_panel()
    viewer.add_image(make_image(Case(MODEL, (size, size))))
    dock.model.set_page("Library")
    dock.model.library.choose(MODEL)
    wait(lambda: dock.model.value() is not None and not dock._problem())
    found = [predict(viewer, dock) for _ in range(runs)]
    viewer.close()
    return {"size": size, "panel": panel, "runs": found}


def show(found: dict[str, Any], console: Console) -> None:
    """Print a table of the first run and of the medians of the others."""
    runs = found["runs"]
    later = runs[1:] or runs
    table = Table("", "first run", "later runs", "at most")
    table.add_row("panel opens", f"{found['panel']:.2f} s", "", f"{BARS['panel']:.1f} s")
    rows = {
        "begun": "planned, empty layer there",
        "tile": "first part in the layer",
        "shown": "first part drawn",
        "all": "whole image",
        "tick median": "tick, median",
        "tick": "tick, 95th percentile",
        "tick longest": "tick, longest",
    }
    bars = {"shown": BARS["first part"], "tick": BARS["tick"]}
    for key, text in rows.items():
        values = (runs[0][key], float(np.median([run[key] for run in later])))
        bar = f"{bars[key]:.2f} s" if key in bars else ""
        table.add_row(text, *(f"{value:.3f} s" for value in values), bar)
    console.print(table)


def main(
    size: Annotated[int, typer.Option(min=64, help="Pixels along each axis.")] = 2048,
    runs: Annotated[int, typer.Option(min=1, help="Predictions.")] = 4,
    out: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """Measure and print a table."""
    settings = Path(tempfile.mkdtemp())
    os.environ.setdefault("NAPARI_CONFIG", str(settings / "settings.yaml"))
    os.environ["UNETARI_LIBRARY"] = str(settings / "library")
    found = measure(size, runs)
    show(found, Console(width=100))
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
