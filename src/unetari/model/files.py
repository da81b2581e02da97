"""Where models are written: checked before the work, complete or not at all after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from unetari.core import files
from unetari.errors import ModelFileError, OutputExistsError
from unetari.model.kinds import Kind


def target_path(path: Path, kind: Kind) -> Path:
    """Return where a model is saved: the path, with the format's suffix if it has none.

    Raises
    ------
    ModelFileError
        If the path has another suffix, or is a folder.
    """
    path = path if path.suffix else path.with_name(path.name + kind.suffixes[0])
    if path.suffix.lower() not in kind.suffixes:
        raise ModelFileError(
            f"{path}: Models of the kind {kind.name!r} are saved as {' or '.join(kind.suffixes)}, "
            f"not {path.suffix}. Use {path.with_suffix(kind.suffixes[0]).name}."
        )
    if path.is_dir():
        raise ModelFileError(f"{path}: It is a folder. Choose the name of a file.")
    return path


def check_target(path: Path, kind: Kind, *, overwrite: bool) -> Path:
    """Return where a model is saved, once nothing stands in the way.

    Raises
    ------
    ModelFileError
        If the path has another suffix, or its folder does not exist.
    OutputExistsError
        If the file exists and `overwrite` is false.
    """
    path = target_path(path, kind)
    if not path.parent.is_dir():
        raise ModelFileError(f"{path}: The folder {path.parent} does not exist. Create it first.")
    if path.exists() and not overwrite:
        raise OutputExistsError(
            f"{path} exists and is not overwritten. Choose another name, or say overwrite=True "
            "(--overwrite on the command line)."
        )
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a file to write to, which takes the name `path` once it is complete.

    Raises
    ------
    ModelFileError
        If it cannot be written.
    """
    try:
        with files.whole_file(path) as temporary:
            yield temporary
    except OSError as error:
        other = error.filename
        if isinstance(other, str) and Path(other).parent != path.parent:
            raise ModelFileError(
                f"{path}: It is not written, because {other} cannot be used "
                f"({error.strerror or error})."
            ) from error
        raise ModelFileError(
            f"{path}: It cannot be written ({error.strerror or error}). "
            "Check the folder, its permissions and the free space."
        ) from error


def check_finite(network: nn.Module, path: Path) -> None:
    """Raise ModelFileError if a weight is NaN or infinite."""
    for name, tensor in network.state_dict().items():
        if isinstance(tensor, Tensor) and not torch.isfinite(tensor).all():
            raise ModelFileError(
                f"{path}: {name} is NaN or infinite, so the model would be useless. "
                "Train with a lower learning rate, or save an earlier checkpoint."
            )
