"""`ModelFilePage`: a model file, and what it may not tell."""

from __future__ import annotations

from typing import Any, get_args

from magicgui.widgets import ComboBox
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from unetari.core.config import Activation, BlockOrder, ConvMode, UpMode
from unetari.core.normalization import Normalization
from unetari.model.kinds import all_suffixes
from unetari.widgets.config_editor import CHOICE_NAMES, TITLES, NormalizationField
from unetari.widgets.fields import choice, form, texts
from unetari.widgets.normalization_editor import NormalizationEditor

_AUTO, _AUTO_HELP = "automatic", "As the file says, or assumed"
FILTER = f"Models ({' '.join(f'*{suffix}' for suffix in all_suffixes())});;All files (*)"
_OPTIONS = {
    "activation": get_args(Activation),
    "conv_mode": get_args(ConvMode),
    "up_mode": get_args(UpMode),
    "block_order": get_args(BlockOrder),
    # Without "batch": its statistics are in the file, which tells it, therefore.
    "normalization": ("none", "instance", "group"),
    # Of other programs' networks only.
    "dim": (2, 3),
    "in_channels": (1, 2, 3, 4, 5, 6, 7, 8),
    "classes": ("exclusive", "independent"),
    "output": ("logits", "probabilities"),
}
_TITLES = {**TITLES, "classes": "Labels", "output": "Output"}
_NAMES = {
    **CHOICE_NAMES,
    "exclusive": "one per pixel",
    "independent": "may overlap",
}


class ModelFilePage(QWidget):
    """Chooses a model file.

    Parameters
    ----------
    parent : QWidget, optional
        The owner.
    """

    changed = Signal()
    """Emitted when another file or option is chosen."""
    keep_requested = Signal()
    """Emitted when the file is to be copied into the library."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._path = QLineEdit()
        self._path.setPlaceholderText("A model file of unetari or another program")
        self._browse = QPushButton("Browse...")
        self.keep_button = QPushButton("Keep in library")
        self.keep_button.setToolTip("Copy the file, to find the model under Library from now on")
        self.keep_button.setEnabled(False)
        self._toggle = QToolButton()
        self._toggle.setText("If the file does not tell everything")
        self._toggle.setCheckable(True)
        self._toggle.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._toggle.setArrowType(Qt.ArrowType.RightArrow)
        self._fields = {name: _make_field(name) for name in _OPTIONS}
        self.intensities = NormalizationEditor(unset=_AUTO, tooltip=_AUTO_HELP)
        options = form(list(self._fields.values()))
        self._form = form([options, self.intensities], labels=False)
        self._lay_out()
        self._path.returnPressed.connect(self._on_return)
        self._path.editingFinished.connect(self._on_path_edited)
        self._browse.clicked.connect(self._ask)
        self.keep_button.clicked.connect(self.keep_requested)
        self._toggle.toggled.connect(self._on_toggled)
        self._form.changed.connect(self._on_option)
        self._known = ""

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.addWidget(self._path, stretch=1)
        row.addWidget(self._browse)
        self._form.visible = False
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row)
        second = QHBoxLayout()
        second.addWidget(self._toggle)
        second.addStretch(1)
        second.addWidget(self.keep_button)
        column.addLayout(second)
        column.addWidget(self._form.native)

    @property
    def path(self) -> str:
        """The file; empty if none is chosen."""
        return self._path.text().strip()

    def set_path(self, path: str) -> None:
        """Choose a file."""
        self._path.setText(path)
        self._on_path_edited()

    def options(self) -> dict[str, Any]:
        """Return the options the user gave for files that do not tell them."""
        return {name: field.value for name, field in self._fields.items() if field.value}

    def given_intensities(self) -> Normalization | None:
        """Return how intensities are mapped; None for what the file says."""
        return self.intensities.value() if self.intensities.is_set else None

    def set_option(self, name: str, value: str | int | None) -> None:
        """Choose an option that the file does not tell; None for what it says."""
        self._fields[name].value = value or ""

    def offer_keeping(self, is_possible: bool) -> None:
        """Allow to keep the file once it is loaded."""
        self.keep_button.setEnabled(is_possible)

    def show_options(self, shown: bool) -> None:
        """Unfold what files may not tell, or fold it away."""
        self._toggle.setChecked(shown)

    def _on_toggled(self, shown: bool) -> None:
        self._toggle.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self._form.visible = shown

    def _on_option(self) -> None:
        self.changed.emit()

    def _on_return(self) -> None:
        self._known = ""  # asked for by hand: open it, or ask whether it is trusted, once more
        self._on_path_edited()

    def _on_path_edited(self) -> None:
        # Leaving the field without a change must not load the file again.
        if self.path != self._known:
            self._known = self.path
            self.changed.emit()

    def _ask(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a model", self.path, FILTER)
        if path:
            self._known = ""  # the same file may have changed
            self.set_path(path)


def _make_field(name: str) -> ComboBox | NormalizationField:
    choices = {"": _AUTO, **texts(_OPTIONS[name], {} if name == "in_channels" else _NAMES)}
    if name == "normalization":
        return NormalizationField(name=name, label=_TITLES[name], tooltip=_AUTO_HELP, kinds=choices)
    return choice(choices, label=_TITLES[name], tooltip=_AUTO_HELP)
