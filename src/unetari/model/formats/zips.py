"""Zip archives, opened only once their table of contents is known to be harmless."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unetari.errors import ModelFileError

MAX_ENTRIES = 10_000
"""Most files of an archive."""
MAX_TABLE = 4 * 2**20
"""Largest table of contents, in bytes: reading it costs ten times its size."""
MAX_UNPACKED = 2**28
"""Bytes that any archive may unpack to, however small it is."""
MAX_RATIO = 50
"""Beyond that, how many times its own size an archive may unpack to."""

_AGAIN = "Copy or download it again."
_END, _LOCATOR, _END_64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_END_SIZE, _LOCATOR_SIZE, _END_64_SIZE = 22, 20, 56
_IN_END_64 = 0xFFFFFFFF
_ENCRYPTED = 1
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive whose names stay within it and whose sizes are credible.

    Raises
    ------
    ModelFileError
        If it is damaged, encrypted, holds links or names that lead out of it,
        or claims to unpack to far more than it is.
    """
    check_table(path)
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise ModelFileError(f"The zip archive is damaged ({error}). {_AGAIN}") from error
    with archive:
        check_entries(archive.infolist(), path.stat().st_size)
        yield archive


def list_names(path: Path) -> tuple[str, ...]:
    """Return the names in an archive, whatever they are; none if it cannot be read."""
    try:
        check_table(path)
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except (ModelFileError, *_DAMAGED):
        return ()


def check_table(path: Path) -> None:
    """Refuse an archive whose table of contents would fill memory, before it is read.

    Raises
    ------
    ModelFileError
        If it is too large, or there is none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 2**16 - _END_SIZE))
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0 or at + _END_SIZE > len(tail):
            raise ModelFileError(f"The zip archive is damaged: it has no end. {_AGAIN}")
        (table,) = struct.unpack_from("<L", tail, at + 12)
        if table == _IN_END_64 and tail[at - _LOCATOR_SIZE : at].startswith(_LOCATOR):
            (offset,) = struct.unpack_from("<Q", tail, at - _LOCATOR_SIZE + 8)
            file.seek(min(offset, size))
            end = file.read(_END_64_SIZE)
            if len(end) < _END_64_SIZE or not end.startswith(_END_64):
                raise ModelFileError(f"The zip archive is damaged: its end is not there. {_AGAIN}")
            (table,) = struct.unpack_from("<Q", end, 40)
    if table > MAX_TABLE:
        raise ModelFileError(
            f"The zip archive has a table of contents of {table:,} bytes, and at most "
            f"{MAX_TABLE:,} are read. Pack only the files of the model."
        )


def check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse names that lead out of an archive of `size` bytes, links, and bombs.

    Raises
    ------
    ModelFileError
        Naming the entry.
    """
    if len(entries) > MAX_ENTRIES:
        raise ModelFileError(
            f"The zip archive has {len(entries):,} entries, and at most {MAX_ENTRIES:,} are "
            "read. Pack only the files of the model."
        )
    seen: set[str] = set()
    for entry in entries:
        check_name(entry.orig_filename)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ModelFileError(f"{_quoted(entry)} is a link. Pack the file it stands for.")
        if entry.flag_bits & _ENCRYPTED:
            raise ModelFileError(f"{_quoted(entry)} is encrypted. Pack it without a password.")
        if entry.filename in seen:
            raise ModelFileError(f"{_quoted(entry)} is there twice. Pack every file once.")
        seen.add(entry.filename)
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * size):
        raise ModelFileError(
            f"It claims to unpack from {size:,} to {unpacked:,} bytes, as archives do that are "
            f"made to fill memory (at most {MAX_RATIO} times their size is unpacked). If it is "
            "meant to be so, unpack it yourself and open the folder."
        )


def check_name(name: str) -> None:
    """Refuse the name of a file that does not stay below its folder.

    Raises
    ------
    ModelFileError
        If it is absolute, climbs, or means different things on different systems.
    """
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or ":" in parts[0] or not parts[0]:
        raise ModelFileError(
            f"{name[:80]!r} is not the name of a file in the package: names are relative, with / "
            "between folders. Pack it again with plain names."
        )
    if ".." in parts:
        raise ModelFileError(
            f"{name[:80]!r} leads out of the package. Pack the files into one folder, and name "
            "them from there."
        )


def _quoted(entry: zipfile.ZipInfo) -> str:
    return repr(entry.filename[:80])
