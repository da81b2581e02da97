"""Input fields with `value()`, `set_value()` and one `changed` signal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QComboBox, QSizePolicy, QSpinBox, QWidget


class ChoiceField(QComboBox):
    """A choice among values, each shown as a text.

    Parameters
    ----------
    choices : mapping
        Text by value.
    parent : QWidget, optional
        The owner.
    """

    changed = Signal()

    def __init__(self, choices: Mapping[Any, str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        # A long text must not widen the whole panel.
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumContentsLength(6)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.set_choices(choices)
        self.currentIndexChanged.connect(self.changed)

    def set_choices(self, choices: Mapping[Any, str]) -> None:
        """Replace the choices and keep the value where it is still one; emits nothing."""
        value = self.value() if self.count() else None
        blocker = QSignalBlocker(self)
        self.clear()
        for choice, text in choices.items():
            self.addItem(text, choice)
        self.set_value(value)
        blocker.unblock()

    def choices(self) -> list[Any]:
        """Return the values that can be chosen."""
        return [self.itemData(index) for index in range(self.count())]

    def value(self) -> Any:
        """Return the chosen value; None if there are no choices."""
        return self.currentData()

    def set_value(self, value: Any) -> None:
        """Choose a value; one that is not offered leaves the choice as it is."""
        choices = self.choices()
        if value in choices:
            self.setCurrentIndex(choices.index(value))

    def wheelEvent(self, event: QWheelEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Scroll the panel, not the value, unless the field was clicked."""
        if self.hasFocus():
            super().wheelEvent(event)
        elif event is not None:
            event.ignore()


class IntField(QSpinBox):
    """An integer within limits."""

    changed = Signal()

    def __init__(self, low: int, high: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setRange(low, high)
        # Typing 128 must not build networks of 1 and 12 filters on the way.
        self.setKeyboardTracking(False)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(60)
        self.valueChanged.connect(self._on_value)

    def _on_value(self, _: int) -> None:
        self.changed.emit()

    def set_value(self, value: int) -> None:
        """Set the value; beyond the limits, the nearest one."""
        self.setValue(value)

    def wheelEvent(self, event: QWheelEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Scroll the panel, not the value, unless the field was clicked."""
        if self.hasFocus():
            super().wheelEvent(event)
        elif event is not None:
            event.ignore()


def texts(values: Iterable[Any], names: Mapping[Any, str]) -> dict[Any, str]:
    """Return the text of each value, the value itself where `names` has none."""
    return {value: names.get(value, str(value)) for value in values}
