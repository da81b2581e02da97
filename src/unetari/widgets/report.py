"""`ReportView`: whether the image fits, in sentences, with fixes to click."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from unetari.core.shapes import Fix, ShapeReport
from unetari.widgets.messages import Message, State

_SHORT = 16  # letters, in half the width of a narrow panel
_MOST_CHANNELS = 3
"""More single channels than this are left to the channel field."""


class ReportView(QWidget):
    """Shows a `ShapeReport`.

    Parameters
    ----------
    parent : QWidget, optional
        The owner.
    """

    fix_requested = Signal(object)
    """Emitted with the `Fix` whose button was clicked."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(4)
        self.messages: list[Message] = []
        self.buttons: list[QPushButton] = []
        self._fixes: list[Fix] = []
        self._half_row: QHBoxLayout | None = None

    def show_report(
        self, report: ShapeReport, fixes: Sequence[Fix], notes: Sequence[str] = ()
    ) -> None:
        """Show a report; what solves a problem stands right below it.

        Parameters
        ----------
        report : ShapeReport
            Problems, facts and notes become sentences.
        fixes : sequence of Fix
            Those that a click can carry out.
        notes : sequence of str
            More notes, which do not block.
        """
        rest = [(text, State.GOOD) for text in report.facts]
        rest += [(text, State.NOTE) for text in (*report.notes, *notes)]
        self.show_sentences([(text, State.PROBLEM) for text in report.problems])
        if not report.problems:
            self._add_messages(rest)
        for fix in choose_fixes(fixes):
            self._add_button(fix)
        if report.problems:
            self._add_messages(rest)

    def show_sentences(self, sentences: Sequence[tuple[str, State]]) -> None:
        """Show sentences without fixes, in place of a report."""
        while (item := self._column.takeAt(0)) is not None:
            row = item.layout()
            if row is not None:
                row.deleteLater()
        for widget in (*self.messages, *self.buttons):
            widget.hide()
            widget.deleteLater()
        self.messages, self.buttons = [], []
        self._fixes = []
        self._half_row = None
        self._add_messages(sentences)

    def _add_messages(self, sentences: Sequence[tuple[str, State]]) -> None:
        for text, state in sentences:
            message = Message(text, state)
            self.messages.append(message)
            self._column.addWidget(message)

    def _add_button(self, fix: Fix) -> None:
        button = QPushButton(button_text(fix))
        button.setToolTip(fix.text)
        # Never wider than the panel.
        button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        button.clicked.connect(self._on_clicked)
        self.buttons.append(button)
        self._fixes.append(fix)
        self._place(button)

    def _place(self, button: QPushButton) -> None:
        """Two short buttons share a row."""
        is_short = len(button.text()) <= _SHORT
        if not (is_short and self._half_row is not None):
            self._half_row = QHBoxLayout()
            self._column.addLayout(self._half_row)
            self._half_row.addWidget(button)
            self._half_row = self._half_row if is_short else None
        else:
            self._half_row.addWidget(button)
            self._half_row = None

    def _on_clicked(self) -> None:
        # A bound method, unlike a lambda, does not keep the panel alive.
        button = self.sender()
        if isinstance(button, QPushButton) and button in self.buttons:
            self.fix_requested.emit(self._fixes[self.buttons.index(button)])


def choose_fixes(fixes: Sequence[Fix]) -> list[Fix]:
    """Leave out padding (it happens by itself), repetitions, and all but the first channels."""
    channels = [fix for fix in fixes if fix.kind == "channel"][:_MOST_CHANNELS]
    chosen: dict[tuple[str, int | None], Fix] = {}
    for fix in fixes:
        if fix.kind != "pad" and (fix.kind != "channel" or fix in channels):
            chosen.setdefault((fix.kind, fix.value), fix)
    return list(chosen.values())


def button_text(fix: Fix) -> str:
    """Return what fits on a button: the request without its reason."""
    return fix.text.partition(":")[0].partition(" (")[0].removesuffix(" only")
