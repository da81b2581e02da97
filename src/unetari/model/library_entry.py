"""`Entry`: what the library knows of a model, and the rules for its names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from unetari.core.config import FrozenModel
from unetari.core.files import hash_file
from unetari.core.normalization import Normalization
from unetari.core.spec import ModelSpec, Text
from unetari.errors import LibraryError, ModelFileError, printable
from unetari.model.bundled import bundled_models
from unetari.model.kinds import all_suffixes

MOST_BYTES = 2**22
"""Of an entry; a training record is the largest part."""

_LONGEST_NAME, _LONGEST_TITLE = 80, 400
_NAME = re.compile(r"[^\W_][\w .+()-]*")
_NOT_IN_NAMES = re.compile(r"[^\w .+()-]+")


class Entry(FrozenModel):
    """What is known of a kept or recent model, without opening it."""

    version: Literal[1] = 1
    """Version of this description."""
    name: Annotated[Text, Field(max_length=_LONGEST_TITLE)]
    """Name of a kept model; of a recent one, what it calls itself or the name of its file."""
    kind: str = ""
    """Key of the file's kind, see `unetari.model.kinds`."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Hash of the file; of the files, if the model is several."""
    size: Annotated[int, Field(ge=0)] = 0
    """Bytes."""
    suffix: Annotated[str, Field(pattern=r"^(\.[A-Za-z0-9]{1,16})?$")] = ""
    """Ending of the file."""
    path: str
    """The user's own file: where a kept model was copied from, where a recent one is."""
    added: AwareDatetime
    """When it was kept, or opened last."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What the user said of the file when it was opened, for `load_model`."""
    intensities: Normalization | None = None
    """The normalization that the user gave; None for what the file says."""
    spec: ModelSpec
    """Options and card."""


def read_entry(file: Path) -> Entry:
    """Read an entry.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it holds no entry.
    """
    with file.open("rb") as content:
        text = content.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    return Entry.model_validate_json(text)


def could_be_name(text: str) -> bool:
    """Whether a text has the form of a name, so that a model may be looked for."""
    return bool(_NAME.fullmatch(text)) and not text.lower().endswith(all_suffixes())


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a kept model.

    Raises
    ------
    LibraryError
        If it is a bundled name, could be taken for a file, or has letters that names have not.
    """
    if name.casefold() in {bundled.casefold() for bundled in bundled_models()}:
        raise LibraryError(f"{name!r} comes with unetari. Choose another name.")
    if name.lower().endswith(all_suffixes()):
        raise LibraryError(f"{name!r} could be taken for a file. Leave the ending out.")
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name) or name != name.strip():
        raise LibraryError(
            f"{name[:_LONGEST_NAME]!r} cannot be a name. Begin with a letter or number, and use "
            f"letters, numbers, spaces and . + - _ ( ), at most {_LONGEST_NAME} of them."
        )


def propose_name(words: str, taken: Iterable[str]) -> str:
    """Return a name that is free, close to what a model calls itself.

    Examples
    --------
    >>> propose_name("nuclei/best.pt", ["nuclei best"])
    'nuclei best 2'
    """
    text = " ".join(_NOT_IN_NAMES.sub(" ", words).split()).strip(" .+-_()")
    suffix = next((end for end in all_suffixes() if text.lower().endswith(end)), "")
    text = text[: len(text) - len(suffix)][: _LONGEST_NAME - 5].strip(" .") or "model"
    names = {name.casefold() for name in (*taken, *bundled_models())}
    name, number = text, 1
    while name.casefold() in names:
        number += 1
        name = f"{text} {number}"
    return name


def absolute(path: str | os.PathLike[str]) -> str:
    """Return a path that means the same from every folder."""
    return str(Path(path).expanduser().absolute())


def changed_since(before: Entry | None, sha256: str) -> str:
    """Say that a file is not what it was when it was opened before; empty if it is."""
    if before is None or before.sha256 == sha256:
        return ""
    day = before.added.astimezone().date().isoformat()
    return (
        f"The file has changed since it was opened on {day}: its SHA-256 was "
        f"{before.sha256[:12]}..., and is {sha256[:12]}... now."
    )


def find_difference(old: Entry, new: Entry) -> str:
    """Say what the user said otherwise of the same file; empty if nothing."""
    before, now = _said(old), _said(new)
    return "; ".join(
        f"{name} was {before.get(name, 'not given')}, and is {now.get(name, 'not given')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    )


def _said(entry: Entry) -> dict[str, Any]:
    """Return what the user said, as JSON has it: an entry that was written has no other types."""
    said: dict[str, Any] = entry.model_dump(mode="json", include={"options"})["options"]
    if entry.intensities is not None:
        said["intensities"] = entry.intensities.model_dump(mode="json", exclude_defaults=True)
    return {name: value for name, value in said.items() if value is not None}


def describe_file(
    path: str | os.PathLike[str],
    *,
    name: str,
    kind: str,
    sha256: str,
    spec: ModelSpec,
    options: Mapping[str, Any],
    intensities: Normalization | None = None,
) -> Entry:
    """Return an entry for a file that was just loaded.

    Raises
    ------
    ModelFileError
        If the file is gone.
    """
    file = Path(absolute(path))
    try:
        status = file.stat()
    except OSError as error:
        raise ModelFileError(f"{file}: It cannot be read any more ({reason_of(error)}).") from error
    suffix = file.suffix.lower()
    asked = options.get("normalization")
    given = asked if isinstance(asked, Normalization) else intensities
    return Entry(
        name=printable(name or file.stem)[:_LONGEST_TITLE],
        kind=kind,
        sha256=sha256,
        size=status.st_size if file.is_file() else _folder_size(file),
        suffix=suffix if suffix in all_suffixes() else "",
        path=str(file),
        added=now(),
        options={name: value for name, value in options.items() if value is not given},
        intensities=given,
        spec=spec,
    )


def identify(path: Path) -> str:
    """Return the SHA-256 of a model file.

    Raises
    ------
    ModelFileError
        If it cannot be read.
    """
    try:
        return hash_file(path)
    except OSError as error:
        raise ModelFileError(f"{path}: It cannot be read ({reason_of(error)}).") from error


def _folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def key_of(path: str | os.PathLike[str]) -> str:
    """Return what the entry of a recent file is called."""
    return hashlib.sha256(absolute(path).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def age(entry: Entry) -> datetime:
    """Return when a model was kept or opened, to sort by."""
    return entry.added


def now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(UTC)


def reason_of(error: Exception) -> str:
    """Return what the system says, in its shortest form."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
