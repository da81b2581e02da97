"""Files that could run code: which of them the user trusts, in this session.

Trust is given to a content, by its SHA-256, not to a path: a file that changes is asked about
again. It is forgotten when the process ends.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from unetari.core.files import hash_file
from unetari.errors import ModelFileError, UntrustedModelError

_trusted: set[str] = set()


def trust(sha256: str) -> None:
    """Remember, until the process ends, that files of this content are trusted."""
    _trusted.add(sha256)


def check_trust(path: Path, size: int, sha256: str, reason: str, *, trusted: bool) -> None:
    """Raise unless the user trusts a file.

    Parameters
    ----------
    path : Path
        The file, for the message.
    size : int
        Its bytes.
    sha256 : str
        Hash of its content.
    reason : str
        What opening it could do, in sentences.
    trusted : bool
        Whether the user trusts it; remembered.

    Raises
    ------
    UntrustedModelError
        If the user has trusted this content neither now nor before.
    """
    if trusted:
        trust(sha256)
    if sha256 not in _trusted:
        raise UntrustedModelError(str(path), size, sha256, reason)


def read_trusted(path: Path, reason: str, *, trusted: bool) -> bytes:
    """Return the content of a file that could run code, if the user trusts exactly this content.

    Raises
    ------
    UntrustedModelError
        If the user has not.
    ModelFileError
        If the file changes meanwhile.
    """
    digest = hash_file(path)  # in pieces: what is refused should not fill the memory first
    check_trust(path, path.stat().st_size, digest, reason, trusted=trusted)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelFileError("It changed while it was read. Wait until it is complete.")
    return content
