"""Make the screenshots of the documentation with the real plugin: docs/images/*.png.

Needs a display; without one, run it in a virtual one:
    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/make_screenshots.py
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import QEventLoop, Qt, QTimer
from qtpy.QtWidgets import QWidget
from skimage.measure import block_reduce

from unetari import UNetConfig, keep_model, load_model, save_model
from unetari.errors import UntrustedModelError
from unetari.model.formats.torchscript import REASON
from unetari.model.keep import open_file, remember
from unetari.model.kinds import BIOIMAGEIO
from unetari.model.library import FOLDER_VARIABLE, Library
from unetari.widgets.dock import UnetariDock
from unetari.widgets.export_form import ExportDialog
from unetari.widgets.trust import TrustDialog

SIZE = (1280, 860)
PANEL_WIDTH = 400
USER_FOLDER = "/home/ada/models"
"""What pictures show in place of the temporary folder."""
MOST_BYTES = 250_000
"""Larger pictures are reduced to 256 colours."""


class Studio:
    """A viewer with the plugin, and a camera."""

    def __init__(self, out: Path, theme: str) -> None:
        self.out = out
        self.viewer = napari.Viewer(show=False)
        self.viewer.theme = theme
        self.window = self.viewer.window._qt_window
        self.window.resize(*SIZE)
        self.window.show()
        frame, panel = self.viewer.window.add_plugin_dock_widget("unetari")
        self.dock: UnetariDock = panel
        self.window.resizeDocks([frame], [PANEL_WIDTH], Qt.Orientation.Horizontal)

    def open_sample(self, name: str) -> None:
        """Replace all layers by a sample."""
        self.viewer.layers.clear()
        pause(100)
        layers = self.viewer.open_sample("unetari", name)
        self.viewer.layers.selection.active = layers[0]
        self.viewer.reset_view()

    def choose_model(self, name: str) -> None:
        """Choose a bundled model and wait until it is loaded."""
        self.dock.model.set_page("Library")
        self.dock.model.library.choose(name)
        wait_until(lambda: self.dock.model.value() is not None)

    def predict(self, picture_at: float | None = None, name: str = "") -> None:
        """Predict, and take a picture when a share of it is done."""
        taken: list[str] = []

        def watch(done: float, *_: object) -> None:
            if picture_at is not None and done >= picture_at and not taken:
                taken.append(name)
                QTimer.singleShot(150, lambda: self.take(name, settle=0))

        self.dock.session.advanced.connect(watch)
        self.dock.predict.predict_button.native.click()
        wait_until(lambda: not self.dock.session.is_running)
        self.dock.session.advanced.disconnect(watch)

    def take(self, name: str, widget: QWidget | None = None, settle: int = 600) -> None:
        """Save a picture of the window, or of one widget."""
        pause(settle)
        path = self.out / f"{name}.png"
        (widget or self.window).grab().save(str(path))
        if path.stat().st_size > MOST_BYTES:
            picture = Image.open(path).convert("RGB")
            method = Image.Quantize.MAXCOVERAGE  # keeps the few coloured pixels of the symbols
            picture.quantize(256, method, dither=Image.Dither.NONE).save(path, optimize=True)


def pause(milliseconds: int) -> None:
    """Let the window work for a while."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def wait_until(condition: Callable[[], bool]) -> None:
    """Let the window work until something is true."""
    while not condition():
        pause(20)


def make_all(studio: Studio, folder: Path) -> None:
    """Take every picture, in the order in which the tutorial goes."""
    dock = studio.dock
    studio.open_sample("nuclei_2d")
    studio.choose_model("nuclei-2d")
    studio.take("fits")
    show_dialogs(studio)
    dock.predict.auto_tile.value = False
    dock.predict.tile_field.value = 160
    studio.predict(picture_at=0.4, name="running")
    studio.viewer.layers.pop()
    dock.predict.auto_tile.value = True
    studio.predict()
    studio.take("predicted")

    dock.model.set_page("Build")
    dock.model.editor.set_value(UNetConfig(n_blocks=4, start_filters=24, normalization="group8"))
    studio.take("build")
    dock.model.editor.fields["start_filters"].value = 20
    studio.take("invalid", dock)
    dock.model.editor.set_value(UNetConfig())

    show_problem(studio)
    dock.model.set_page("File")
    dock.model.file.show_options(True)
    studio.take("file", dock)

    studio.open_sample("nuclei_3d")
    studio.choose_model("nuclei-3d")
    # A pointer that rests over the canvas has no direction yet in a volume.
    studio.viewer.mouse_over_canvas = False
    studio.viewer.dims.ndisplay = 3
    studio.viewer.scene.camera.angles = (10, 35, 120)
    studio.predict()
    studio.take("volume")
    show_rescaling(studio)
    show_diagram(studio)
    show_library(studio, folder)


