"""The library: models that were kept or opened lately, found again without torch.

One folder; one small JSON file per entry, replaced in one step, so that several windows can
work with it at once. docs/library.md describes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from pydantic import ValidationError

from unetari.core.files import hash_file, whole_file
from unetari.errors import ConfigError, LibraryError
from unetari.model.library_entry import (
    MOST_BYTES,
    Entry,
    absolute,
    age,
    check_name,
    find_difference,
    key_of,
    now,
    propose_name,
    read_entry,
    reason_of,
)

FOLDER_VARIABLE = "UNETARI_LIBRARY"
"""Name of the environment variable with another folder."""
MOST_RECENT = 20
"""Recent models that are remembered; the oldest go first."""

_KEPT, _RECENT, _PICTURES = "kept", "recent", "pictures"
_PIECE = 2**20  # bytes that are copied at once


@dataclass(frozen=True)
class Contents:
    """What lies in a library."""

    kept: tuple[Entry, ...]
    """By name."""
    recent: tuple[Entry, ...]
    """Newest first."""
    problems: tuple[str, ...]
    """What cannot be read, a sentence each; everything else can."""


@dataclass(frozen=True)
class Library:
    """A folder with models; it comes into being when the first is added.

    Parameters
    ----------
    folder : Path
        The folder.
    """

    folder: Path

    @classmethod
    def default(cls) -> Library:
        """Return the user's library."""
        given = os.environ.get(FOLDER_VARIABLE)
        if given:
            return cls(Path(given).expanduser())
        return cls(platformdirs.user_data_path("unetari", appauthor=False) / "library")

    def read(self) -> Contents:
        """Read all entries; one that is damaged hides no other."""
        problems: list[str] = []
        kept = sorted(self._read_all(_KEPT, problems), key=lambda entry: entry.name.casefold())
        recent = sorted(self._read_all(_RECENT, problems), key=age, reverse=True)
        return Contents(tuple(kept), tuple(recent[:MOST_RECENT]), tuple(problems))

    def _read_all(self, part: str, problems: list[str]) -> Iterator[Entry]:
        folder = self.folder / part
        try:
            files = sorted(file for file in folder.iterdir() if file.suffix == ".json")
        except FileNotFoundError:
            return
        except OSError as error:
            problems.append(f"The library {folder} cannot be read ({reason_of(error)}).")
            return
        for file in files:
            try:
                entry = read_entry(file)
                _check_place(file, entry)
            except FileNotFoundError:
                continue  # another window has just removed it
            except (OSError, ValueError, RecursionError) as error:
                problems.append(_describe_damage(file, error))
            else:
                yield entry

    # --- kept models ---------------------------------------------------------------------------

    def find(self, name: str) -> Entry | None:
        """Return the kept model of this name.

        Of several, which two windows may have made at the same moment, it is the first.
        """
        found = [entry for entry in self.read().kept if entry.name == name]
        return min(found, key=age, default=None)

    def find_content(self, sha256: str) -> Entry | None:
        """Return the kept model with this hash."""
        return next((entry for entry in self.read().kept if entry.sha256 == sha256), None)

    def keep(self, entry: Entry) -> Entry:
        """Copy a model into the library.

        Parameters
        ----------
        entry : Entry
            The model, as it was loaded; `path` is the file to copy.

        Returns
        -------
        Entry
            The one in the library: the same model is kept once, under its first name.

        Raises
        ------
        LibraryError
            If the name is taken or cannot be one, the model is more than one
            file or is kept with other options, or the file or the folder do not
            allow it.
        """
        have = self.find_content(entry.sha256)
        if have is not None and self.check(have) is None:
            _check_same(have, entry)
            return have
        entry = entry.replace(name=self._free(entry.name, entry.sha256), added=now())
        source = Path(entry.path)
        check_single(source)
        with self._writing():
            size = self._copy(source, entry)
        entry = entry.replace(size=size)
        self._write(_KEPT, entry.sha256, entry)
        return entry

    def _copy(self, source: Path, entry: Entry) -> int:
        target = self.file_of(entry)
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as temporary:
            with temporary.open("wb") as copy:
                copy.writelines(_pieces(source))
            if hash_file(temporary) != entry.sha256:  # of the copy: what is kept was checked
                raise LibraryError(
                    f"{source}: It changed since it was opened, or other files belong to it "
                    "(ONNX can keep its weights beside the graph). Open it again; of several "
                    "files, make one, or pack them as a BioImage.IO zip archive."
                )
            return temporary.stat().st_size

    def _free(self, name: str, sha256: str) -> str:
        """Return the name, if a model can have it."""
        check_name(name)
        for entry in self.read().kept:
            if entry.name.casefold() == name.casefold() and entry.sha256 != sha256:
                raise LibraryError(
                    f"Another kept model is called {entry.name!r}. Choose another name, or "
                    "rename or remove that one."
                )
        return name

    def propose_name(self, entry: Entry) -> str:
        """Return a name for a model that is free, close to what it calls itself."""
        others = (kept for kept in self.read().kept if kept.sha256 != entry.sha256)
        return propose_name(entry.name, (kept.name for kept in others))

    def rename(self, entry: Entry, name: str) -> Entry:
        """Give a kept model another name.

        Raises
        ------
        LibraryError
            If the name is taken or cannot be one, the model is not kept any
            more, or the folder does not allow it.
        """
        with self._writing():
            is_kept = self._json(_KEPT, entry.sha256).exists()
        if not is_kept:
            raise LibraryError(
                f"{entry.name!r} is not in the library any more: another window or command has "
                "removed it. Keep its file again."
            )
        renamed = entry.replace(name=self._free(name, entry.sha256))
        self._write(_KEPT, entry.sha256, renamed)
        return renamed

    def remove(self, entry: Entry) -> None:
        """Delete the library's copy of a kept model; the user's own file stays.

        Raises
        ------
        LibraryError
            If the folder does not allow it.
        """
        with self._writing():
            self._json(_KEPT, entry.sha256).unlink(missing_ok=True)
            self.file_of(entry).unlink(missing_ok=True)
        self._drop_picture(entry.sha256)

    def file_of(self, entry: Entry) -> Path:
        """Return where the library's copy of a kept model lies."""
        return self.folder / _KEPT / f"{entry.sha256}{entry.suffix}"

    def check(self, entry: Entry) -> str | None:
        """Return why the copy of a kept model is not to be used; None if it is what was kept."""
        file = self.file_of(entry)
        advice = (
            f"Remove the model (unetari models remove {entry.name!r}) and keep it again; it came "
            f"from {entry.path}."
        )
        try:
            digest = hash_file(file)
        except FileNotFoundError:
            return f"The library's copy {file} is gone. {advice}"
        except OSError as error:
            return f"The library's copy {file} cannot be read ({reason_of(error)}). {advice}"
        if digest != entry.sha256:
            return (
                f"The library's copy {file} was damaged or changed: its SHA-256 is {digest}, and "
                f"{entry.sha256} was kept. {advice}"
            )
        return None

    # --- recent models -------------------------------------------------------------------------

    def remember(self, entry: Entry) -> Entry | None:
        """Note that a file was opened; return what was noted of the same file before.

        Raises
        ------
        LibraryError
            If the folder does not allow it.
        """
        before = self.find_recent(entry.path)
        self._write(_RECENT, key_of(entry.path), entry.replace(added=now()))
        recent = sorted(self._read_all(_RECENT, []), key=age, reverse=True)
        for old in recent[MOST_RECENT:]:
            self.forget(old)
        return before

    def find_recent(self, path: str | os.PathLike[str]) -> Entry | None:
        """Return what is noted of a file."""
        try:
            return read_entry(self._json(_RECENT, key_of(path)))
        except (OSError, ValueError, RecursionError):
            return None  # `read` says what is damaged

    def forget(self, entry: Entry) -> None:
        """Take a file off the list of recent ones; the file itself stays.

        Raises
        ------
        LibraryError
            If the folder does not allow it.
        """
        with self._writing():
            self._json(_RECENT, key_of(entry.path)).unlink(missing_ok=True)
        self._drop_picture(entry.sha256)

    def relocate(self, entry: Entry, path: str | os.PathLike[str], sha256: str) -> Entry:
        """Note where a recent file that was moved is now.

        Parameters
        ----------
        entry : Entry
            The recent model.
        path : str or path-like
            Where it is said to be.
        sha256 : str
            The hash of what is there.

        Raises
        ------
        LibraryError
            If it is another model, or the folder does not allow it.
        """
        if sha256 != entry.sha256:
            raise LibraryError(
                f"{path} is another model: its SHA-256 is {sha256}, and that of {entry.name!r} "
                f"was {entry.sha256}. Choose another file, or open this one on its own."
            )
        moved = entry.replace(path=absolute(path), added=now())
        self._write(_RECENT, key_of(moved.path), moved)
        if key_of(moved.path) != key_of(entry.path):
            with self._writing():
                self._json(_RECENT, key_of(entry.path)).unlink(missing_ok=True)
        return moved

    # --- pictures ------------------------------------------------------------------------------

    def picture(self, sha256: str) -> bytes:
        """Return the small picture (PNG) of a model; empty if there is none."""
        for file in self._picture_files(sha256):
            try:
                if file.stat().st_size <= MOST_BYTES:
                    return file.read_bytes()
            except OSError:
                continue  # a picture is no reason to complain
        return b""

    def put_picture(self, sha256: str, picture: bytes, *, is_cover: bool) -> None:
        """Keep a small picture of a model in the library; a cover goes before all others.

        Raises
        ------
        LibraryError
            If the folder does not allow it.
        """
        file = self._picture_files(sha256)[0 if is_cover else 1]
        with self._writing():
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as temporary:
                temporary.write_bytes(picture)

    def has(self, sha256: str) -> bool:
        """Whether a model with this hash is kept or recent."""
        contents = self.read()
        return any(entry.sha256 == sha256 for entry in (*contents.kept, *contents.recent))

    def _picture_files(self, sha256: str) -> tuple[Path, Path]:
        folder = self.folder / _PICTURES
        return folder / f"{sha256}.cover.png", folder / f"{sha256}.png"

    def _drop_picture(self, sha256: str) -> None:
        if self.has(sha256):
            return
        with self._writing():
            for file in self._picture_files(sha256):
                file.unlink(missing_ok=True)

    # --- files ---------------------------------------------------------------------------------

    def _json(self, part: str, key: str) -> Path:
        return self.folder / part / f"{key}.json"

    def _write(self, part: str, key: str, entry: Entry) -> None:
        file = self._json(part, key)
        text = entry.model_dump_json(indent=1)
        with self._writing():
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as temporary:
                temporary.write_text(text, encoding="utf-8")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what the system says into what a user can do."""
        try:
            yield
        except OSError as error:
            raise LibraryError(
                f"The library {self.folder} cannot be written ({reason_of(error)}). Check its "
                f"permissions and the free space, or name another folder in {FOLDER_VARIABLE}."
            ) from error


def _check_place(file: Path, entry: Entry) -> None:
    if file.parent.name == _KEPT and file.stem != entry.sha256:
        raise ValueError("it describes another file")


def _check_same(have: Entry, entry: Entry) -> None:
    difference = find_difference(have, entry)
    if difference:
        raise LibraryError(
            f"This file is kept already, as {have.name!r}, with other options: {difference}. "
            f"Remove that one (unetari models remove {have.name!r}), and keep the file again."
        )


def _describe_damage(file: Path, error: Exception) -> str:
    if isinstance(error, ValidationError | ConfigError):
        reason = "it is damaged, or a newer unetari wrote it"
    else:
        reason = reason_of(error)
    return f"An entry of the library cannot be read: {file} ({reason}). Delete it if it is no use."


def check_single(path: Path) -> None:
    """Refuse to keep what is more than one file.

    Raises
    ------
    LibraryError
        If it is a folder, or the description in one.
    """
    if path.is_dir() or path.suffix.lower() in (".yaml", ".yml"):
        raise LibraryError(
            f"{path}: A kept model is one file, and this one is a folder of files. Pack them as a "
            "zip archive, open that, and keep it."
        )


def _pieces(source: Path) -> Iterator[bytes]:
    """Read a file; that it cannot be read is its own fault, and not the library's."""
    try:
        with source.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise LibraryError(
            f"{source}: It cannot be read ({reason_of(error)}). Check the file and its "
            "permissions, and open it again."
        ) from error
