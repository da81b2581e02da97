"""All models that can be chosen without looking for their file, listed without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unetari.core.card import CardLine, card_lines, find_text, summarize
from unetari.core.spec import ModelSpec
from unetari.errors import ModelFileError
from unetari.model.about import kind_name
from unetari.model.bundled import bundled_file, bundled_models, bundled_picture, bundled_spec
from unetari.model.kinds import NATIVE
from unetari.model.library import Library
from unetari.model.library_entry import Entry
from unetari.model.summary import parameters_of

Origin = Literal["bundled", "kept", "recent"]
ORIGINS: dict[Origin, str] = {
    "bundled": "comes with unetari",
    "kept": "kept",
    "recent": "recent",
}
"""Text of each origin."""


@dataclass(frozen=True)
class Listed:
    """A model that can be chosen."""

    origin: Origin
    name: str
    """What it is called in the list; a name for `load_model` unless it is a recent file."""
    spec: ModelSpec
    """Options and card."""
    entry: Entry | None = None
    """What the library knows; None for bundled models."""
    is_missing: bool = False
    """Whether its file is not where it was."""

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.origin}:{self.source}"

    @property
    def source(self) -> str:
        """What `load_model` takes: the name, or the path of a recent file."""
        return self.name if self.entry is None or self.origin == "kept" else self.entry.path

    @property
    def summary(self) -> str:
        """What it takes and finds, in a few words."""
        return summarize(self.spec)

    @property
    def kind(self) -> str:
        """Name of the file's kind."""
        return kind_name(NATIVE.key if self.entry is None else self.entry.kind)

    def matches(self, words: str) -> bool:
        """Whether every word occurs in its name, description, tags, classes or authors."""
        text = f"{self.name.casefold()}\n{find_text(self.spec)}"
        return all(word in text for word in words.casefold().split())

    def card(self) -> tuple[CardLine, ...]:
        """Return its card, as far as it is known before the model is loaded."""
        return card_lines(
            self.spec,
            parameters=parameters_of(self.spec.config),
            source=self.source if self.entry is None else self.entry.path,
            kind=self.kind,
            sha256="" if self.entry is None else self.entry.sha256,
        )

    def picture(self, library: Library) -> bytes:
        """Return a small picture of it (PNG); empty if there is none."""
        if self.entry is None:
            return bundled_picture(self.name)
        return library.picture(self.entry.sha256)


@dataclass(frozen=True)
class Listing:
    """What there is to choose from."""

    models: tuple[Listed, ...]
    """Bundled ones, kept ones by name, recent files from the newest to the oldest."""
    problems: tuple[str, ...] = ()
    """What the library cannot read."""


def list_models(library: Library) -> Listing:
    """List all models; a recent file that is kept is not listed twice.

    Looks for recent files on the disk, so call it outside the GUI thread.
    """
    bundled, contents = list_bundled(), library.read()
    have = {entry.sha256 for entry in contents.kept}
    kept = [Listed("kept", entry.name, entry.spec, entry) for entry in contents.kept]
    recent = [
        Listed("recent", entry.name, entry.spec, entry, is_missing=_is_missing(entry))
        for entry in contents.recent
        if entry.sha256 not in have
    ]
    problems = (*bundled.problems, *contents.problems)
    return Listing((*bundled.models, *kept, *recent), problems)


def _is_missing(entry: Entry) -> bool:
    try:
        return not Path(entry.path).exists()
    except OSError:
        return True  # a folder that must not be read, or a drive that is gone


def list_bundled() -> Listing:
    """List the models that come with unetari; reads the start of their files only."""
    models, problems = [], []
    for name in bundled_models():
        try:
            models.append(Listed("bundled", name, bundled_spec(name)))
        except ModelFileError as error:
            problems.append(str(error))
    return Listing(tuple(models), tuple(problems))


def size_of(model: Listed) -> int:
    """Return the bytes of a model's file."""
    if model.entry is not None:
        return model.entry.size
    file = bundled_file(model.name)
    return file.stat().st_size if isinstance(file, Path) else 0
