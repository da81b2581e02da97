"""The library in the panel: found, kept, renamed, removed, located; nothing breaks the panel."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import napari
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMessageBox

from unetari.core.config import UNetConfig
from unetari.errors import LibraryError
from unetari.model.checkpoint import Model, save_model
from unetari.model.keep import keep_model, open_file, remember
from unetari.model.library import Library
from unetari.widgets import library as library_page
from unetari.widgets.dock import UnetariDock
from unetari.widgets.library import LibraryPage
from unetari.widgets.messages import State
from unetari.widgets.model import ModelWidget

from .conftest import WAIT_MS, predict, wait_for_model

CONFIG = UNetConfig(n_blocks=2, start_filters=4)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = Model.build(CONFIG, class_names=("background", "yeast"), seed=3)
    path = tmp_path / "mine.safetensors"
    return save_model(model.replace(tags=("budding",), authors=("Ada",)), path)


@pytest.fixture
def widget(bundled_folder: Path, qtbot: QtBot) -> ModelWidget:
    """Return the panel; what the library holds is listed when a test waits for it."""
    panel = ModelWidget()
    qtbot.addWidget(panel)
    return panel


def wait_for_list(qtbot: QtBot, page: LibraryPage) -> None:
    with qtbot.waitSignal(page.listed, timeout=WAIT_MS):
        page.refresh()


def wait_for_state(qtbot: QtBot, widget: ModelWidget, state: State) -> None:
    qtbot.waitUntil(lambda: widget.message.state is state, timeout=WAIT_MS)


def wait_for_name(qtbot: QtBot, page: LibraryPage, name: str) -> None:
    qtbot.waitUntil(lambda: name in page.names(), timeout=WAIT_MS)


def answer(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    """Type a name where one is asked for; None cancels."""
    given = (name or "", name is not None)
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: given)


def decide(monkeypatch: pytest.MonkeyPatch, button: QMessageBox.StandardButton) -> list[str]:
    """Press a button where something is asked; return the questions."""
    asked: list[str] = []

    def question(_parent: object, _title: str, text: str, *_: object) -> object:
        asked.append(text)
        return button

    monkeypatch.setattr(QMessageBox, "question", question)
    return asked


def open_in(qtbot: QtBot, widget: ModelWidget, path: Path) -> None:
    widget.set_page("File")
    widget.file.set_path(str(path))
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)


# the list


def test_bundled_models_are_there_at_once_and_the_rest_soon(
    bundled_folder: Path, qtbot: QtBot, file: Path
) -> None:
    keep_model(file, "yeast")
    page = LibraryPage()
    qtbot.addWidget(page)
    assert page.names() == ["tiny-2d", "tiny-3d"]
    assert page.value().name == "tiny-2d"
    wait_for_list(qtbot, page)
    assert page.names() == ["tiny-2d", "tiny-3d", "yeast"]
    assert page.value().name == "tiny-2d"


def test_the_panel_opens_without_torch(file: Path) -> None:
    keep_model(file, "yeast")
    code = """
import sys
from qtpy.QtWidgets import QApplication
app = QApplication([])
from unetari.widgets.library import LibraryPage
from unetari.widgets.library_work import read_shelf
page = LibraryPage()
shelf = read_shelf(page.library)
assert [model.name for model in shelf.listing.models][-1] == "yeast"
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_search_finds_by_what_the_card_says(
    qtbot: QtBot, widget: ModelWidget, file: Path
) -> None:
    keep_model(file, "mine")
    page = widget.library
    wait_for_list(qtbot, page)
    for words in ("budding", "ADA", "yeast 2d", "mine"):
        page.search.setText(words)
        assert page.names() == ["mine"], words
    page.search.setText("nothing such")
    assert page.names() == []
    assert 'No model matches "nothing such".' in page.empty.text()
    page.search.setText("")
    assert len(page.names()) == 3
    assert page.empty.isHidden()
    assert page.value().name == "tiny-2d"


def test_the_keyboard_is_enough(qtbot: QtBot, widget: ModelWidget, file: Path) -> None:
    keep_model(file, "mine")
    widget.show()
    qtbot.waitExposed(widget)
    page = widget.library
    wait_for_list(qtbot, page)
    qtbot.keyClicks(page.search, "ada")  # type: ignore[no-untyped-call]
    qtbot.keyClick(page.search, Qt.Key.Key_Return)  # type: ignore[no-untyped-call]
    assert page.value().name == "mine"
    page.search.clear()
    qtbot.keyClick(page.search, Qt.Key.Key_Down)  # type: ignore[no-untyped-call]
    qtbot.keyClick(page.list, Qt.Key.Key_Up)  # type: ignore[no-untyped-call]
    assert page.value().name == "tiny-3d"
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert widget.value().spec.name == "tiny-3d"


