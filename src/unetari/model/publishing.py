"""What the card of a model must say before others can use it, and how to ask for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from unetari.core.spec import ModelSpec

LICENSES = {
    "CC-BY-4.0": "CC-BY-4.0: free to use, with your name",
    "CC0-1.0": "CC0-1.0: free to use, no conditions",
    "CC-BY-SA-4.0": "CC-BY-SA-4.0: with your name, under the same licence",
    "CC-BY-NC-4.0": "CC-BY-NC-4.0: with your name, not for business",
    "MIT": "MIT",
    "BSD-3-Clause": "BSD-3-Clause",
    "Apache-2.0": "Apache-2.0",
    "GPL-3.0-or-later": "GPL-3.0-or-later",
}
"""Usual ones, by their SPDX identifiers."""

MOST_LETTERS = 1000
"""Of a description: what is longer belongs into the documentation."""
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_NAME_LENGTH = range(5, 65)  # that of packages, as is what else their names hold
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_+\- ()]")


@dataclass(frozen=True)
class CardField:
    """A field of `ModelSpec` that a package shows."""

    name: str
    """In `ModelSpec`."""
    title: str
    """For people."""
    hint: str
    """What belongs there, in a few words."""
    python: str
    """Its value as it is written in Python, for example."""
    option: str
    """How it is given on the command line."""
    is_required: bool = True
    has_several: bool = False
    """Whether its value is a tuple of texts."""


FIELDS = (
    CardField(
        "name",
        "Name",
        "a few words, such as: nuclei in 2D",
        '"nuclei in 2D"',
        '--name "nuclei in 2D"',
    ),
    CardField(
        "description",
        "Description",
        "what it segments, in which images",
        '"What it segments, in which images"',
        "--description TEXT",
    ),
    CardField(
        "authors",
        "Authors",
        "who made it",
        '("A. Author", "B. Author")',
        '--author "A. Author" (repeatable)',
        has_several=True,
    ),
    CardField(
        "license",
        "Licence",
        "a SPDX identifier, such as CC-BY-4.0",
        '"CC-BY-4.0"',
        "--license CC-BY-4.0 (a SPDX identifier)",
    ),
    CardField(
        "tags",
        "Tags",
        "words to find it by",
        '("nuclei",)',
        "--tag WORD (repeatable)",
        is_required=False,
        has_several=True,
    ),
    CardField(
        "citations",
        "Cite",
        "with a DOI or an address",
        '("Our paper, https://doi.org/...",)',
        "--cite TEXT (repeatable)",
        is_required=False,
        has_several=True,
    ),
)
"""In the order in which they are asked for."""


def find_problem(field: CardField, value: Any) -> str:
    """Say in a sentence why a value of a field will not do; empty if it will.

    Examples
    --------
    >>> find_problem(FIELDS[3], "do what you like")
    'do what you like is no SPDX identifier, such as CC-BY-4.0.'
    """
    if not value or not any(text.strip() for text in (value if field.has_several else (value,))):
        return f"Needed: {field.hint}." if field.is_required else ""
    if field.name == "name":
        return _find_problem_of_name(value)
    if field.name == "description" and len(value) > MOST_LETTERS:
        return f"{len(value)} letters, and {MOST_LETTERS} fit. Move some to the documentation."
    if field.name == "license" and not _SPDX.fullmatch(value):
        return f"{value} is no SPDX identifier, such as CC-BY-4.0."
    return ""


def _find_problem_of_name(name: str) -> str:
    unknown = "".join(dict.fromkeys(_NOT_IN_NAME.findall(name)))
    if unknown:
        return f"Only letters from A to Z, digits, spaces and _ + - ( ) fit, not {unknown[:20]!r}."
    if len(name) not in _NAME_LENGTH:
        least, most = _NAME_LENGTH[0], _NAME_LENGTH[-1]
        return f"{len(name)} letters, and {least} to {most} fit."
    return ""


def find_problems(spec: ModelSpec) -> dict[CardField, str]:
    """Return what the card lacks, or what is wrong with it: a sentence per field."""
    found = {field: find_problem(field, getattr(spec, field.name)) for field in FIELDS}
    return {field: problem for field, problem in found.items() if problem}
