"""Zip archives: opened only once all that they say of themselves is known to be harmless.

Every format whose files are archives opens them here. Whoever reads a file that was checked sees
the same in it: the table of contents stands at the very end, and names parts of the file that
follow each other, so that no two programs can see two different archives in one file. Packages are
read through the archive that was checked. Torch's files are opened once more for torch, which sees
what somebody may have changed meanwhile.
"""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from unetari.errors import ModelFileError

MAX_ENTRIES = 10_000
"""Most files of an archive."""
MAX_TABLE = 4 * 2**20
"""Largest table of contents, in bytes: reading it costs ten times its size."""
MAX_DEPTH = 16
"""Most folders within each other."""
MAX_NAME = 512
"""Most characters of a name, with its folders."""
MAX_UNPACKED = 2**28
"""Bytes that any archive may unpack to, however small it is."""
MAX_RATIO = 50
"""Beyond that, how many times its own size an archive may unpack to."""
START = b"PK\x03\x04"
"""What archives begin with."""

_AGAIN = "Copy or download it again."
_END, _LOCATOR, _END_64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_END_SIZE, _LOCATOR_SIZE, _END_64_SIZE, _HEADER_SIZE = 22, 20, 56, 30
_LARGEST_COMMENT = 2**16
_DOS_FOLDER = 1 << 4
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_DEFLATE_RATIO = 1032  # no more comes out of a byte
_CHUNK = 2**20
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    EOFError,
    OSError,
    struct.error,
)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive whose names stay within it and whose sizes are credible.

    Raises
    ------
    ModelFileError
        If it is damaged, encrypted, holds links or names that lead out of it,
        or claims to unpack to far more than it is.
    """
    end = check_table(path)
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise _damaged(str(error)) from error
    with archive:
        if len(archive.infolist()) != end.entries:
            raise _damaged(f"it states {end.entries} entries and has {len(archive.infolist())}")
        check_entries(archive.infolist(), path.stat().st_size, end.table)
        yield archive


def list_names(path: Path) -> tuple[str, ...]:
    """Return the names in an archive, whatever they are; none if it cannot be read."""
    try:
        check_table(path)
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except (ModelFileError, *_DAMAGED):
        return ()


def inner_names(path: Path) -> frozenset[str]:
    """Return the names in an archive without the one folder around them; none if it is no archive.

    torch puts all entries into a folder that is named after the file.
    """
    with path.open("rb") as file:
        if file.read(len(START)) != START:
            return frozenset()
    return frozenset(name.partition("/")[2] or name for name in list_names(path))


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the content of a file in an archive that was checked.

    Raises
    ------
    ModelFileError
        If it is damaged, or of another size than the table of contents says.
    KeyError
        If it is not there.
    """
    entry = archive.getinfo(name)
    # Without a size, zipfile would unpack all there is before it looks at what was stated.
    return b"".join(_chunks(archive, entry, max(entry.file_size, 1)))


def check_contents(archive: zipfile.ZipFile) -> None:
    """Compare every file of an archive with its checksum; torch's readers do not.

    torch can write archives without checksums, which are zero then.

    Raises
    ------
    ModelFileError
        Naming the file that is damaged.
    """
    for entry in archive.infolist():
        if entry.CRC:
            for _ in _chunks(archive, entry, _CHUNK):
                pass


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int) -> Iterator[bytes]:
    left = entry.file_size
    try:
        with archive.open(entry) as file:
            while chunk := file.read(min(size, left)):
                left -= len(chunk)
                yield chunk
    except _DAMAGED as error:
        raise ModelFileError(
            f"{_quoted(entry)} cannot be unpacked ({str(error)[:200]}). {_AGAIN}"
        ) from error
    if left:
        raise ModelFileError(
            f"{_quoted(entry)} unpacks to {entry.file_size - left:,} bytes, and "
            f"{entry.file_size:,} are stated. {_AGAIN}"
        )


# --- the table of contents ----------------------------------------------------------------------


class End(NamedTuple):
    """What the end of an archive says of its table of contents."""

    entries: int
    """Number of files."""
    size: int
    """Bytes of the table."""
    table: int
    """Where the table begins."""


