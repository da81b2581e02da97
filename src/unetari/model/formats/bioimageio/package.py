"""The files of a package, in a folder or a zip archive: read one at a time, and hashed."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from unetari.errors import ModelFileError
from unetari.model.formats.archives import check_name, list_names, open_archive, read_entry

_NAMES = ("rdf.yaml", "bioimageio.yaml", "model.yaml")
"""The description of a package, or what its name ends in after a dot; the first is taken."""


class _Files(Protocol):
    def size(self, name: str) -> int:
        """Return the size of a file in bytes, or raise KeyError."""

    def read(self, name: str, size: int) -> bytes:
        """Return the content, which must be as long as `size` said."""

    def locate(self, name: str) -> Path | None:
        """Return where the file lies on the disk, None if it does not."""


class Package:
    """The files of a package, by the names that its description gives them."""

    def __init__(self, files: _Files, description: str, *, is_archive: bool) -> None:
        self._files = files
        self.is_archive = is_archive
        """Whether it is one file."""
        self._prefix = description[: description.rfind("/") + 1]
        self._hashes: dict[str, str] = {}
        self.description = description.removeprefix(self._prefix)
        """Name of the file that describes the package."""

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        check_name(name)
        try:
            return self._files.size(self._prefix + name) >= 0
        except KeyError:
            return False

    def locate(self, name: str) -> Path:
        """Return where a file lies on the disk.

        Raises
        ------
        ModelFileError
            If it lies in an archive.
        """
        path = self._files.locate(self._prefix + name)
        if path is None:
            raise ModelFileError(
                f"{name!r} needs other files beside it. Unpack the archive, and open the folder."
            )
        return path

    def read(self, name: str, *, limit: int, sha256: str | None = None) -> bytes:
        """Return the content of a file.

        Parameters
        ----------
        name : str
            Relative to the description.
        limit : int
            Most bytes to read.
        sha256 : str, optional
            What its content must hash to.

        Raises
        ------
        ModelFileError
            If it is not there, outside the package, too large, or another file
            than its hash says.
        """
        check_name(name)
        try:
            size = self._files.size(self._prefix + name)
        except KeyError:
            raise ModelFileError(
                f"The package lacks the file {name!r}, which its description names. Download "
                "the complete package."
            ) from None
        if size > limit:
            raise ModelFileError(
                f"{name!r} has {size:,} bytes, and at most {limit:,} are read of such a file."
                " Make it smaller, or leave it out of the description."
            )
        content = self._files.read(self._prefix + name, size)
        digest = hashlib.sha256(content).hexdigest()
        if sha256 is not None and digest != sha256.lower():
            raise ModelFileError(
                f"{name!r} is not the file that was described: its SHA-256 is {digest}, and "
                f"{sha256} is stated. Download the package again, or ask its author."
            )
        self._hashes[name] = digest
        return content

    @property
    def sha256(self) -> str:
        """Hash of all files that were read: of the lines that sha256sum prints for them."""
        lines = (f"{digest}  {name}\n" for name, digest in sorted(self._hashes.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def open_package(path: Path) -> Iterator[Package]:
    """Open a folder, a zip archive, or the description in a folder.

    Raises
    ------
    ModelFileError
        If nothing in it describes a package, or it is not safe to read.
    """
    description = find_description(path)
    if description is None:
        raise ModelFileError(
            f"Nothing in it describes a BioImage.IO package: one of {', '.join(_NAMES)} is "
            "needed. Choose the complete package."
        )
    if path.is_dir():
        yield Package(_Folder(path), description, is_archive=False)
    elif _is_description(path.name):
        yield Package(_Folder(path.parent), description, is_archive=False)
    else:
        with open_archive(path) as archive:
            yield Package(_Archive(archive), description, is_archive=True)


def find_description(path: Path) -> str | None:
    """Return the name of the file that describes the package, None if there is none.

    In an archive it may lie in a folder, as when a folder was packed.
    """
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
    elif path.suffix.lower() in (".yaml", ".yml"):
        return path.name if _is_description(path.name) else None
    else:
        names = sorted(list_names(path)) if _is_zip(path) else []
    for depth in (0, 1):
        level = [name for name in names if name.count("/") == depth]
        for ending in _NAMES:
            for name in level:
                if f".{name.rsplit('/', 1)[-1]}".endswith(f".{ending}"):
                    return name
    return None


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _is_description(name: str) -> bool:
    return any(f".{name}".endswith(f".{ending}") for ending in _NAMES)


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def size(self, name: str) -> int:
        return self.locate(name).stat().st_size

    def read(self, name: str, size: int) -> bytes:
        with self.locate(name).open("rb") as file:
            return file.read(size)

    def locate(self, name: str) -> Path:
        try:
            path = (self._root / name).resolve()
        except (OSError, RuntimeError) as error:  # links that lead to each other
            raise ModelFileError(
                f"{name!r} leads nowhere ({error}). Copy the file into the folder."
            ) from error
        if not path.is_relative_to(self._root):
            raise ModelFileError(
                f"{name!r} is a link that leads out of the package, to {path}. Copy the file "
                "into the folder."
            )
        if not path.exists():
            raise KeyError(name)
        if not path.is_file():
            raise ModelFileError(f"{name!r} is not a file. Download the complete package.")
        return path


class _Archive:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def size(self, name: str) -> int:
        return self._archive.getinfo(name).file_size

    def locate(self, name: str) -> None:
        del name  # nothing of an archive lies on the disk

    def read(self, name: str, size: int) -> bytes:
        del size  # which is what is read, or else refused
        return read_entry(self._archive, name)


@contextmanager
def temporary_file(content: bytes, suffix: str) -> Iterator[Path]:
    """Put a file where libraries find it that read files only; it does not stay."""
    with tempfile.TemporaryDirectory(prefix="unetari-") as folder:
        path = Path(folder, f"file{suffix}")
        path.write_bytes(content)
        yield path
