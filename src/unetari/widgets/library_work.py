"""What the library page does outside the GUI thread; without Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unetari.model.library import Library
from unetari.model.library_entry import Entry, identify
from unetari.model.listing import Listed, Listing, list_bundled, list_models

if TYPE_CHECKING:
    from unetari.model.keep import Opened


@dataclass(frozen=True)
class Shelf:
    """All there is to show."""

    listing: Listing
    pictures: dict[str, bytes]
    """PNG by key of the model; empty where there is none."""


@dataclass(frozen=True)
class Done:
    """What became of a change of the library."""

    text: str
    """A sentence."""
    key: str = ""
    """The model to choose now; empty for the one that is chosen."""


@dataclass(frozen=True)
class Proposal:
    """A model that is to be kept."""

    opened: Opened
    name: str
    """A free name for it."""


def read_bundled(library: Library) -> Shelf:
    """Read the models that come with unetari, which takes a moment only."""
    return _with_pictures(list_bundled(), library)


def read_shelf(library: Library) -> Shelf:
    """Read all models and their pictures."""
    return _with_pictures(list_models(library), library)


def _with_pictures(listing: Listing, library: Library) -> Shelf:
    return Shelf(listing, {model.key: model.picture(library) for model in listing.models})


def propose(opened: Opened, library: Library) -> Proposal:
    """Find a free name for an opened file; reads the whole library."""
    return Proposal(opened, "" if opened.entry is None else library.propose_name(opened.entry))


def keep(opened: Opened, library: Library, name: str) -> Done:
    """Copy an opened model into the library; torch is there already."""
    from unetari.model import keep as keeping

    entry = keeping.keep(opened, library, name)
    if name and entry.name != name:
        return Done(f"This model is kept already, as {entry.name!r}.")
    return Done(f"Kept as {entry.name!r}. Find it under Library.")


def rename(library: Library, entry: Entry, name: str) -> Done:
    """Give a kept model another name."""
    renamed = library.rename(entry, name)
    return Done(f"{entry.name!r} is called {renamed.name!r} now.", f"kept:{renamed.name}")


def remove(library: Library, model: Listed) -> Done:
    """Delete the library's copy of a kept model, or forget a recent file."""
    if model.entry is not None and model.origin == "kept":
        library.remove(model.entry)
    elif model.entry is not None:
        library.forget(model.entry)
    return Done(f"{model.name!r} is no longer in the library.")


def removal_question(model: Listed) -> str:
    """Return what to ask before a model is removed."""
    if model.origin == "recent":
        return f"Take {model.name!r} off the list?\n\nThe file {model.source} stays."
    path = "" if model.entry is None else model.entry.path
    return (
        f"Delete the library's copy of {model.name!r}?\n\nThe file it was copied from, {path}, "
        "is not touched."
    )


def locate(library: Library, entry: Entry, path: str) -> Done:
    """Accept where a recent file is now, if it is the same one."""
    moved = library.relocate(entry, path, _identify(Path(path), entry))
    return Done(f"Found: {moved.path} is the same model.", f"recent:{moved.path}")


def _identify(path: Path, entry: Entry) -> str:
    """Return the hash of a model, which may be several files."""
    digest = identify(path)
    if digest == entry.sha256 or path.suffix.lower() not in (".yaml", ".yml", ".onnx"):
        return digest
    from unetari.model.checkpoint import load_model

    return load_model(path, **entry.options).sha256


def put_picture(library: Library, sha256: str, draw: Callable[[], bytes]) -> None:
    """Draw a picture of what a model does, if the library has that model."""
    if library.has(sha256):
        library.put_picture(sha256, draw(), is_cover=False)
