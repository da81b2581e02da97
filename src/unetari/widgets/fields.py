"""magicgui fields as the panel needs them: explicit limits, quiet while scrolled over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

from magicgui.application import use_app
from magicgui.widgets import ComboBox, Container, Label, SpinBox
from magicgui.widgets.bases import RangedWidget, Widget
from magicgui.widgets.protocols import RangedWidgetProtocol
from qtpy.QtCore import QEvent, QLocale, QObject, Qt
from qtpy.QtGui import QIntValidator
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QLabel, QSizePolicy, QWidget

_MIN_WIDTH = 60
_POPUP_MARGIN = 24  # the scroll bar of a long list
_LABEL = "magicgui.QLabel"  # the name that magicgui gives to each of its labels


class WheelGuard(QObject):
    """Lets the wheel scroll the panel, not the value, unless the field was clicked."""

    def eventFilter(self, field: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Keep the wheel from a field without focus; its parents still get it."""
        if event is None or event.type() != QEvent.Type.Wheel:
            return False
        if not isinstance(field, QWidget) or field.hasFocus():
            return False
        event.ignore()
        return True


def choice(
    choices: Mapping[Any, str], *, name: str = "", label: str = "", tooltip: str = ""
) -> ComboBox:
    """Return a choice among values, each shown as a text; None cannot be one of them."""
    field = ComboBox(choices=_pairs(choices), name=name, label=label, tooltip=tooltip)
    # A long text must not widen the whole panel.
    field.native.setMinimumContentsLength(6)
    field.native.setSizeAdjustPolicy(
        QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
    )
    _widen_popup(field)
    _tame(field)
    return field


def offer(field: ComboBox, choices: Mapping[Any, str]) -> None:
    """Replace the choices and keep the value where it is still one; emits nothing."""
    value = field.value
    with field.changed.blocked():
        # magicgui would keep the old order, and the chosen text instead of the value.
        field.native.clear()
        # A callable, because a change of parent brings other choices back.
        field.choices = lambda _: _pairs(choices)
        if value in choices:
            field.value = value
    _widen_popup(field)


def _widen_popup(field: ComboBox) -> None:
    """Show the texts in full where one chooses among them; the field itself may cut them."""
    view = field.native.view()
    view.setMinimumWidth(view.sizeHintForColumn(0) + _POPUP_MARGIN)


class RealField(RangedWidget[float]):
    """A real number; made by `real`."""


class _RealBox(QDoubleSpinBox):
    """Shows 99.8 where Qt shows 99.8000, and takes as many decimals."""

    def textFromValue(self, value: float) -> str:  # noqa: N802 (Qt's name)
        """Return the number with the decimals that it has."""
        exponent = Decimal(repr(value)).normalize().as_tuple().exponent
        locale = self.locale()
        locale.setNumberOptions(QLocale.NumberOption.OmitGroupSeparator)
        return str(locale.toString(value, "f", max(0, -int(exponent))))


@cache
def _real_backend() -> type[RangedWidgetProtocol]:
    """Return magicgui's field of a real number around our spin box: it takes no other itself."""
    original: Any = use_app("qt").get_obj("FloatSpinBox")

    def make(self: Any, **options: Any) -> None:
        super(original, self).__init__(_RealBox, **options)

    return type("RealBackend", (original,), {"__init__": make})


def integer(
    low: int, high: int, value: int, *, name: str = "", label: str = "", tooltip: str = ""
) -> SpinBox:
    """Return an integer within limits."""
    field = SpinBox(value=value, min=low, max=high, step=1, name=name, label=label, tooltip=tooltip)
    # The one of superqt lets a lone minus sign through, and then fails.
    field.native.lineEdit().setValidator(QIntValidator(0, 2**31 - 1, field.native))
    _tame_number(field)
    return field


def real(
    low: float, high: float, value: float, *, step: float, decimals: int, label: str = ""
) -> RealField:
    """Return a real number within limits, of at most so many decimals, shown with those it has."""
    field = RealField(widget_type=_real_backend(), min=low, max=high, step=step, label=label)
    field.native.setDecimals(decimals)
    field.value = value  # only now, or it would be rounded to two decimals
    _tame_number(field)
    return field


def _tame_number(field: SpinBox | RealField) -> None:
    # Typing 128 must not build networks of 1 and 12 filters on the way.
    field.native.setKeyboardTracking(False)
    field.native.setMinimumWidth(_MIN_WIDTH)
    _tame(field)


def _tame(field: Widget) -> None:
    native = field.native
    native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    native.installEventFilter(WheelGuard(native))


def row(widgets: Sequence[Widget], *, name: str = "", label: str = "") -> Container[Widget]:
    """Return widgets side by side, as one row of a form."""
    line = Container(widgets=widgets, layout="horizontal", labels=False, name=name, label=label)
    line.margins = (0, 0, 0, 0)
    return line


def plain(text: str) -> Label:
    """Return a text within a row, which is no label of a form."""
    field = Label(value=text)
    field.native.setObjectName("")
    return field


def form(widgets: Sequence[Widget], *, labels: bool = True) -> Container[Widget]:
    """Return widgets below each other, each with its label."""
    column = Container(widgets=widgets, labels=labels)
    tighten(column)
    return column


def tighten(column: Container[Widget], spacing: int = 4) -> None:
    """Take away the margins of a form, which the panel has."""
    column.margins = (0, 0, 0, 0)
    column.native.layout().setSpacing(spacing)


def put_below(field: Widget, message: QWidget) -> None:
    """Put something without a label below the row of a field, in the form that has it."""
    line = field.native.parentWidget()
    layout = line.parentWidget().layout()
    layout.insertWidget(layout.indexOf(line) + 1, message)


def align_labels(part: QWidget) -> None:
    """Give the labels of all forms in a part of the panel one width; call it once it is shown."""
    # magicgui measures a font that is not the one of napari's theme.
    labels = part.findChildren(QLabel, _LABEL)
    width = max((label.sizeHint().width() for label in labels), default=0)
    for label in labels:
        label.setMinimumWidth(width)


def texts(values: Iterable[Any], names: Mapping[Any, str]) -> dict[Any, str]:
    """Return the text of each value, the value itself where `names` has none."""
    return {value: names.get(value, str(value)) for value in values}


def _pairs(choices: Mapping[Any, str]) -> list[tuple[str, Any]]:
    return [(text, value) for value, text in choices.items()]
