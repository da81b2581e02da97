"""`ModelFilePage`: a model file, and what it may not tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from unetari.model.notes import Assumed
from unetari.widgets.config_editor import CHOICE_NAMES, TITLES, NormalizationField
from unetari.widgets.fields import choice, form, offer, texts
from unetari.widgets.messages import mark
from unetari.widgets.normalization_editor import NormalizationEditor

ASSUMPTIONS = "Assumptions"
"""Title of what a file may not say."""
_UNSET = ""
_AUTO, _AUTO_HELP = "automatic", "As the file says, or assumed"
FILTER = f"Models ({' '.join(f'*{suffix}' for suffix in all_suffixes())});;All files (*)"
_OPTIONS: dict[str, tuple[Any, ...]] = {
    "activation": (*get_args(Activation), "leaky0.01", "silu", "rrelu", "prelu", "linear"),
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
_FOUND = ("layer_order", "pool_size", "full_norm")
"""Options of single programs, offered with the values that a file leaves open."""
OPTION_TITLES = {
    **TITLES,
    "classes": "Labels",
    "output": "Output",
    "layer_order": "Layer order",
    "pool_size": "Pooling",
    "full_norm": "Norm everywhere",
    "intensities": "Intensities",
}
"""Title of each option."""
NAMES: dict[Any, str] = {
    **CHOICE_NAMES,
    "leaky0.01": "leaky ReLU (0.01)",
    "silu": "SiLU",
    "rrelu": "RReLU",
    "prelu": "PReLU",
    "linear": "none",
    "exclusive": "one per pixel",
    "independent": "may overlap",
    True: "yes",
    False: "no",
}
"""Text of the values that need one."""


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
        self._path.setPlaceholderText("A model file")
        self._browse = QPushButton("Browse...")
        self._browse.setToolTip("Look for a model file")
        self.keep_button = QPushButton("Keep in library")
        self.keep_button.setToolTip("Copy the file, to find the model under Library from now on")
        self.keep_button.setEnabled(False)
        self._toggle = QToolButton()
        self._toggle.setText(ASSUMPTIONS)
        self._toggle.setToolTip("What the file does not say is assumed; say it here if you know it")
        self._toggle.setCheckable(True)
        self._toggle.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._toggle.setArrowType(Qt.ArrowType.RightArrow)
        self._fields: dict[str, Any] = {name: _make_field(name) for name in _OPTIONS}
        self._fields |= {name: _make_choice(name, ()) for name in _FOUND}
        self.intensities = NormalizationEditor(unset=_AUTO, tooltip=_AUTO_HELP)
        options = form(list(self._fields.values()))
        self._form = form([options, self.intensities], labels=False)
        self.offer_found(())
        self._lay_out()
        self._path.returnPressed.connect(self._on_return)
        self._path.editingFinished.connect(self._on_path_edited)
        self._browse.clicked.connect(self._ask)
        self.keep_button.clicked.connect(self.keep_requested)
        self._toggle.toggled.connect(self._on_toggled)
        self._form.changed.connect(self._on_option)
        self._known = ""
        self._told_of = ""

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

    def mark_path(self, invalid: bool) -> None:
        """Draw a red border around the path, or remove it."""
        mark(self._path, invalid)

    def options(self) -> dict[str, Any]:
        """Return the options the user gave for files that do not tell them."""
        fields = self._fields.items()
        return {name: field.value for name, field in fields if field.value != _UNSET}

    def given_intensities(self) -> Normalization | None:
        """Return how intensities are mapped; None for what the file says."""
        return self.intensities.value() if self.intensities.is_set else None

    def set_option(self, name: str, value: str | int | None) -> None:
        """Choose an option that the file does not tell; None for what it says."""
        self._fields[name].value = _UNSET if value is None else value

    def offer_keeping(self, is_possible: bool) -> None:
        """Allow to keep the file once it is loaded."""
        self.keep_button.setEnabled(is_possible)

    def offer_found(self, notes: Iterable[Assumed]) -> None:
        """Offer the options of single programs that the opened file leaves open."""
        open_ones = {note.option: note.choices for note in notes}
        for name in _FOUND:
            field = self._fields[name]
            if name in open_ones:
                offer(field, _with_names(open_ones[name]))
            field.visible = name in open_ones or field.value != _UNSET

    def show_options(self, shown: bool) -> None:
        """Unfold what files may not tell, or fold it away."""
        self._toggle.setChecked(shown)

    def _on_toggled(self, shown: bool) -> None:
        self._toggle.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self._form.visible = shown

    def _on_option(self) -> None:
        self._count_given()
        self.changed.emit()

    def _count_given(self) -> None:
        given = len(self.options()) + self.intensities.is_set
        self._toggle.setText(f"{ASSUMPTIONS} ({given} given)" if given else ASSUMPTIONS)

    def _on_return(self) -> None:
        self._known = ""  # asked for by hand: open it, or ask whether it is trusted, once more
        self._on_path_edited()

    def _on_path_edited(self) -> None:
        # Leaving the field without a change must not load the file again.
        if self.path != self._known:
            self._known = self.path
            if self._told_of and self._told_of != self.path:
                self._reset()
            self._told_of = self.path
            self.changed.emit()

    def _reset(self) -> None:
        """Forget what was said of another file; emits nothing."""
        with self._form.changed.blocked():
            for field in self._fields.values():
                field.value = _UNSET
            self.intensities.reset()
        self.offer_found(())
        self._count_given()

    def _ask(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a model", self.path, FILTER)
        if path:
            self._known = ""  # the same file may have changed
            self.set_path(path)


def _make_field(name: str) -> ComboBox | NormalizationField:
    if name == "normalization":
        kinds = _with_names(_OPTIONS[name])
        title = OPTION_TITLES[name]
        return NormalizationField(name=name, label=title, tooltip=_AUTO_HELP, kinds=kinds)
    return _make_choice(name, _OPTIONS[name])


def _make_choice(name: str, values: Iterable[Any]) -> ComboBox:
    names = {} if name == "in_channels" else NAMES
    return choice(_with_names(values, names), label=OPTION_TITLES[name], tooltip=_AUTO_HELP)


def _with_names(values: Iterable[Any], names: Mapping[Any, str] = NAMES) -> dict[Any, str]:
    return {_UNSET: _AUTO, **texts(values, names)}
