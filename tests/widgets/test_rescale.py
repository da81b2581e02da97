"""The panel offers to rescale an image, does it, and forgets it when something else is chosen."""

from __future__ import annotations

from pathlib import Path

import napari
import numpy as np
import pytest
from napari.layers import Image
from pytestqt.qtbot import QtBot

import unetari
from unetari.model import bundled
from unetari.widgets.dock import UnetariDock
from unetari.widgets.messages import State

from .conftest import predict, wait_for_model


@pytest.fixture
def sized(
    viewer: napari.Viewer,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: QtBot,
) -> UnetariDock:
    """Return the panel with a model that was trained at 0.5 um, and one that was not."""
    path = tmp_path / "sized-2d.safetensors"
    model = unetari.load_model(model_folder / "tiny-2d.safetensors")
    unetari.save_model(model.replace(voxel_size=(0.5, 0.5), name="sized-2d"), path)
    files = {"sized-2d": path, "tiny-2d": model_folder / "tiny-2d.safetensors"}
    monkeypatch.setattr(bundled, "_files", lambda: files)
    panel = UnetariDock(viewer)
    viewer.window.add_dock_widget(panel, name="U-Net", area="right")
    wait_for_model(qtbot, panel)
    return panel


def add(viewer: napari.Viewer, image: np.ndarray, size: float = 0.25, unit: str = "um") -> Image:
    layer = viewer.add_image(image, scale=(size,) * image.ndim, units=(unit,) * image.ndim)
    assert isinstance(layer, Image)
    return layer


def offers(dock: UnetariDock) -> list[str]:
    return [button.text() for button in dock.image.report.buttons if "escale" in button.text()]


def sentences(dock: UnetariDock) -> str:
    return " ".join(message.text for message in dock.image.report.messages)


def click(dock: UnetariDock, text: str) -> None:
    next(button for button in dock.image.report.buttons if text in button.text()).click()


RESCALE = "Rescale to the model's voxel size"


def test_a_click_rescales_and_another_goes_back(
    viewer: napari.Viewer, sized: UnetariDock, qtbot: QtBot, image: np.ndarray, tmp_path: Path
) -> None:
    layer = add(viewer, image)
    assert offers(sized) == [RESCALE]
    assert "looks 2 times larger" in sentences(sized)
    click(sized, RESCALE)
    assert offers(sized) == ["Do not rescale"]
    assert "rescaled: Y from 61 to 31 px and X from 83 to 42 px" in sentences(sized)
    assert "looks 2 times larger" not in sentences(sized)
    assert "42 px fits as it is" in sentences(sized)
    sized.model.diagram.set_open(True)
    assert sized.model.diagram.shape == (31, 42)
    labels = predict(qtbot, sized)
    expected = unetari.predict(image, tmp_path / "sized-2d.safetensors", scale=(0.5, 0.5))
    np.testing.assert_array_equal(labels.data, expected.labels)
    np.testing.assert_allclose(labels.scale, layer.scale)
    np.testing.assert_allclose(labels.translate, layer.translate)
    assert labels.metadata["unetari"]["scale"] == [0.5, 0.5]
    click(sized, "Do not")
    assert offers(sized) == [RESCALE]
    assert sized.model.diagram.shape == image.shape
    assert predict(qtbot, sized).metadata["unetari"]["scale"] is None


def test_a_region_of_a_stack_grows_tile_by_tile(
    viewer: napari.Viewer, sized: UnetariDock, qtbot: QtBot, image: np.ndarray, tmp_path: Path
) -> None:
    add(viewer, np.stack([image, image[::-1]]), size=1.25)
    sized.image.set_axes("ZYX")
    click(sized, RESCALE)
    sized.predict.region_field.value = "slice"
    sized.predict.scores_box.value = True
    sized.predict.auto_tile.value = False
    sized.predict.tile_field.value = 64
    viewer.dims.set_current_step(0, 1)
    with qtbot.waitSignal(sized.session.advanced):
        labels = predict(qtbot, sized)
    assert labels.metadata["unetari"]["n_tiles"] > 4
    model = str(tmp_path / "sized-2d.safetensors")
    stack = np.stack([image, image[::-1]])
    expected = unetari.predict(stack, model, axes="ZYX", scale=(2.5, 2.5), scores=True)
    assert expected.scores is not None
    assert labels.data.shape == (1, *image.shape)
    assert sized.session.scores is not None
    np.testing.assert_allclose(sized.session.scores.data, expected.scores[:, 1:], atol=1e-5)


def test_other_sizes_another_layer_and_another_model_end_the_choice(
    viewer: napari.Viewer, sized: UnetariDock, qtbot: QtBot, image: np.ndarray
) -> None:
    layer = add(viewer, image)
    click(sized, RESCALE)
    layer.scale = (0.1, 0.1)
    assert offers(sized) == [RESCALE]
    assert "looks 5 times larger" in sentences(sized)
    click(sized, RESCALE)
    other = add(viewer, image, size=0.1)
    sized.image.layers.set_layer(other)
    assert offers(sized) == [RESCALE]
    click(sized, RESCALE)
    sized.model.library.choose("tiny-2d")
    wait_for_model(qtbot, sized)
    assert offers(sized) == []
    assert "rescaled" not in sentences(sized)
    assert predict(qtbot, sized).metadata["unetari"]["scale"] is None
    sized.model.library.choose("sized-2d")
    wait_for_model(qtbot, sized)
    assert offers(sized) == [RESCALE]


@pytest.mark.parametrize(
    ("size", "unit", "warned"),
    [(0.5, "um", False), (0.25, "pixel", False), (1.0, "nm", True)],
)
def test_nothing_is_offered_without_a_reason_or_a_way(
    viewer: napari.Viewer,
    sized: UnetariDock,
    image: np.ndarray,
    size: float,
    unit: str,
    warned: bool,
) -> None:
    """1 nm would take a factor of 1/500."""
    add(viewer, image, size, unit)
    assert offers(sized) == []
    assert ("the model was trained at" in sentences(sized)) is warned
    states = {message.state for message in sized.image.report.messages}
    assert State.PROBLEM not in states
