"""`CardView`: what a model is, in short and in full."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from qtpy.QtCore import QSize, QSizeF, Qt
from qtpy.QtGui import QTextDocument, QTextOption, QWheelEvent
from qtpy.QtWidgets import QFrame, QSizePolicy, QTextEdit, QToolButton, QVBoxLayout, QWidget

from unetari.core.card import CardLine, introduce
from unetari.core.spec import ModelSpec
from unetari.widgets.messages import TextLabel

_MARGIN = 4  # as labels have it


class CardText(QTextEdit):
    """Lines with titles, as tall as they need, which can be selected and copied at once.

    Unlike a label it breaks hashes and paths, which have no spaces.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setReadOnly(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setTabChangesFocus(True)
        self.setStyleSheet("QTextEdit { background: transparent; border: none; padding: 0px; }")
        document = QTextDocument(self)
        document.setDocumentMargin(_MARGIN)
        self.setDocument(document)
        layout = document.documentLayout()
        if layout is not None:
            layout.documentSizeChanged.connect(self._follow)

    def show_lines(self, lines: Sequence[CardLine]) -> None:
        """Show these lines; their texts are taken literally."""
        paragraphs = (
            f'<p style="margin-top: 0; margin-bottom: 5px"><b>{_title(line)}</b> '
            f"{html.escape(line.text).replace(chr(10), '<br>')}</p>"
            for line in lines
        )
        self.setHtml("".join(paragraphs))

    def text(self) -> str:
        """Return what is shown."""
        return self.toPlainText()

    def _follow(self, size: QSizeF) -> None:
        self.setFixedHeight(math.ceil(size.height()) + 1)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """Ask for no width of its own."""
        return QSize(0, self.minimumHeight())

    def wheelEvent(self, event: QWheelEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Let the wheel scroll the panel: all of the text is shown."""
        if event is not None:
            event.ignore()


class CardView(QWidget):
    """Shows what a model segments, and the rest of its card unfolded; hidden without a model.

    Parameters
    ----------
    parent : QWidget, optional
        The owner.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.summary = TextLabel()
        self.about = QToolButton()
        self.details = CardText()
        self.about.setText("Model card")
        self.about.setToolTip("Network, sizes, training, licence, file")
        self.about.setCheckable(True)
        self.about.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.about.toggled.connect(self._show_details)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for part in (self.summary, self.about, self.details):
            column.addWidget(part)
        self._show_details(False)
        self.show_card(None)

    def show_card(self, spec: ModelSpec | None, lines: Sequence[CardLine] = ()) -> None:
        """Show a model's card; None hides it."""
        self.summary.setText("" if spec is None else introduce(spec))
        self.details.show_lines(lines)
        self.setVisible(spec is not None)

    def _show_details(self, shown: bool) -> None:
        self.about.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self.details.setVisible(shown)


def _title(line: CardLine) -> str:
    return html.escape(line.title[:1].upper() + line.title[1:])
