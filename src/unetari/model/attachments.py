"""`Attachments`: what a package holds beside the network and its card."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unetari.errors import ConfigError

COVER_SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_BYTES = 2**22
"""Of a cover or a documentation."""
_PICTURES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg"}


@dataclass(frozen=True, eq=False)
class Attachments:
    """Picture, documentation and test image; empty where the package is to have its own."""

    cover: bytes = b""
    """A picture, PNG or JPEG."""
    documentation: str = ""
    """Markdown."""
    image: NDArray[Any] | None = None
    """(C, [Z,] Y, X), as it comes from a microscope."""

    def with_given(self, given: Attachments) -> Attachments:
        """Return these, with what is given in the place of what was there."""
        return Attachments(
            cover=given.cover or self.cover,
            documentation=given.documentation or self.documentation,
            image=self.image if given.image is None else given.image,
        )


def picture_suffix(content: bytes) -> str:
    """Return the ending of a picture's file, empty if it is neither PNG nor JPEG.

    Examples
    --------
    >>> picture_suffix(b"GIF89a")
    ''
    """
    return next((suffix for start, suffix in _PICTURES.items() if content.startswith(start)), "")


def read_cover(path: str | os.PathLike[str]) -> bytes:
    """Read a cover.

    Raises
    ------
    ConfigError
        If there is no such file, it is too large, or no PNG or JPEG.
    """
    content = _read(Path(path).expanduser(), "cover")
    if not picture_suffix(content):
        raise ConfigError(f"cover: {path} is no PNG or JPEG. Save the picture as one of these.")
    return content


def read_documentation(path: str | os.PathLike[str]) -> str:
    """Read a documentation.

    Raises
    ------
    ConfigError
        If there is no such file, it is too large, empty, or no text.
    """
    content = _read(Path(path).expanduser(), "documentation")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"documentation: {path} is no text in UTF-8 ({error.reason}). Save it as Markdown."
        ) from error
    if not text.strip():
        raise ConfigError(f"documentation: {path} is empty. Write something, or leave it out.")
    return text


def _read(path: Path, what: str) -> bytes:
    if not path.is_file():
        raise ConfigError(f"{what}: There is no file {path}. Check the spelling.")
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(
            f"{what}: {path} has {path.stat().st_size:,} bytes, and {MOST_BYTES:,} are allowed. "
            "Make it smaller."
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{what}: {path} cannot be read ({error.strerror or error}). Check its permissions."
        ) from error
