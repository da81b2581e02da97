"""Notes on a model that know what they are about, so that a panel can sum them up."""

from __future__ import annotations

from typing import Any


class Assumed(str):
    """A sentence on an option that a file does not tell, and that the user may know better.

    Parameters
    ----------
    sentence : str
        The note.
    option : str
        The option of `load_model`; "intensities" for a `Normalization`.
    *choices
        What it may be, as far as that is known; what is assumed comes first.

    Examples
    --------
    >>> note = Assumed("Activation 'relu' is assumed.", "activation", "relu", "elu")
    >>> note, note.option, note.choices
    ("Activation 'relu' is assumed.", 'activation', ('relu', 'elu'))
    """

    option: str
    choices: tuple[Any, ...]

    def __new__(cls, sentence: str, option: str, *choices: Any) -> Assumed:
        """Make a sentence that knows more."""
        note = super().__new__(cls, sentence)
        note.option, note.choices = option, choices
        return note


class Detail(str):
    """A sentence that is good to know and leaves nothing to decide."""

    __slots__ = ()
