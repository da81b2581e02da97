"""The models that come with unetari; listing them needs no torch."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

SUFFIX = ".safetensors"


def bundled_models() -> tuple[str, ...]:
    """Return the names of the models that come with unetari.

    Returns
    -------
    tuple of str
        Names in alphabetical order, each accepted by `load_model`.
    """
    return tuple(sorted(_files()))


def bundled_file(name: str) -> Traversable | None:
    """Return the file of the bundled model `name`, or None if there is no such model."""
    return _files().get(name)


def _files() -> dict[str, Traversable]:
    folder = resources.files("unetari") / "models"
    if not folder.is_dir():
        return {}
    return {
        entry.name.removesuffix(SUFFIX): entry
        for entry in folder.iterdir()
        if entry.name.endswith(SUFFIX)
    }