def test_a_row_hidden_by_the_search_cannot_be_removed(
    qtbot: QtBot, widget: ModelWidget, file: Path
) -> None:
    keep_model(file, "mine")
    page = widget.library
    assert not page.remove_button.isEnabled()  # a bundled model is chosen
    wait_for_list(qtbot, page)
    page.choose("mine")
    assert page.remove_button.isEnabled()
    page.search.setText("tiny")
    assert not page.remove_button.isEnabled()
    assert not page.rename_button.isEnabled()


def test_rows_can_be_painted(qtbot: QtBot, widget: ModelWidget, file: Path) -> None:
    keep_model(file, "a name that is much too long for a row of a list in a narrow panel")
    remember(
        open_file(save_model(Model.build(CONFIG, seed=5), file.with_name("b")), {}),
        Library.default(),
    )
    file.with_name("b.safetensors").unlink()
    page = widget.library
    wait_for_list(qtbot, page)
    widget.resize(300, 700)
    widget.show()
    qtbot.waitExposed(widget)
    picture = page.list.grab().toImage()
    colors = {picture.pixelColor(x, y).name() for x in range(0, 250, 3) for y in range(0, 170, 3)}
    assert len(colors) > 5


def test_long_names_show_where_they_differ(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path
) -> None:
    names = [f"nuclei of the mouse embryo in light sheets - model {end}" for end in ("A", "B")]
    for seed, name in enumerate(names):
        model = Model.build(CONFIG, seed=seed)
        keep_model(save_model(model, tmp_path / f"{seed}.safetensors"), name)
    page = widget.library
    wait_for_list(qtbot, page)
    widget.resize(300, 700)
    widget.show()
    qtbot.waitExposed(widget)
    items = [next(iter(page.list.findItems(n, Qt.MatchFlag.MatchExactly))) for n in names]
    for item, name in zip(items, names, strict=True):
        assert name in item.toolTip()
    page.list.clearSelection()
    rows = [page.list.visualItemRect(item) for item in items]
    first, second = (page.list.viewport().grab(row).toImage() for row in rows)
    assert first != second


# keeping


