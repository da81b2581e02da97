"""What a package holds beside the model: kept, so that another package can have it, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from numpy.typing import NDArray

from unetari.errors import ModelFileError
from unetari.model.attachments import MOST_BYTES, Attachments, picture_suffix
from unetari.model.formats.bioimageio import arrays, axes
from unetari.model.formats.bioimageio.description import OURS, Description, File
from unetari.model.formats.bioimageio.package import Package

GENERATED = "generated"
"""Where in our part of the description stands which files were made of the model itself."""

_MOST_IMAGE = 2**26  # bytes
_Value = TypeVar("_Value")


def read_attachments(
    package: Package, description: Description
) -> tuple[Attachments, tuple[str, ...]]:
    """Read cover, documentation and test image, but for what unetari made of the model itself.

    Returns
    -------
    attachments : Attachments
        Empty where something is missing or cannot be read.
    notes : tuple of str
        What cannot be read, a sentence each.
    """
    notes: list[str] = []

    def attempt(what: str, read: Callable[[], _Value], default: _Value) -> _Value:
        try:
            return read()
        except ModelFileError as error:
            notes.append(f"The {what} of the package is left out: {error}")
            return default

    left_out = _generated(description)
    covers = [file for file in description.covers if file.name not in left_out]
    document = description.documentation
    if document is not None and document.name in left_out:
        document = None
    attachments = Attachments(
        cover=attempt("cover", lambda: _cover(package, covers), b""),
        documentation=attempt("documentation", lambda: _text(package, document), ""),
        image=attempt("test image", lambda: _image(package, description), None),
    )
    return attachments, tuple(notes)


def _generated(description: Description) -> tuple[str, ...]:
    ours = description.config.get(OURS)
    names: Any = ours.get(GENERATED) if isinstance(ours, Mapping) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _is_there(package: Package, file: File | None) -> bool:
    return file is not None and not file.is_remote and package.has(file.name)


def _cover(package: Package, covers: list[File]) -> bytes:
    """Return the first cover that is a picture which others can show, too."""
    for file in covers:
        if _is_there(package, file):
            content = package.read(file.name, limit=MOST_BYTES, sha256=file.sha256)
            if picture_suffix(content):
                return content
    return b""


def _text(package: Package, file: File | None) -> str:
    if file is None or not _is_there(package, file):
        return ""
    content = package.read(file.name, limit=MOST_BYTES, sha256=file.sha256)
    return content.decode("utf-8", "replace")


def _image(package: Package, description: Description) -> NDArray[Any] | None:
    if len(description.inputs) != 1:
        return None
    (tensor,) = description.inputs
    if tensor.test is None or not _is_there(package, tensor.test):
        return None
    return arrays.read_image(package, tensor.test, axes.find_layout(tensor), limit=_MOST_IMAGE)
