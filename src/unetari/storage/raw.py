"""What readers of all formats hand on, and writers of all formats get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from unetari.errors import ImageFileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np


class RawImage(NamedTuple):
    """What a reader found in a file, before axes and units are settled."""

    data: Any
    """Array-like: numpy array, memory map or zarr array."""
    axes: str = ""
    """One letter per axis as the file says, or "" if it does not say."""
    rgb: bool = False
    """Whether the last axis holds the samples of an RGB image."""
    voxel_size: dict[str, float] = {}  # noqa: RUF012 - never changed, and a NamedTuple has no factories
    """Size per spatial axis, in `unit`."""
    unit: str = ""
    """Unit of length as the file spells it."""
    notes: tuple[str, ...] = ()
    """What the user should know, one sentence each."""
    single: str = ""
    """Axes of one voxel that the kind of file always has, and that `data` leaves out."""


class Layout(NamedTuple):
    """What a file says about its array: sizes and meaning of its axes, in stored order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    voxel_size: Mapping[str, float]
    unit: str


def damaged(path: Path, error: BaseException | str) -> ImageFileError:
    """Return the error for a file that cannot be read, with the reader's reason."""
    return ImageFileError(
        f"{path} cannot be read: {error or type(error).__name__}. The file is damaged, incomplete, "
        "or not what its name says; copy or export it again."
    )
