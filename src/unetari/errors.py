"""The exceptions unetari raises, one small family.

None of them is a `RuntimeError`: Qt's generator workers swallow those in
silence, and torch raises them for its own failures, so the two stay apart.
Every message gives the value, the rule it broke, and the fix.
"""

from __future__ import annotations

import unicodedata

_OTHER_DIRECTIONS = "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


class UnetariError(Exception):
    """Base class of every error unetari raises on purpose."""

    def __str__(self) -> str:
        """Return the message; what a file put into it cannot change the terminal that shows it."""
        return printable(super().__str__())


def printable(text: str) -> str:
    r"""Write out the characters that change how a text around them is shown.

    Examples
    --------
    >>> print(printable("red: \x1b[31m"))
    red: \x1b[31m
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if _is_hidden(c) else c for c in text)


def as_sentence(text: str) -> str:
    """Return a text of other libraries with a full stop, so that advice can follow.

    Examples
    --------
    >>> as_sentence("no such file")
    'no such file.'
    """
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _is_hidden(character: str) -> bool:
    hidden = unicodedata.category(character) in ("Cc", "Cs") or character in _OTHER_DIRECTIONS
    return hidden and character not in "\n\t"


class ConfigError(UnetariError, ValueError):
    """An option, or a combination of options, that cannot work."""


class AxesError(UnetariError, ValueError):
    """The axes of an image do not match the network or the array."""


class ShapeError(UnetariError, ValueError):
    """A size that the network or the tiling cannot process."""


class ModelFileError(UnetariError):
    """A model file that is missing, damaged, unsafe or of another architecture."""


class UntrustedModelError(ModelFileError):
    """A model file that could run code, while nobody has said that it is trusted."""

    def __init__(self, path: str, size: int, sha256: str, reason: str) -> None:
        self.path, self.size, self.sha256, self.reason = path, size, sha256, reason
        super().__init__(
            f"{path} ({size:,} bytes, SHA-256 {sha256}) is opened only if you trust it. {reason} "
            "If you trust where it comes from, say so: --trust on the command line, "
            "load_model(path, trust=True) in Python. Or use another format."
        )


class LibraryError(UnetariError):
    """The library of models cannot be read or written, or has no such model, or has it already."""


class NetworkError(UnetariError):
    """A network that cannot be run, or whose output does not lie on the image."""


class ImageFileError(UnetariError):
    """An image file that is missing, damaged or of an unknown kind."""


class OutputExistsError(UnetariError, FileExistsError):
    """Writing would overwrite something that already exists."""


class DeviceError(UnetariError):
    """A device or precision that this machine does not offer."""


class OutOfMemoryError(UnetariError, MemoryError):
    """Not even the smallest tile fits in memory."""


class Cancelled(UnetariError):  # noqa: N818 -- the user's wish is no error
    """Work stopped because the user asked for it; what is finished stays."""


class MissingExtraError(UnetariError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f'Install it with: pip install "unetari[{extra}]"'
        )
