"""`ModelList`: models with a small picture, a name and a line on what they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import QModelIndex, QPersistentModelIndex, QRect, QSize, Qt
from qtpy.QtGui import QColor, QFont, QIcon, QPainter, QPalette, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QListWidget,
    QListWidgetItem,
    QSizePolicy,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from unetari.model.listing import ORIGINS, Listed
from unetari.widgets.messages import State

ROW_HEIGHT = 44
PICTURE = 36
_MARGIN = 4
_FEWEST, _MOST = 2, 4  # rows
_FAINT = 170  # of 255: the second line
_SMALLER = 0.9  # its font
_MODEL, _PICTURE = Qt.ItemDataRole.UserRole, Qt.ItemDataRole.UserRole + 1


class ModelList(QListWidget):
    """Rows of models, one of them chosen.

    Parameters
    ----------
    parent : QWidget, optional
        The owner.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setItemDelegate(_RowDelegate(self))
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setUniformItemSizes(True)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Models")

    def show_models(self, models: Sequence[Listed], pictures: Mapping[str, bytes]) -> None:
        """Show these models; the chosen one stays chosen where it is still there."""
        chosen = self.model_of(self.currentItem())
        self.clear()
        for model in models:
            self.addItem(_make_item(model, pictures.get(model.key, b"")))
        if chosen is not None:
            self.choose(chosen.key)
        self.fit()

    def choose(self, key: str) -> bool:
        """Choose a model; False if it is not there."""
        for row in range(self.count()):
            model = self.model_of(self.item(row))
            if model is not None and model.key == key:
                self.setCurrentRow(row)
                return True
        return False

    def chosen(self) -> Listed | None:
        """Return the chosen model."""
        return self.model_of(self.currentItem())

    def model_of(self, item: QListWidgetItem | None) -> Listed | None:
        """Return the model of a row."""
        model = None if item is None else item.data(_MODEL)
        return model if isinstance(model, Listed) else None

    def has_own(self) -> bool:
        """Whether there are kept or recent models."""
        models = (self.model_of(self.item(row)) for row in range(self.count()))
        return any(model is not None and model.origin != "bundled" for model in models)

    def search(self, words: str) -> int:
        """Hide what does not match; return how many rows are left."""
        left = 0
        for row in range(self.count()):
            item = self.item(row)
            model = self.model_of(item)
            is_found = model is not None and model.matches(words)
            if item is not None:
                item.setHidden(not is_found)
            left += is_found
        self.fit()
        return left

    def first_found(self) -> Listed | None:
        """Return the first model that is not hidden."""
        rows = (self.item(row) for row in range(self.count()))
        return next((self.model_of(row) for row in rows if row and not row.isHidden()), None)

    def fit(self) -> None:
        """Take the height of a few rows."""
        shown = sum(not self.isRowHidden(row) for row in range(self.count()))
        rows = min(max(shown, _FEWEST), _MOST)
        self.setFixedHeight(rows * ROW_HEIGHT + 2 * self.frameWidth() + 2)

    def sizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """Ask for no width of its own."""
        return QSize(0, self.minimumHeight())


def _make_item(model: Listed, picture: bytes) -> QListWidgetItem:
    item = QListWidgetItem(model.name)
    item.setData(_MODEL, model)
    item.setData(_PICTURE, picture)
    where = model.source if model.origin == "recent" else ""
    facts = (model.name, second_line(model), ORIGINS[model.origin], where)
    item.setToolTip("\n".join(fact for fact in facts if fact))
    item.setData(Qt.ItemDataRole.AccessibleTextRole, ", ".join(facts[:3]))
    return item


def second_line(model: Listed) -> str:
    """Return what stands below the name."""
    return "File not found" if model.is_missing else model.summary


