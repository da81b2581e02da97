"""What is known of a loaded model, or of one that is only described: the card's lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unetari.core.card import CardLine, card_lines
from unetari.model.kinds import KINDS
from unetari.model.summary import parameters_of

if TYPE_CHECKING:  # a card needs no torch
    from unetari.model.checkpoint import Model


def describe(model: Model, source: str = "") -> tuple[CardLine, ...]:
    """Return the card of a loaded model.

    Parameters
    ----------
    model : Model
        The model.
    source : str
        Where it comes from, instead of the name it was loaded by.
    """
    return card_lines(
        model.spec,
        parameters=parameters_of(model.spec.config),
        source=source or model.source,
        kind=kind_name(model.kind),
        sha256=model.sha256,
        notes=model.notes,
    )


def kind_name(key: str) -> str:
    """Return the name, for people, of a kind of files; empty if there is none.

    Examples
    --------
    >>> kind_name("pt2")
    'PyTorch export'
    """
    return next((kind.name for kind in KINDS if kind.key == key), "")
