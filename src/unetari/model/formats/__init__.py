"""The file formats that models are read from and written to, one module each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray
from torch import nn

from unetari.core.spec import ModelSpec
from unetari.errors import ModelFileError
from unetari.model.attachments import Attachments
from unetari.model.formats import bioimageio, native, onnx_file, pt2, state_dict, torchscript
from unetari.model.formats.base import Loaded
from unetari.model.kinds import Kind
from unetari.model.weights import LoadOptions


class Format(Protocol):
    """What each module of this package offers."""

    KIND: Kind
    """Name, endings, whether folders are taken, and whether files are written."""

    def sniff(self, path: Path) -> bool:
        """Whether the file looks like this format; reads no more than needed."""

    def load(self, path: Path, options: LoadOptions) -> Loaded:
        """Load the file, or raise ModelFileError."""


class Writer(Protocol):
    """What those modules offer beside that whose format is written."""

    KIND: Kind

    def save(self, network: nn.Module, spec: ModelSpec, path: Path) -> None:
        """Write the file, which does not exist yet, or raise ModelFileError."""


class PackageWriter(Protocol):
    """What those modules offer instead whose format is a package (`Kind.is_package`)."""

    KIND: Kind

    def save(
        self, network: nn.Module, spec: ModelSpec, path: Path, attached: Attachments
    ) -> tuple[str, ...]:
        """Write the file; return sentences on what it does not hold."""

    def draw_preview(
        self, network: nn.Module, spec: ModelSpec, image: NDArray[Any] | None
    ) -> bytes:
        """Return the cover that a package with this test image gets, a PNG."""


FORMATS: tuple[Format, ...] = (native, bioimageio, state_dict, pt2, torchscript, onnx_file)
"""All formats, asked in this order: by content, then by suffix, which some share."""
_WRITERS: tuple[Writer, ...] = (native, state_dict, pt2, torchscript, onnx_file)
_PACKAGE_WRITERS: tuple[PackageWriter, ...] = (bioimageio,)

_Known = TypeVar("_Known", Writer, PackageWriter)


def find_format(path: Path) -> Format:
    """Return the format of the file or folder `path`: by its content, or else by its suffix."""
    is_folder = path.is_dir()
    for candidate in FORMATS:
        if (candidate.KIND.takes_folders or not is_folder) and candidate.sniff(path):
            return candidate
    if is_folder:
        what = "a folder, not a file" if any(path.iterdir()) else "an empty folder"
        raise ModelFileError(f"It is {what}. Choose a model file.")
    for candidate in FORMATS:
        if path.suffix.lower() in candidate.KIND.suffixes:
            return candidate
    with path.open("rb") as file:
        start = file.read(16)
    kinds = [candidate.KIND for candidate in FORMATS]
    known = ", ".join(f"{kind.name} ({', '.join(kind.suffixes)})" for kind in kinds)
    raise ModelFileError(
        f"It starts with {start!r}, which no known format does: {known}. "
        "Save the model as one of these."
    )


def find_writer(key: str) -> Writer:
    """Return what writes the format of this key, which is no package; there must be one."""
    return _find(_WRITERS, key)


def find_package_writer(key: str) -> PackageWriter:
    """Return what writes the packages of this key; there must be one."""
    return _find(_PACKAGE_WRITERS, key)


def _find(writers: tuple[_Known, ...], key: str) -> _Known:
    (found,) = (writer for writer in writers if writer.KIND.key == key)
    return found