class _RowDelegate(QStyledItemDelegate):
    """Paints a row: the picture, beside it name and origin, below them what the model does."""

    def sizeHint(  # noqa: N802 (Qt's name)
        self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> QSize:
        del option, index  # all rows are alike
        return QSize(0, ROW_HEIGHT)

    def paint(
        self,
        painter: QPainter | None,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> None:
        """Paint a row in the colours of the theme."""
        model = index.data(_MODEL)
        if painter is None or not isinstance(model, Listed):
            return
        row = QStyleOptionViewItem(option)
        self.initStyleOption(row, index)  # type: ignore[arg-type]
        row.text, row.icon = "", QIcon()
        style = row.widget.style() if row.widget is not None else QApplication.style()
        if style is not None:
            style.drawControl(QStyle.ControlElement.CE_ItemViewItem, row, painter, row.widget)
        area = row.rect.adjusted(_MARGIN, _MARGIN, -_MARGIN, -_MARGIN)
        painter.save()
        ink = row.palette.color(QPalette.ColorRole.Text)
        square = QRect(area.left(), area.top(), PICTURE, PICTURE)
        _paint_picture(painter, square, model, index.data(_PICTURE), ink)
        _paint_words(painter, area.adjusted(PICTURE + 2 * _MARGIN, 0, 0, 0), model, ink)
        painter.restore()


def _paint_words(painter: QPainter, area: QRect, model: Listed, ink: QColor) -> None:
    upper, lower = QRect(area), QRect(area)
    upper.setBottom(area.center().y())
    lower.setTop(area.center().y() + 1)
    faint = QColor(ink)
    faint.setAlpha(_FAINT)
    font = QFont(painter.font())
    small = QFont(font)
    if font.pointSizeF() > 0:  # it is not where the size is in pixels
        small.setPointSizeF(max(font.pointSizeF() * _SMALLER, 1))
    painter.setFont(small)
    painter.setPen(faint)
    badge = ORIGINS[model.origin]
    width = painter.fontMetrics().horizontalAdvance(badge) + 2 * _MARGIN
    painter.drawText(upper, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, badge)
    if model.is_missing:
        lower = _paint_problem(painter, lower, ink)
    _paint_line(painter, lower, second_line(model))
    font.setBold(True)
    painter.setFont(font)
    painter.setPen(ink)
    # Names often differ at their end; all of it is in the tooltip.
    _paint_line(painter, upper.adjusted(0, 0, -width, 0), model.name, Qt.TextElideMode.ElideMiddle)


def _paint_problem(painter: QPainter, area: QRect, ink: QColor) -> QRect:
    """Paint the sign of a problem, and return where the text goes, which is as easy to read."""
    symbol = State.PROBLEM.symbol
    painter.setPen(QColor(State.PROBLEM.color))
    painter.drawText(area, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, symbol)
    painter.setPen(ink)
    return area.adjusted(painter.fontMetrics().horizontalAdvance(symbol) + _MARGIN, 0, 0, 0)


def _paint_line(
    painter: QPainter,
    area: QRect,
    text: str,
    mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight,
) -> None:
    shown = painter.fontMetrics().elidedText(text, mode, area.width())
    painter.drawText(area, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, shown)


def _paint_picture(
    painter: QPainter, square: QRect, model: Listed, content: object, ink: QColor
) -> None:
    picture = QPixmap()
    if isinstance(content, bytes) and content and picture.loadFromData(content):
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawPixmap(square, picture, _middle(picture.size()))
        return
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    paper = QColor(ink)
    paper.setAlpha(30)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(paper)
    painter.drawRoundedRect(square, 4, 4)
    faint = QColor(ink)
    faint.setAlpha(_FAINT)
    painter.setPen(faint)
    painter.drawText(square, Qt.AlignmentFlag.AlignCenter, f"{model.spec.config.dim}D")


def _middle(size: QSize) -> QRect:
    """Return the largest square in the middle of a picture."""
    side = min(size.width(), size.height())
    return QRect((size.width() - side) // 2, (size.height() - side) // 2, side, side)