def test_a_file_is_kept_and_found_by_name(
    qtbot: QtBot, widget: ModelWidget, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_state(qtbot, widget, State.GOOD)
    assert not widget.file.keep_button.isEnabled()
    open_in(qtbot, widget, file)
    answer(monkeypatch, "yeast")
    assert widget.file.keep_button.isEnabled()
    widget.file.keep_button.click()
    wait_for_name(qtbot, widget.library, "yeast")
    assert "Kept as 'yeast'" in widget.message.text
    assert widget.page == "File"
    assert widget.value() is not None
    widget.set_page("Library")
    assert widget.library.choose("yeast")
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert widget.value().spec.labels == ("background", "yeast")
    assert f"yeast, a copy of {file}" in widget.card.details.text()


def test_a_taken_name_is_said(
    qtbot: QtBot, widget: ModelWidget, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_in(qtbot, widget, file)
    answer(monkeypatch, "tiny-2d")
    widget.file.keep_button.click()
    wait_for_state(qtbot, widget, State.PROBLEM)
    assert "comes with unetari" in widget.message.text
    answer(monkeypatch, None)
    widget.file.keep_button.click()
    qtbot.waitUntil(lambda: not widget.library.is_busy, timeout=WAIT_MS)
    assert Library.default().read().kept == ()


def test_names_are_offered_that_are_free(
    qtbot: QtBot, widget: ModelWidget, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_model(Model.build(CONFIG, seed=9), file.with_name("other.safetensors"))
    keep_model(other, "mine")
    offered: list[str] = []

    def get_text(*_: object, text: str) -> tuple[str, bool]:
        offered.append(text)
        return text, False

    monkeypatch.setattr(QInputDialog, "getText", get_text)
    open_in(qtbot, widget, file)
    widget.file.keep_button.click()
    qtbot.waitUntil(lambda: offered == ["mine 2"], timeout=WAIT_MS)


def test_one_change_at_a_time(
    qtbot: QtBot, widget: ModelWidget, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_model(file, "mine")
    page = widget.library
    open_in(qtbot, widget, file)
    wait_for_list(qtbot, page)
    page.choose("mine")
    may_go_on = threading.Event()

    def wait_and_fail(*_: object) -> None:
        may_go_on.wait(WAIT_MS / 1000)
        raise LibraryError("full disk")

    monkeypatch.setattr(library_page, "rename", wait_and_fail)
    answer(monkeypatch, "yours")
    buttons = (page.rename_button, page.remove_button, widget.file.keep_button)
    assert all(button.isEnabled() for button in buttons)
    page.rename_button.click()
    page.locate_button.setVisible(True)
    assert not any(button.isEnabled() for button in (*buttons, page.locate_button))
    may_go_on.set()
    wait_for_state(qtbot, widget, State.PROBLEM)
    assert widget.message.text == "full disk"
    assert all(button.isEnabled() for button in buttons)


def test_a_kept_model_is_renamed_and_stays_chosen(
    qtbot: QtBot, widget: ModelWidget, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_model(file, "mine")
    wait_for_list(qtbot, widget.library)
    widget.library.choose("mine")
    answer(monkeypatch, "yours")
    widget.library.rename_button.click()
    wait_for_name(qtbot, widget.library, "yours")
    assert widget.library.value().name == "yours"
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)


def test_removing_asks_and_spares_the_users_file(
    qtbot: QtBot, widget: ModelWidget, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_model(file, "mine")
    page = widget.library
    wait_for_list(qtbot, page)
    page.choose("mine")
    asked = decide(monkeypatch, QMessageBox.StandardButton.Cancel)
    page.remove_button.click()
    assert str(file) in asked[0]
    assert Library.default().find("mine") is not None
    decide(monkeypatch, QMessageBox.StandardButton.Yes)
    page.remove_button.click()
    qtbot.waitUntil(lambda: "mine" not in page.names(), timeout=WAIT_MS)
    assert file.exists()
    assert page.value().name == "tiny-2d"
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert widget.value().spec.name == "tiny-2d"


# recent files


def test_an_opened_file_is_recent_next_time(
    qtbot: QtBot, widget: ModelWidget, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_in(qtbot, widget, file)
    page = LibraryPage()
    qtbot.addWidget(page)
    wait_for_list(qtbot, page)
    assert page.names()[-1] == "mine"
    page.list.choose(f"recent:{file}")
    asked = decide(monkeypatch, QMessageBox.StandardButton.Yes)
    page.remove_button.click()
    qtbot.waitUntil(lambda: "mine" not in page.names(), timeout=WAIT_MS)
    assert "stays" in asked[0]
    assert file.exists()


def test_what_was_said_of_a_recent_file_is_said_again(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path
) -> None:
    import torch

    import unetari

    torch.save(unetari.UNet(n_blocks=2, start_filters=4).state_dict(), tmp_path / "a.pt")
    widget.file.set_option("activation", "elu")
    open_in(qtbot, widget, tmp_path / "a.pt")
    widget.set_page("Library")
    wait_for_list(qtbot, widget.library)
    widget.library.list.choose(f"recent:{tmp_path / 'a.pt'}")
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert widget.value().spec.config.activation == "elu"


def test_a_changed_file_is_noted(qtbot: QtBot, widget: ModelWidget, file: Path) -> None:
    remember(open_file(file, {}), Library.default())
    save_model(Model.build(CONFIG, seed=8), file, overwrite=True)
    open_in(qtbot, widget, file)
    assert "has changed since it was opened" in widget.message.text
    assert widget.message.state is State.NOTE


def test_a_missing_file_is_said_and_located(
    qtbot: QtBot,
    widget: ModelWidget,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remember(open_file(file, {}), Library.default())
    other = save_model(Model.build(CONFIG, seed=8), tmp_path / "other.safetensors")
    moved = file.rename(tmp_path / "moved.safetensors")
    page = widget.library
    wait_for_list(qtbot, page)
    assert page.locate_button.isHidden()
    page.list.choose(f"recent:{file}")
    assert not page.locate_button.isHidden()
    assert widget.value() is None
    assert "not there any more" in widget.problem
    assert "yeast" in widget.card.summary.text()

    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(other), ""))
    page.locate_button.click()
    qtbot.waitUntil(lambda: "is another model" in widget.message.text, timeout=WAIT_MS)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(moved), ""))
    page.locate_button.click()
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert page.value().source == str(moved)
    assert page.locate_button.isHidden()


def test_a_file_that_goes_while_it_is_listed_is_said(
    qtbot: QtBot, widget: ModelWidget, file: Path
) -> None:
    remember(open_file(file, {}), Library.default())
    wait_for_list(qtbot, widget.library)
    file.unlink()
    widget.library.list.choose(f"recent:{file}")
    qtbot.waitUntil(lambda: widget.library.value().is_missing, timeout=WAIT_MS)
    qtbot.waitUntil(lambda: "not there any more" in widget.problem, timeout=WAIT_MS)
    assert not widget.library.locate_button.isHidden()


# what can go wrong


def test_a_damaged_entry_is_said_and_hides_nothing(
    qtbot: QtBot, widget: ModelWidget, file: Path, library_folder: Path
) -> None:
    keep_model(file, "mine")
    (library_folder / "kept" / "broken.json").write_text("{")
    wait_for_list(qtbot, widget.library)
    assert "mine" in widget.library.names()
    assert "broken.json" in widget.library.problems.text


def test_a_damaged_copy_is_refused(
    qtbot: QtBot, widget: ModelWidget, file: Path, library_folder: Path
) -> None:
    entry = keep_model(file, "mine")
    (library_folder / "kept" / f"{entry.sha256}.safetensors").write_bytes(b"broken")
    wait_for_list(qtbot, widget.library)
    widget.library.choose("mine")
    wait_for_state(qtbot, widget, State.PROBLEM)
    assert "damaged or changed" in widget.problem


def test_a_folder_that_cannot_be_written_breaks_nothing(
    bundled_folder: Path,
    qtbot: QtBot,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "blocked").write_text("no folder")
    monkeypatch.setenv("UNETARI_LIBRARY", str(tmp_path / "blocked" / "library"))
    widget = ModelWidget()
    qtbot.addWidget(widget)
    open_in(qtbot, widget, file)
    assert "not listed among the recent ones" in widget.message.text
    answer(monkeypatch, "mine")
    widget.file.keep_button.click()
    wait_for_state(qtbot, widget, State.PROBLEM)
    assert "cannot be written" in widget.message.text
    assert widget.value() is not None


# pictures


def test_a_prediction_gives_a_kept_model_its_picture(
    viewer: napari.Viewer,
    bundled_folder: Path,
    qtbot: QtBot,
    file: Path,
    image: np.ndarray,
    library_folder: Path,
) -> None:
    entry = keep_model(file, "mine")
    dock = UnetariDock(viewer)
    viewer.window.add_dock_widget(dock, name="U-Net", area="right")
    wait_for_model(qtbot, dock)
    viewer.add_image(image)
    predict(qtbot, dock)  # with a bundled model: nothing is drawn
    wait_for_list(qtbot, dock.model.library)
    dock.model.library.choose("mine")
    wait_for_model(qtbot, dock)
    predict(qtbot, dock)
    picture = library_folder / "pictures" / f"{entry.sha256}.png"
    qtbot.waitUntil(picture.exists, timeout=WAIT_MS)
    assert [path.name for path in picture.parent.iterdir()] == [picture.name]
    wait_for_list(qtbot, dock.model.library)


def test_a_picture_that_cannot_be_drawn_is_no_fault_of_the_library(
    qtbot: QtBot, widget: ModelWidget, file: Path
) -> None:
    entry, page = keep_model(file, "mine"), widget.library
    wait_for_list(qtbot, page)
    listed: list[bool] = []
    page.listed.connect(lambda: listed.append(True))

    def draw() -> bytes:
        raise OSError("cannot draw")

    page.draw_picture(entry.sha256, draw)
    qtbot.waitUntil(lambda: "cannot draw" in page.problems.text, timeout=WAIT_MS)
    assert "library cannot be read" not in page.problems.text
    assert listed == []


def test_the_card_can_be_copied_and_is_not_cut(qtbot: QtBot, widget: ModelWidget) -> None:
    wait_for_state(qtbot, widget, State.GOOD)
    widget.resize(340, 900)
    widget.show()
    qtbot.waitExposed(widget)
    widget.card.about.setChecked(True)
    details = widget.card.details
    text = details.text()
    for title in ("Architecture", "Parameters", "Axes", "Sizes", "Receptive field", "SHA-256"):
        assert title in text
    assert details.textInteractionFlags() & Qt.TextInteractionFlag.TextSelectableByMouse
    details.selectAll()
    assert "CC0-1.0" in details.textCursor().selectedText()
    qtbot.waitUntil(lambda: details.height() >= details.document().size().height())
    assert details.document().size().width() <= details.viewport().width() + 1
