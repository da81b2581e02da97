"""The models that come with unetari; listing them needs no torch."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING

from unetari.errors import ModelFileError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from unetari.core.spec import ModelSpec

SUFFIX = ".safetensors"
_LENGTH_BYTES = 8
_MOST_HEADER = 2**24


def bundled_models() -> tuple[str, ...]:
    """Return the names of the models that come with unetari.

    Returns
    -------
    tuple of str
        Names in alphabetical order, each accepted by `load_model`.

    Examples
    --------
    >>> bundled_models()
    ('nuclei-2d', 'nuclei-3d')
    """
    return tuple(sorted(_files()))


def bundled_file(name: str) -> Traversable | None:
    """Return the file of the bundled model `name`, or None if there is no such model."""
    return _files().get(name)


def bundled_spec(name: str) -> ModelSpec:
    """Return options and card of a bundled model, read off the start of its file.

    Raises
    ------
    ModelFileError
        If there is no such model, or its file is damaged.
    """
    from unetari.core.spec import ModelSpec

    file = bundled_file(name)
    if file is None:
        raise ModelFileError(f"{name}: There is no bundled model of that name.")
    with file.open("rb") as content:
        length = int.from_bytes(content.read(_LENGTH_BYTES), "little")
        header = content.read(min(length, _MOST_HEADER))
    try:
        fields = json.loads(json.loads(header)["__metadata__"]["spec"])
        return ModelSpec(**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"{name}: The bundled file is damaged ({error}). Install unetari again."
        ) from error


def bundled_picture(name: str) -> bytes:
    """Return a small picture (PNG) of what a bundled model does; empty if there is none."""
    picture = resources.files("unetari") / "models" / f"{name}.png"
    return picture.read_bytes() if picture.is_file() else b""


def _files() -> dict[str, Traversable]:
    folder = resources.files("unetari") / "models"
    if not folder.is_dir():
        return {}
    return {
        entry.name.removesuffix(SUFFIX): entry
        for entry in folder.iterdir()
        if entry.name.endswith(SUFFIX)
    }
