"""The form for packages: complete before it saves, and nothing typed is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QFileDialog

import unetari
from unetari.core.config import UNetConfig
from unetari.errors import UnetariError
from unetari.model.checkpoint import Model, load_model
from unetari.model.kinds import BIOIMAGEIO, NATIVE
from unetari.widgets import model as model_module
from unetari.widgets.dock import UnetariDock
from unetari.widgets.export_form import CURRENT, DRAWN, FILE, GENERATED, KEPT, ExportDialog
from unetari.widgets.messages import State, is_marked

from .conftest import WAIT_MS

Open = Callable[..., ExportDialog]


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that the user is about to choose."""
    path = tmp_path / "mine.zip"
    answer = (str(path), BIOIMAGEIO.filter)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: answer)
    return path


def open_form(qtbot: QtBot, dock: UnetariDock) -> ExportDialog:
    dock.model._save.click()
    dialog = dock.model.export_form.dialog
    assert dialog is not None
    qtbot.waitUntil(lambda: not dialog._drawing.is_running, timeout=WAIT_MS)
    return dialog


def fill(dialog: ExportDialog) -> None:
    dialog.fields["authors"].value = "A. One\nB. Two\n"
    dialog.fields["tags"].value = "nuclei, test"
    dialog.fields["citations"].value = "A paper, 10.1000/182"


def shown(dialog: ExportDialog) -> bool:
    picture = dialog.preview.pixmap()
    return picture is not None and not picture.isNull()


def test_what_is_missing_is_marked(qtbot: QtBot, dock: UnetariDock, target: Path) -> None:
    dialog = open_form(qtbot, dock)
    assert dialog.fields["name"].value == "tiny-2d"
    assert dialog.fields["license"].value == "CC0-1.0"
    assert is_marked(dialog.fields["authors"].native)
    assert dialog.problems["authors"].text.startswith("Needed")
    assert not is_marked(dialog.fields["name"].native)
    assert not dialog.save.isEnabled()
    fill(dialog)
    assert not is_marked(dialog.fields["authors"].native)
    assert dialog.save.isEnabled()
    dialog.fields["description"].value = "x" * 1001
    assert is_marked(dialog.fields["description"].native)
    assert not dialog.save.isEnabled()
    dialog.reject()
    assert not target.exists()


def test_what_is_filled_in_is_saved(
    qtbot: QtBot, dock: UnetariDock, target: Path, image: np.ndarray[Any, Any]
) -> None:
    dock._viewer.add_image(image)
    dialog = open_form(qtbot, dock)
    assert dialog.image.value == CURRENT
    assert shown(dialog)
    fill(dialog)
    dialog.documentation.value = "# About it"
    with qtbot.waitSignal(dialog.finished, timeout=WAIT_MS):
        dialog.save.click()
        assert not dialog.save.isEnabled(), "once at a time"
    assert dock.model.message.state is State.GOOD
    saved = load_model(target)
    assert saved.spec.authors == ("A. One", "B. Two")
    assert saved.spec.tags == ("nuclei", "test")
    assert saved.spec.citations == ("A paper, 10.1000/182",)
    assert saved.attachments.documentation == "# About it"
    assert saved.attachments.image is not None
    np.testing.assert_array_equal(saved.attachments.image[0], image[:60, :82])


def test_the_model_is_saved_that_the_form_was_opened_for(
    qtbot: QtBot, dock: UnetariDock, target: Path
) -> None:
    pytest.importorskip("bioimageio.spec")
    dialog = open_form(qtbot, dock)
    fill(dialog)
    dock.model.set_page("File")
    assert dock.model.value() is None
    dialog.save.click()
    qtbot.waitUntil(lambda: dock.model.export_form.dialog is None, timeout=WAIT_MS)
    assert load_model(target).spec.name == "tiny-2d"


def test_a_failure_keeps_what_was_typed(
    qtbot: QtBot, dock: UnetariDock, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise UnetariError("The disk is full.")

    dialog = open_form(qtbot, dock)
    fill(dialog)
    with monkeypatch.context() as patch:
        patch.setattr(model_module, "save", fail)
        dialog.save.click()
        qtbot.waitUntil(lambda: dialog.message.state is State.PROBLEM, timeout=WAIT_MS)
    assert dialog.message.text == "The disk is full."
    assert dialog.isVisible()
    assert dialog.save.isEnabled()
    assert dialog.fields["tags"].value == "nuclei, test"
    dialog.reject()
    again = open_form(qtbot, dock)
    assert again.card()["authors"] == ("A. One", "B. Two")
    with qtbot.waitSignal(again.finished, timeout=WAIT_MS):
        again.save.click()
    assert load_model(target).spec.tags == ("nuclei", "test")


def test_a_picture_of_ones_own(
    qtbot: QtBot, dock: UnetariDock, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = tmp_path / "bad.png", tmp_path / "good.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    iio.imwrite(good, np.full((20, 40, 3), 99, np.uint8))
    dialog = open_form(qtbot, dock)
    fill(dialog)
    dialog.cover.value = FILE
    assert is_marked(dialog.file.native)
    assert not dialog.save.isEnabled()
    for path, fits in ((bad, False), (good, True)):
        answer = (str(path), "")
        monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_, answer=answer: answer)
        dialog._browse.native.click()
        assert is_marked(dialog.file.native) is not fits
        assert dialog.save.isEnabled() is fits
        assert shown(dialog) is fits
    with qtbot.waitSignal(dialog.finished, timeout=WAIT_MS):
        dialog.save.click()
    assert load_model(target).attachments.cover == good.read_bytes()


def test_what_a_package_held_is_offered(
    qtbot: QtBot, dock: UnetariDock, target: Path, tmp_path: Path
) -> None:
    picture = iio.imwrite("<bytes>", np.zeros((8, 16, 3), np.uint8), extension=".png")
    card = {"name": "another", "description": "d", "authors": ("A",), "license": "Zlib"}
    model = Model.build(UNetConfig(n_blocks=2, start_filters=4), seed=0).replace(**card)
    path = unetari.export_model(
        model, tmp_path / "given.zip", cover=picture, documentation="# Theirs"
    )
    dock.model.set_page("File")
    dock.model.file.set_path(str(path))
    qtbot.waitUntil(lambda: dock.model.value() is not None, timeout=WAIT_MS)
    dialog = open_form(qtbot, dock)
    assert (dialog.cover.value, dialog.image.value) == (KEPT, KEPT)
    assert dialog.documentation.value == "# Theirs"
    assert dialog.fields["license"].value == "Zlib"
    assert shown(dialog)
    assert dialog.save.isEnabled()
    dialog.cover.value, dialog.image.value = DRAWN, GENERATED
    with qtbot.waitSignal(dialog.finished, timeout=WAIT_MS):
        dialog.save.click()
    saved = load_model(target)
    assert not saved.attachments.cover, "drawn of the model"
    assert saved.attachments.documentation == "# Theirs"


def test_the_suggested_name_gets_the_suffix_of_the_format(
    qtbot: QtBot, dock: UnetariDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = (str(tmp_path / f"m{NATIVE.suffixes[0]}"), BIOIMAGEIO.filter)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: answer)
    dialog = open_form(qtbot, dock)
    fill(dialog)
    with qtbot.waitSignal(dialog.finished, timeout=WAIT_MS):
        dialog.save.click()
    assert [path.name for path in tmp_path.iterdir()] == ["m.zip"]
