"""Fields for the card of a model, one per field of `ModelSpec`."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import ComboBox, LineEdit, TextEdit
from magicgui.widgets.bases import ValueWidget

from unetari.core.spec import ModelSpec
from unetari.model.publishing import LICENSES, CardField, find_problem
from unetari.widgets.fields import choice

_LINES = {"description": 4, "authors": 2, "citations": 3}
_SEVERAL = {"authors": "one per line", "citations": "one per line", "tags": "separated by commas"}


def make_card_field(field: CardField, spec: ModelSpec) -> ValueWidget[Any]:
    """Return a field that holds what the card of a model says."""
    value = getattr(spec, field.name)
    if field.name == "license":
        return _license_field(field, value)
    hint = field.hint if field.name not in _SEVERAL else f"{field.hint}, {_SEVERAL[field.name]}"
    if field.name in _LINES:
        made: Any = text_field(_LINES[field.name], field.title, hint)
    else:
        made = LineEdit(label=field.title, tooltip=hint)
        made.native.setPlaceholderText(hint)
    separator = ", " if field.name == "tags" else "\n"
    made.value = separator.join(value) if field.has_several else value
    filled: ValueWidget[Any] = made
    return filled


def _license_field(field: CardField, value: str) -> ComboBox:
    choices = {"": "choose one", **LICENSES}
    if value and value not in choices and not find_problem(field, value):
        choices[value] = value
    made = choice(choices, label=field.title, tooltip="What others may do with the model")
    made.value = value if value in choices else ""
    return made


def text_field(lines: int, label: str, hint: str) -> TextEdit:
    """Return a text of several lines; the tabulator leads to the next field."""
    made = TextEdit(label=label, tooltip=hint)
    made.native.setPlaceholderText(hint)
    made.native.setTabChangesFocus(True)
    made.native.setAcceptRichText(False)
    made.native.setFixedHeight(made.native.fontMetrics().lineSpacing() * lines + 12)
    return made


def card_value(field: CardField, widget: ValueWidget[Any]) -> Any:
    """Return the value of a field as `ModelSpec` has it."""
    text: str = (widget.value or "").strip()
    if not field.has_several:
        return text
    parts = text.replace(",", "\n") if field.name == "tags" else text
    return tuple(part.strip() for part in parts.splitlines() if part.strip())
