"""Sentences with a state, and marks on fields: the same look in the whole panel."""

from __future__ import annotations

from enum import Enum

from qtpy.QtCore import QPointF, QSize, Qt
from qtpy.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPaintEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QWidget,
)

_SYMBOL_WIDTH = 16
_WIDE = 1 << 20  # pixels; no line breaks within


class State(Enum):
    """What a sentence means for the user: a symbol and a colour.

    The colours stand out from napari's dark and light background alike.
    """

    GOOD = ("✓", "#2fa866")
    NOTE = ("●", "#d08a1d")
    PROBLEM = ("✕", "#e2504a")
    BUSY = ("…", "#4c8fd6")

    @property
    def symbol(self) -> str:
        """Shown before the sentence, so that colour is not the only sign."""
        return self.value[0]

    @property
    def color(self) -> str:
        """Of the symbol."""
        return self.value[1]


class TextLabel(QLabel):
    """Text that wraps and can be selected and copied."""

    def __init__(self, text: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(True)
        # Where there is a line too many, the text stays beside its symbol.
        self.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.setText(text)

    @property
    def first_line(self) -> float:
        """Height of the middle of the first line, from the top."""
        # Qt does not tell what it puts above the text, which depends on the style sheet.
        unwrapped = self.heightForWidth(_WIDE)
        more = self.text().count("\n") * self.fontMetrics().lineSpacing()
        return (unwrapped - more) / 2

    def minimumSizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """Ask for one line; the layout adds what the actual width needs."""
        return QSize(0, self.fontMetrics().height())


class _Symbol(QWidget):
    """The sign of a state, in the middle of the first line of the text beside it.

    The signs come from other fonts than the text, each with heights of its own: what is
    drawn is centred, not the letter.
    """

    def __init__(self, text: TextLabel) -> None:
        super().__init__()
        self._text = text
        self._state = State.NOTE
        self.setFixedWidth(_SYMBOL_WIDTH)

    def show_state(self, state: State) -> None:
        """Show the sign of a state."""
        self._state = state
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: ARG002, N802 (Qt's name)
        """Draw the sign."""
        font = QFont(self._text.font())
        font.setBold(True)
        painter = QPainter(self)
        painter.setFont(font)
        painter.setPen(QColor(self._state.color))
        drawn = QFontMetricsF(font).tightBoundingRect(self._state.symbol)
        middle = QPointF(self.width() / 2, self._text.first_line)
        painter.drawText(middle - drawn.center(), self._state.symbol)
        painter.end()


class Message(QFrame):
    """One sentence with its state; hidden while it is empty."""

    def __init__(
        self, text: str = "", state: State = State.NOTE, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._text = TextLabel()
        self._symbol = _Symbol(self._text)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        row.addWidget(self._symbol)
        row.addWidget(self._text, stretch=1)
        self.state = state
        self.show_text(text, state)

    @property
    def text(self) -> str:
        """The sentence."""
        return self._text.text()

    def show_text(self, text: str, state: State = State.NOTE) -> None:
        """Show a sentence; an empty one hides the message."""
        self.state = state
        self._text.setText(text)
        self._symbol.show_state(state)
        self.setVisible(bool(text))


def mark(field: QWidget, invalid: bool) -> None:
    """Draw a red border around a field, or remove it.

    A compound field passes the mark on to the inputs it consists of.
    """
    style = f"border: 1px solid {State.PROBLEM.color};" if invalid else ""
    for widget in _inputs(field):
        if widget.styleSheet() != style:
            widget.setStyleSheet(style)


def is_marked(field: QWidget) -> bool:
    """Whether a field has a red border."""
    return any(widget.styleSheet() for widget in _inputs(field))


def _inputs(field: QWidget) -> list[QWidget]:
    children = field.findChildren(QWidget)
    return [child for child in children if isinstance(child, QComboBox | QAbstractSpinBox)] or [
        field
    ]
