"""`TrustDialog`: asks before a file is opened that could run code."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from unetari.errors import UntrustedModelError
from unetari.widgets.messages import TextLabel

_QUESTION = (
    "Opening this file can run code. Go on only if you know who made it, and trust them. Until "
    "napari is closed, this file will not be asked about again unless it changes."
)
_WIDTH = 460


class TrustDialog(QDialog):
    """Shows what is known of a file, and asks whether it is trusted; `open` does not wait.

    Parameters
    ----------
    error : UntrustedModelError
        The file, and why it is not simply opened.
    parent : QWidget, optional
        The owner.
    """

    def __init__(self, error: UntrustedModelError, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Trust this file?")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(_WIDTH)
        facts = QFormLayout()
        for title, text in _facts(error).items():
            label = TextLabel(text)
            label.setObjectName(title)
            facts.addRow(title, label)
        self.trust, self.cancel = QPushButton("I trust this file"), QPushButton("Cancel")
        buttons = QDialogButtonBox()
        buttons.addButton(self.trust, QDialogButtonBox.ButtonRole.AcceptRole)
        buttons.addButton(self.cancel, QDialogButtonBox.ButtonRole.RejectRole)
        self.trust.setAutoDefault(False)
        self.cancel.setDefault(True)  # the Return key must not trust anything
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        # Its own least height is that of the narrowest dialog, with every text a column of words.
        column.setSizeConstraint(QLayout.SizeConstraint.SetNoConstraint)
        column.addLayout(facts)
        column.addWidget(TextLabel(_QUESTION))
        column.addStretch(1)
        column.addWidget(buttons)

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Take the height that the texts need."""
        super().showEvent(event)
        layout = self.layout()
        if layout is not None:
            height = layout.totalHeightForWidth(_WIDTH)
            self.setMinimumHeight(height)
            self.resize(_WIDTH, height)

    def text(self) -> str:
        """Return what is shown of the file."""
        return "\n".join(label.text() for label in self.findChildren(TextLabel))


def _facts(error: UntrustedModelError) -> dict[str, str]:
    return {
        "File": str(Path(error.path).absolute()),
        "Size": f"{error.size:,} bytes",
        "SHA-256": _in_groups(error.sha256),
        "Why": error.reason,
    }


def _in_groups(digest: str) -> str:
    """Put spaces into a hash: a line without them would not wrap."""
    return " ".join(digest[start : start + 16] for start in range(0, len(digest), 16))
