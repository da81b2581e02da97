"""The file formats that models are read from, one module each."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from unetari.errors import ModelFileError
from unetari.model.formats import native, state_dict
from unetari.model.formats.base import Loaded
from unetari.model.weights import LoadOptions


class Format(Protocol):
    """What each module of this package offers."""

    NAME: str
    """Name of the format, for people."""
    SUFFIXES: tuple[str, ...]
    """Endings of its files."""

    def sniff(self, path: Path) -> bool:
        """Whether the file looks like this format; reads only its first bytes."""

    def load(self, path: Path, options: LoadOptions) -> Loaded:
        """Load the file, or raise ModelFileError."""


FORMATS: tuple[Format, ...] = (native, state_dict)
"""All formats, asked in this order."""


def find_format(path: Path) -> Format:
    """Return the format of the file `path`: by its content, or else by its suffix."""
    for candidate in FORMATS:
        if candidate.sniff(path):
            return candidate
    for candidate in FORMATS:
        if path.suffix.lower() in candidate.SUFFIXES:
            return candidate
    with path.open("rb") as file:
        start = file.read(16)
    known = ", ".join(f"{known.NAME} ({', '.join(known.SUFFIXES)})" for known in FORMATS)
    raise ModelFileError(
        f"It starts with {start!r}, which no known format does: {known}. "
        "Save the model as one of these."
    )
