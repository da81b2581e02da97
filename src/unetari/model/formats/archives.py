"""What torch's zip archives hold, looked at before torch opens them."""

from __future__ import annotations

from pathlib import Path

from unetari.model.formats.zips import list_names, open_archive


def inner_names(path: Path) -> frozenset[str]:
    """Return the names in an archive without the one folder around them; none if it is no archive.

    torch puts all entries into a folder that is named after the file.
    """
    with path.open("rb") as file:
        if not file.read(4).startswith(b"PK\x03\x04"):
            return frozenset()
    return frozenset(name.partition("/")[2] or name for name in list_names(path))


def is_script(names: frozenset[str]) -> bool:
    """Whether these are the entries of a TorchScript program."""
    return "constants.pkl" in names or any(name.startswith("code/") for name in names)


def is_export(names: frozenset[str]) -> bool:
    """Whether these are the entries of a program of torch.export."""
    is_current = "archive_format" in names and any(name.startswith("models/") for name in names)
    return is_current or "serialized_exported_program.json" in names  # up to torch 2.7


def check_unpacked_size(path: Path) -> None:
    """Refuse archives that are damaged, or made to fill memory: code is compressed, weights not.

    Raises
    ------
    ModelFileError
        As `open_archive` does.
    """
    with open_archive(path):
        pass