def show_dialogs(studio: Studio) -> None:
    """Show the form for packages, half filled in, and the question whether a file is trusted."""
    choice = studio.dock.model.value()
    if choice is None:
        return
    form = ExportDialog(
        choice.spec.replace(license=""),
        choice.get,
        BIOIMAGEIO.key,
        source=studio.dock.image.value(),
        parent=studio.dock,
    )
    form.open()
    wait_until(lambda: not form.preview.pixmap().isNull())
    studio.take("export", form)
    form.reject()
    digest = hashlib.sha256(b"an example").hexdigest()
    example = f"{USER_FOLDER}/network.ts"
    question = TrustDialog(UntrustedModelError(example, 7_431_190, digest, REASON), studio.dock)
    question.open()
    studio.take("trust", question)
    question.reject()


def show_library(studio: Studio, folder: Path) -> None:
    """Show a kept model, a recent file and one that is gone."""
    library, model = Library.default(), load_model("nuclei-3d")
    card = {"authors": ("A. Author",), "tags": ("embryo",), "name": "embryos"}
    kept = keep_model(save_model(model.replace(**card), folder / "embryos.safetensors"))
    entry = next(library.folder.rglob(f"{kept.sha256}.json"))
    entry.write_text(entry.read_text().replace(str(folder), USER_FOLDER))
    for name in ("trial 7", "trial 8"):
        path = save_model(model.replace(name=name), folder / f"{name}.safetensors")
        remember(open_file(path, {}), library)
    path.unlink()
    page = studio.dock.model.library
    page.refresh()
    wait_until(lambda: "embryos" in page.names())
    studio.choose_model("embryos")
    studio.predict()
    studio.viewer.layers.pop()
    page.search.setText("3d")
    studio.dock.model.card.about.setChecked(True)
    studio.take("library", studio.dock, settle=1500)
    studio.dock.model.card.about.setChecked(False)
    page.search.clear()


def show_rescaling(studio: Studio) -> None:
    """Show a volume whose voxels are twice as large as the model's, before and after the click."""
    viewer, panel = studio.viewer, studio.dock
    viewer.dims.ndisplay = 2
    studio.open_sample("nuclei_3d")
    layer = viewer.layers[0]
    binned = block_reduce(layer.data, (2, 2, 2), np.mean).astype(layer.data.dtype)
    scale, units, labels = 2 * layer.scale, layer.units, layer.axis_labels
    viewer.layers.clear()
    pause(100)
    viewer.add_image(binned, name="embryo", scale=scale, units=units, axis_labels=labels)
    studio.choose_model("nuclei-3d")
    pause(500)  # the panel takes its height
    panel.area.ensureWidgetVisible(panel.image.report)
    studio.take("voxel_size")
    panel.image.report.buttons[0].click()
    studio.predict()
    studio.take("rescaled")


def show_diagram(studio: Studio) -> None:
    """Unfold the diagram for a plane and for a volume, in dark and in light."""
    model, theme = studio.dock.model, studio.viewer.theme
    model.set_page("Build")
    model.diagram.set_open(True)
    pictures = {
        "dark": ("nuclei_2d", UNetConfig()),
        "light": ("nuclei_3d", UNetConfig(dim=3, n_blocks=5)),
    }
    for name, (sample, config) in pictures.items():
        studio.viewer.theme = name
        studio.open_sample(sample)
        model.editor.set_value(config)
        pause(1000)  # the panel takes its height
        studio.dock.area.ensureWidgetVisible(model.diagram.save_button)
        studio.take(f"diagram_{name}")
    model.diagram.set_open(False)
    studio.viewer.theme = theme


def show_problem(studio: Studio) -> None:
    """Show an RGB image to a model with one channel."""
    image = studio.viewer.layers[0].data
    grey = np.clip((image - 100.0) / np.percentile(image, 99.5), 0, 1)
    color = (255 * np.stack([0.3 * grey, 0.5 * grey, grey], axis=-1)).astype(np.uint8)
    studio.viewer.layers.clear()
    pause(100)
    studio.viewer.add_image(color, rgb=True, name="stained cells")
    studio.choose_model("nuclei-2d")
    pause(500)  # the panel takes its height
    studio.dock.area.ensureWidgetVisible(studio.dock.image.report.buttons[-1])
    studio.take("problem")


def main() -> None:
    """Read the options and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--theme", default="dark", choices=("dark", "light"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_VARIABLE] = str(Path(folder) / "library")
        studio = Studio(options.out, options.theme)
        make_all(studio, Path(folder))
        studio.viewer.close()


if __name__ == "__main__":
    main()
