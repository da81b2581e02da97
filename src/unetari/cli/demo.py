"""``unetari demo``: the whole path on a generated image, in napari or as a picture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unetari.cli.console import TrustOption, show_message, stdout
from unetari.errors import ConfigError, ImageFileError, MissingExtraError, OutputExistsError

if TYPE_CHECKING:
    import napari
    import numpy as np
    from numpy.typing import NDArray

    from unetari.widgets.dock import UnetariDock

_PICTURE = Path("unetari-demo.png")
_GAP = 6
_WINDOW = (1280, 860)
_LAYOUT_MS = 50
_FILL, _EDGE = (0, 150, 255), (255, 200, 0)


def demo(
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Another 2D model: a name or a file."),
    ] = "nuclei-2d",
    window: Annotated[
        bool | None,
        typer.Option(
            "--window/--no-window",
            help="Open napari, or write a picture. Default: napari if there is a display.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The picture. Default: unetari-demo.png, or a free name."),
    ] = None,
    trust: TrustOption = False,
) -> None:
    """Segment a generated image: in napari, or into a PNG where there is no display."""
    if window and out is not None:
        raise ConfigError("--window opens napari and --out writes a picture. Give one of the two.")
    if window is not False and out is None and (problem := find_display_problem()):
        if window:
            raise ConfigError(
                f"--window: {problem}, so napari cannot open. Leave --window out for a picture."
            )
        show_message(f"{problem}, so the demo writes a picture instead of opening napari.")
        window = False
    if trust and Path(model).is_file():
        from unetari.core.files import hash_file
        from unetari.model.trust import trust as give_trust

        give_trust(hash_file(Path(model)))
    if window is False or out is not None:
        _write_picture(model, _free_name(_PICTURE) if out is None else _unused(out))
        return
    _open_napari(model)


def find_display_problem() -> str:
    """Return why no window can be opened, "" if one can.

    On Linux Qt ends the process that asks for a window in vain, so another one tries it first.
    """
    if not sys.platform.startswith("linux"):
        return ""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "There is no display"
    code = "from qtpy.QtWidgets import QApplication; QApplication([])"
    command = [sys.executable, "-c", code]
    try:
        tried = subprocess.run(command, capture_output=True, check=False, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "No window can be opened here (the display does not answer)"
    if tried.returncode >= 0:  # what cannot be imported is said when it is needed
        return ""
    said = [line.split(": ", 1)[-1].rstrip(".") for line in tried.stderr.splitlines() if line]
    reason = f" ({'; '.join(said[:2])})" if said else ""
    return f"No window can be opened here{reason}"


def _write_picture(model: str, path: Path) -> None:
    import imageio.v3 as iio
    import numpy as np

    from unetari.inference.predict import predict
    from unetari.samples import nuclei_2d

    show_message("Generating the image and segmenting it...")
    sample = nuclei_2d()
    result = predict(sample.image, model, axes=sample.axes)
    try:
        iio.imwrite(path, side_by_side(sample.image, result.labels))
    except OSError as error:
        raise ImageFileError(f"{path} cannot be written: {error.strerror or error}.") from error
    overlap = _intersection_over_union(result.labels > 0, np.asarray(sample.mask) > 0)
    show_message(
        f"{model} on {result.record.device}: {result.record.seconds:.1f} s, foreground IoU with "
        f"the true mask {overlap:.3f}. Left: the image. Right: with the predicted labels."
    )
    stdout().print(str(path), soft_wrap=True)


def side_by_side(image: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the image beside itself with its labels filled and outlined, as RGB.

    Parameters
    ----------
    image
        Intensities, (Y, X).
    labels
        Classes, (Y, X); 0 is background.

    Returns
    -------
    ndarray of uint8, (Y, 2 X + gap, 3)
    """
    import numpy as np

    low, high = np.percentile(image, (0.5, 99.8))
    # The square root shows dim nuclei beside bright ones.
    grey = np.sqrt(np.clip((image - low) / max(high - low, 1e-9), 0, 1))
    plain = np.repeat(255 * grey[..., None], 3, axis=-1)
    overlay = plain.copy()
    inside = labels > 0
    overlay[inside] = 0.65 * overlay[inside] + 0.35 * np.array(_FILL)
    overlay[_outline(inside)] = _EDGE
    gap = np.full((image.shape[0], _GAP, 3), 255)
    return np.hstack([plain, gap, overlay]).astype(np.uint8)


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    eroded: NDArray[np.bool_] = binary_erosion(inside, border_value=1)
    return inside & ~eroded


def _intersection_over_union(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return float((predicted & true).sum() / max((predicted | true).sum(), 1))


def _free_name(path: Path) -> Path:
    """Return the path, or the first of name-1, name-2, ... that does not exist."""
    candidate, number = path, 0
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def _unused(path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise ImageFileError(f"{path}: the picture is a PNG. Use {path.with_suffix('.png')}.")
    if path.exists():
        raise OutputExistsError(f"{path} exists already. Choose another name.")
    if not path.parent.is_dir():
        raise ImageFileError(f"{path}: the folder {path.parent} does not exist. Create it first.")
    return path


def _open_napari(model: str) -> None:
    try:
        import napari

        import unetari.widgets.dock  # noqa: F401 - fails if no Qt binding is installed
    except ImportError as error:
        raise MissingExtraError("PyQt6", "all", "The window of the demo") from error

    show_message("Opening napari...")
    viewer = napari.Viewer(title="unetari demo")
    show_demo(viewer, model)
    napari.run()


def show_demo(viewer: napari.Viewer, model: str) -> UnetariDock:
    """Open the sample and the dock in a viewer, and predict once the model is loaded.

    Returns
    -------
    UnetariDock
        The dock, working.
    """
    from unetari.widgets.background import single_shot

    layers = viewer.open_sample("unetari", "nuclei_2d")
    viewer.layers.selection.active = layers[0]
    dock: UnetariDock = viewer.window.add_plugin_dock_widget("unetari")[1]
    viewer.window.resize(*_WINDOW)
    # Window and dock take their sizes in the event loop; the canvas is what they leave.
    single_shot(dock, _LAYOUT_MS, viewer.reset_view).start()
    _predict_once_ready(viewer, dock)
    if not dock.model.library.choose(model):
        dock.model.set_page("File")
        dock.model.file.set_path(model)
    return dock


def _predict_once_ready(viewer: napari.Viewer, dock: UnetariDock) -> None:
    """Press Predict as soon as the model is loaded, and never again."""

    def press() -> None:
        button = dock.predict.predict_button.native
        if button.isEnabled():
            dock.model.changed.disconnect(press)
            # The dock has taken its place by now, so the image is fitted to what is left.
            viewer.reset_view()
            button.click()

    dock.model.changed.connect(press)
