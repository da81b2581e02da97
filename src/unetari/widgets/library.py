"""`LibraryPage`: finds bundled, kept and recent models again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QInputDialog,
    QLineEdit,
    QMessageBox,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from unetari.model.library import Library
from unetari.model.listing import Listed
from unetari.widgets.background import Background
from unetari.widgets.library_list import ModelList
from unetari.widgets.library_work import (
    Done,
    Proposal,
    Shelf,
    keep,
    locate,
    propose,
    put_picture,
    read_bundled,
    read_shelf,
    removal_question,
    remove,
    rename,
)
from unetari.widgets.messages import Message, State, TextLabel
from unetari.widgets.model_file import FILTER

if TYPE_CHECKING:
    from unetari.model.keep import Opened


class LibraryPage(QWidget):
    """Lists models, searches among them, and keeps, renames and removes them.

    Bundled models are there at once; the library itself is read in the background.

    Parameters
    ----------
    parent : QWidget, optional
        The owner.
    """

    changed = Signal()
    """Emitted when another model is chosen, or the chosen one is another now."""
    listed = Signal()
    """Emitted when the library has been read."""
    told = Signal(str, object)
    """What became of keeping, renaming, removing or locating a model, and its `State`."""
    busy_changed = Signal()
    """Emitted when such a change begins or ends: one at a time, as the outcome of each is said."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.library = Library.default()
        self.search = QLineEdit()
        self.list = ModelList()
        self.empty = TextLabel()
        self.problems = Message()
        self.rename_button = QPushButton("Rename...")
        self.remove_button = QPushButton("Remove...")
        self.locate_button = QPushButton("Locate...")
        self._reading = Background(self)
        self._changing = Background(self)
        self._proposing = Background(self)
        self._drawing = Background(self)
        self._wanted = ""
        self._lay_out()
        self._connect()
        self._show(read_bundled(self.library))
        self.list.setCurrentRow(0)
        self._update()

    def _lay_out(self) -> None:
        self.search.setPlaceholderText("Search name, tag, class, author")
        self.search.setClearButtonEnabled(True)
        self.search.setAccessibleName("Search models")
        self.search.installEventFilter(self)
        self.rename_button.setToolTip("Give a kept model another name")
        self.remove_button.setToolTip("Delete the library's copy; your own file stays")
        self.locate_button.setToolTip("Say where the file is now")
        row = QHBoxLayout()
        for button in (self.rename_button, self.remove_button, self.locate_button):
            row.addWidget(button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        for part in (self.search, self.list, self.empty, self.problems):
            column.addWidget(part)
        column.addLayout(row)

    def _connect(self) -> None:
        self.search.textChanged.connect(self._on_search)
        self.search.returnPressed.connect(self._choose_first)
        self.list.currentItemChanged.connect(self._on_chosen)
        self.rename_button.clicked.connect(self._ask_name)
        self.remove_button.clicked.connect(self._ask_and_remove)
        self.locate_button.clicked.connect(self._ask_where)
        self._reading.done.connect(self._on_read)
        self._reading.failed.connect(self._on_read_failed)
        self._changing.done.connect(self._on_changed)
        self._changing.failed.connect(self._on_change_failed)
        self._drawing.done.connect(self.refresh)
        self._drawing.failed.connect(self._on_not_drawn)
        self._proposing.done.connect(self._ask_and_keep)
        self._proposing.failed.connect(self._on_change_failed)

    def value(self) -> Listed | None:
        """Return the chosen model."""
        return self.list.chosen()

    def choose(self, name: str) -> bool:
        """Choose a bundled or kept model by its name; False if it is not listed."""
        return self.list.choose(f"bundled:{name}") or self.list.choose(f"kept:{name}")

    def names(self) -> list[str]:
        """Return what the rows are called, from top to bottom, without those that are hidden."""
        rows = (self.list.item(row) for row in range(self.list.count()))
        return [row.text() for row in rows if row is not None and not row.isHidden()]

    def refresh(self) -> None:
        """Read the library again, in the background; what is chosen stays."""
        self._reading.start(partial(read_shelf, self.library))

    @property
    def is_busy(self) -> bool:
        """Whether the library is being changed; nothing else may be asked for until it is done."""
        return self._changing.is_running or self._proposing.is_running

    def keep(self, opened: Opened) -> None:
        """Ask for a name, and copy an opened model into the library, in the background."""
        self._proposing.start(partial(propose, opened, self.library))
        self._show_busy()

    def _ask_and_keep(self, proposal: Proposal) -> None:
        name, is_given = QInputDialog.getText(
            self, "Keep in library", "Name in the library:", text=proposal.name
        )
        if is_given:
            self._change(partial(keep, proposal.opened, self.library, name.strip()))
        else:
            self._show_busy()

    def _change(self, function: Callable[[], Done]) -> None:
        self._changing.start(function)
        self._show_busy()

    def _show_busy(self) -> None:
        self._update()
        self.busy_changed.emit()

    def draw_picture(self, sha256: str, draw: Callable[[], bytes]) -> None:
        """Make a picture of what a model of the library does, in the background."""
        self._drawing.start(partial(put_picture, self.library, sha256, draw))

    def eventFilter(self, field: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Let the key Down lead from the search to what it found."""
        is_down = isinstance(event, QKeyEvent) and event.key() == Qt.Key.Key_Down
        if is_down and event is not None and event.type() == QEvent.Type.KeyPress:
            self._choose_first()
            self.list.setFocus()
            return True
        return bool(super().eventFilter(field, event))

    def _choose_first(self) -> None:
        """Choose the first model found, unless the chosen one is among them."""
        current, first = self.list.currentItem(), self.list.first_found()
        if first is not None and (current is None or current.isHidden()):
            self.list.choose(first.key)

    def _show(self, shelf: Shelf) -> None:
        self.list.blockSignals(True)
        self.list.show_models(shelf.listing.models, shelf.pictures)
        self.list.blockSignals(False)
        self.problems.show_text(" ".join(shelf.listing.problems))
        self._on_search(self.search.text())

    def _on_read(self, shelf: Shelf) -> None:
        before = self.value()
        self._show(shelf)
        wanted, self._wanted = self._wanted, ""
        if wanted and self.list.choose(wanted):
            before = self.value()  # choosing has said so
        now = self.value()
        if now is None:
            self.list.setCurrentRow(0)
        elif before is not None and before.is_missing != now.is_missing:
            self.changed.emit()
        self._update()
        self.listed.emit()

    def _on_read_failed(self, error: Exception) -> None:
        self.problems.show_text(f"The library cannot be read: {error}", State.PROBLEM)
        self.listed.emit()

    def _on_not_drawn(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        self.problems.show_text(f"The picture of the model is missing: {text}")

    def _on_search(self, words: str) -> None:
        found = self.list.search(words)
        self.empty.setText(f'No model matches "{words.strip()}".' if words.strip() else "")
        self.empty.setVisible(bool(words.strip()) and not found)
        self.list.setVisible(bool(found) or not words.strip())
        self._update()

    def _on_chosen(self) -> None:
        self._update()
        self.changed.emit()

    def _update(self) -> None:
        model, item = self.value(), self.list.currentItem()
        is_shown = item is not None and not item.isHidden()
        origin = model.origin if model is not None and is_shown else "bundled"
        self.rename_button.setEnabled(origin == "kept" and not self.is_busy)
        self.remove_button.setEnabled(origin != "bundled" and not self.is_busy)
        self.locate_button.setEnabled(not self.is_busy)
        self.locate_button.setVisible(model is not None and model.is_missing)
        # Without a model of the user's own there is nothing that these could ever do.
        for button in (self.rename_button, self.remove_button):
            button.setVisible(self.list.has_own())

    def _ask_name(self) -> None:
        model = self.value()
        if model is None or model.entry is None:
            return
        name, is_given = QInputDialog.getText(self, "Rename", "New name:", text=model.name)
        if is_given and name.strip() != model.name:
            self._change(partial(rename, self.library, model.entry, name.strip()))

    def _ask_and_remove(self) -> None:
        model = self.value()
        if model is None or model.entry is None:
            return
        buttons = QMessageBox.StandardButton
        answer = QMessageBox.question(
            self, "Remove", removal_question(model), buttons.Yes | buttons.Cancel, buttons.Cancel
        )
        if answer == buttons.Yes:
            self._change(partial(remove, self.library, model))

    def _ask_where(self) -> None:
        model = self.value()
        if model is None or model.entry is None:
            return
        title = f"Where is {Path(model.source).name}?"
        path, _ = QFileDialog.getOpenFileName(self, title, str(Path(model.source).parent), FILTER)
        if path:
            self.told.emit("Comparing the file...", State.BUSY)
            self._change(partial(locate, self.library, model.entry, path))

    def _on_changed(self, done: Done) -> None:
        self._show_busy()
        self.told.emit(done.text, State.GOOD)
        self._wanted = done.key
        self.refresh()

    def _on_change_failed(self, error: Exception) -> None:
        self._show_busy()
        self.told.emit(str(error) or type(error).__name__, State.PROBLEM)
