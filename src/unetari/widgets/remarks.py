"""What the panel says of a model that was opened: in short, and in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unetari.errors import printable
from unetari.model.notes import Assumed, Detail
from unetari.widgets.messages import State
from unetari.widgets.model_file import ASSUMPTIONS, NAMES, OPTION_TITLES

if TYPE_CHECKING:
    from unetari.model.keep import Opened

_MEASURED = "What was measured of it is in the model card."


def sum_up(opened: Opened, where: str = ASSUMPTIONS) -> tuple[str, State]:
    """Say what a user should know of an opened model before predicting.

    Details are left to the model card. `where` is the place to correct assumptions.
    """
    notes = opened.model.notes
    urgent = [note for note in notes if not isinstance(note, Assumed | Detail)]
    sentences = [*opened.remarks, *urgent, *_say_assumed(list_assumed(opened), where)]
    if sentences:
        return " ".join(sentences), State.NOTE
    name = printable(opened.model.spec.name)
    ready = f"Ready: {name}." if name else "Ready."
    return (f"{ready} {_MEASURED}" if notes else ready), State.GOOD


def list_assumed(opened: Opened) -> list[Assumed]:
    """Return the notes on what was assumed."""
    return [note for note in opened.model.notes if isinstance(note, Assumed)]


def say_why(error: Exception, path: str) -> str:
    """Return why a file cannot be used; its folder stands in the field above."""
    text = str(error) or type(error).__name__
    return text.replace(path, Path(path).name) if path else text


def _say_assumed(notes: Sequence[Assumed], where: str) -> list[str]:
    if not notes:
        return []
    facts = "; ".join(map(_in_short, notes))
    return [f"Assumed: {facts}. If the labels look wrong, change this under {where}."]


def _in_short(note: Assumed) -> str:
    value, *_ = note.choices
    title = OPTION_TITLES.get(note.option, note.option)
    return f"{title.lower()} {NAMES.get(value, value)}"
