"""Opening models for the library: what was opened is noted, what is kept was opened first."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetari.core.card import CardLine
from unetari.core.normalization import Normalization
from unetari.errors import LibraryError
from unetari.model.about import describe
from unetari.model.checkpoint import Model, is_name, load_model, with_intensities
from unetari.model.library import Library, check_single
from unetari.model.library_entry import Entry, absolute, changed_since, check_name, describe_file
from unetari.model.thumbnails import shrink_picture


@dataclass(frozen=True)
class Opened:
    """A model from a file, and what the library knows of it."""

    model: Model
    entry: Entry | None = None
    """What the library knows, or is to know, of the file; None for what was named, not a file."""
    remarks: tuple[str, ...] = ()
    """What the user should know of the file, a sentence each."""

    def describe(self) -> tuple[CardLine, ...]:
        """Return the model's card; a kept model's says where it came from."""
        name = self.model.source
        if self.entry is None or self.entry.path == absolute(name):
            return describe(self.model)
        return describe(self.model, f"{name}, a copy of {self.entry.path}")


def open_file(
    path: str | os.PathLike[str],
    options: dict[str, Any],
    intensities: Normalization | None = None,
    *,
    trust: bool = False,
) -> Opened:
    """Load a model file, and describe it for the library, which is not changed.

    Parameters
    ----------
    path : str or path-like
        The file.
    options : dict
        What the file cannot tell, see `load_model`.
    intensities : Normalization, optional
        How intensities are mapped, instead of what the file says.
    trust : bool
        See `load_model`.
    """
    model = load_model(path, trust=trust, **options)
    if intensities is not None:
        model = with_intensities(model, intensities)
    if is_name(os.fspath(path)):
        return Opened(model)
    entry = describe_file(
        path,
        name=model.spec.name,
        kind=model.kind,
        sha256=model.sha256,
        spec=model.spec,
        options=options,
        intensities=intensities,
    )
    return Opened(model, entry)


def open_named(name: str, entry: Entry | None) -> Opened:
    """Load a bundled or kept model by its name, with its entry if it is a kept one."""
    return Opened(load_model(name), entry)


def remember(opened: Opened, library: Library) -> Opened:
    """Note in the library that a file was opened; remarks say what changed, or what failed."""
    if opened.entry is None:
        return opened
    try:
        before = library.remember(opened.entry)
        _put_cover(opened, opened.entry, library)
    except LibraryError as error:
        remark = f"The file is not listed among the recent ones: {error}"
    else:
        remark = changed_since(before, opened.entry.sha256)
    return Opened(opened.model, opened.entry, (remark,) if remark else ())


def keep(opened: Opened, library: Library, name: str = "") -> Entry:
    """Copy an opened model into the library.

    Parameters
    ----------
    opened : Opened
        The model.
    library : Library
        Where to.
    name : str
        Its name there; without one, the model's own, with a number if that is taken.

    Raises
    ------
    LibraryError
        If the name is taken or cannot be one, the model is several files or is
        kept with other options, or the folder does not allow it.
    """
    if opened.entry is None:
        raise LibraryError(f"{opened.model.source!r} has a name already. Load it by that.")
    name = name or library.propose_name(opened.entry)
    entry = library.keep(opened.entry.replace(name=name))
    _put_cover(opened, entry, library)
    return entry


def keep_model(
    path: str | os.PathLike[str], name: str = "", *, trust: bool = False, **options: Any
) -> Entry:
    """Copy a model into the user's library, to load it by name from then on.

    Parameters
    ----------
    path : str or path-like
        One file that `load_model` opens.
    name : str
        Its name; without one, the one it calls itself, with a number if that is taken.
    trust : bool
        Whether the file may run code, see `load_model`.
    **options
        What the file cannot tell, see `load_model`; kept with it.

    Returns
    -------
    Entry
        What is kept: `name`, `sha256`, `spec`.

    Raises
    ------
    ModelFileError
        If the file cannot be loaded.
    LibraryError
        If the name is taken or cannot be one, the model is several files or is
        kept with other options, or the folder does not allow it.
    """
    check_single(Path(path).expanduser())  # before the work of loading it
    if name:
        check_name(name)
    return keep(open_file(path, options, trust=trust), Library.default(), name)


def _put_cover(opened: Opened, entry: Entry, library: Library) -> None:
    """Keep the picture of a package, if it has one."""
    cover = opened.model.attachments.cover
    picture = shrink_picture(cover) if cover else b""
    if picture:
        library.put_picture(entry.sha256, picture, is_cover=True)