def check_table(path: Path) -> End:
    """Refuse an archive whose table of contents would fill memory, before it is read.

    Raises
    ------
    ModelFileError
        If it is too large, or not where everybody looks for it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = max(0, size - _LARGEST_COMMENT - _END_SIZE - _LOCATOR_SIZE)
        file.seek(start)
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0 or at + _END_SIZE > len(tail):
            raise _damaged("it has no end")
        disk, _, here, entries, table_size, table, comment = struct.unpack_from(
            "<HHHHLLH", tail, at + 4
        )
        if at + _END_SIZE + comment != len(tail) or disk or here != entries:
            raise _damaged("something follows its end, or parts of it are missing")
        found, before = End(entries, table_size, table), start + at
        if tail[max(0, at - _LOCATOR_SIZE) : at].startswith(_LOCATOR):
            before -= _LOCATOR_SIZE + _END_64_SIZE
            found = _read_end_64(file, tail[at - _LOCATOR_SIZE : at], before)
    if found.size > MAX_TABLE:
        raise ModelFileError(
            f"The zip archive has a table of contents of {found.size:,} bytes, and at most "
            f"{MAX_TABLE:,} are read. Pack only the files of the model."
        )
    if found.table + found.size != before:
        raise _damaged(
            f"its table of contents claims {found.size:,} bytes from {found.table:,} on, and the "
            f"file has {before:,} before its end"
        )
    return found


def _read_end_64(file: BinaryIO, locator: bytes, expected: int) -> End:
    """Read the end of an archive in the form for large ones, which must stand where expected."""
    (offset,) = struct.unpack_from("<Q", locator, 8)
    file.seek(max(expected, 0))
    end = file.read(_END_64_SIZE)
    if offset != expected or len(end) < _END_64_SIZE or not end.startswith(_END_64):
        raise _damaged("its end is not where it should be")
    return End(*struct.unpack_from("<QQQ", end, 32))


# --- its entries --------------------------------------------------------------------------------


def check_entries(entries: list[zipfile.ZipInfo], size: int, table: int) -> None:
    """Refuse names that lead out of an archive, links, and bombs.

    Parameters
    ----------
    entries : list of ZipInfo
        The table of contents.
    size : int
        Bytes of the archive.
    table : int
        Where the table begins, and the files end.

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
        _check_entry(entry)
        if entry.filename in seen:
            raise ModelFileError(f"{_quoted(entry)} is there twice. Pack every file once.")
        seen.add(entry.filename)
    _check_places(entries, table)
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * size):
        raise ModelFileError(
            f"It claims to unpack from {size:,} to {unpacked:,} bytes, as archives do that are "
            f"made to fill memory (at most {MAX_RATIO} times their size is unpacked). If it is "
            "meant to be so, pack it again without compression."
        )


def _check_entry(entry: zipfile.ZipInfo) -> None:
    for name in {entry.orig_filename, entry.filename}:  # which differ by what else is stated
        check_name(name)
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ModelFileError(f"{_quoted(entry)} is a link or device. Pack the file it stands for.")
    # torch's reader gives for folders, whatever their size, memory in which anything may stand.
    says_folder = entry.external_attr & _DOS_FOLDER or stat.S_ISDIR(entry.external_attr >> 16)
    if (says_folder and not entry.is_dir()) or (entry.is_dir() and entry.file_size):
        raise ModelFileError(f"{_quoted(entry)} is half a file and half a folder. {_AGAIN}")
    if entry.flag_bits & _ENCRYPTED:
        raise ModelFileError(f"{_quoted(entry)} is encrypted. Pack it without a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ModelFileError(
            f"{_quoted(entry)} is compressed by method {entry.compress_type}, and only deflate, "
            "the usual one, is unpacked. Pack it again."
        )
    is_stored = entry.compress_type == zipfile.ZIP_STORED
    most = entry.compress_size * (1 if is_stored else _DEFLATE_RATIO)
    if entry.file_size > most or (is_stored and entry.file_size != most):
        raise ModelFileError(
            f"{_quoted(entry)} claims to unpack from {entry.compress_size:,} to "
            f"{entry.file_size:,} bytes, which cannot be. {_AGAIN}"
        )


def _check_places(entries: list[zipfile.ZipInfo], table: int) -> None:
    """Refuse files that lie on each other: few bytes would unpack to many."""
    in_order = sorted(entries, key=lambda entry: entry.header_offset)
    ends = [entry.header_offset for entry in in_order[1:]] + [table]
    for entry, end in zip(in_order, ends, strict=True):
        name = len(entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437"))
        room = end - entry.header_offset - _HEADER_SIZE - name
        if entry.compress_size > room:
            raise ModelFileError(
                f"{_quoted(entry)} claims {entry.compress_size:,} bytes and has room for "
                f"{max(room, 0):,}: it reaches into what follows it, as in archives that are made "
                f"to fill memory, or damaged. {_AGAIN}"
            )


def check_name(name: str) -> None:
    """Refuse the name of a file that does not stay below its folder.

    Raises
    ------
    ModelFileError
        If it is absolute, climbs, is nested without end, or means different
        things on different systems.
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
    if len(name) > MAX_NAME:
        raise ModelFileError(
            f"{name[:80]!r}... is a name of {len(name):,} characters, and at most {MAX_NAME} are "
            "read. Pack it again with shorter names."
        )
    if len(parts) > MAX_DEPTH:
        raise ModelFileError(
            f"{name[:80]!r} lies in {len(parts) - 1} folders, and at most {MAX_DEPTH - 1} are "
            "opened. Pack the files into one folder."
        )


def _quoted(entry: zipfile.ZipInfo) -> str:
    return repr(entry.filename[:80])


def _damaged(reason: str) -> ModelFileError:
    return ModelFileError(f"The zip archive is damaged: {reason}. {_AGAIN}")
