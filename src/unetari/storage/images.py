"""Image files in: TIFF, PNG, JPEG, npy, zarr and OME-Zarr.

Large files stay on disk: npy files and uncompressed TIFFs are memory-mapped,
zarr arrays are read as they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unetari.core.axes import guess_axes, parse_axes
from unetari.core.dtypes import check_dtype
from unetari.core.source import ImageSource
from unetari.errors import ImageFileError
from unetari.storage.omezarr import read_zarr
from unetari.storage.raw import RawImage, damaged
from unetari.storage.tiff import read_tiff
from unetari.storage.units import to_micrometers

SPACE = "ZYX"


@dataclass(frozen=True)
class ImageFile:
    """An opened image: where its voxels are and what its axes mean."""

    path: Path
    """The file or folder."""
    data: Any
    """Array-like with shape, dtype and slicing; a memory map or zarr array where possible."""
    axes: str
    """One letter per axis of `data`: T, C, Z, Y, X, and S for RGB samples."""
    voxel_size: dict[str, float] = field(default_factory=dict)
    """Size per spatial axis, such as {"Y": 0.325, "X": 0.325}; unknown ones are left out."""
    unit: str = ""
    """"micrometer", or "" if the file does not name a unit of length."""
    notes: tuple[str, ...] = ()
    """What was assumed or left out, one sentence each."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, one number per letter of `axes`."""
        return tuple(self.data.shape)

    def source(self, channel: int | None = None, grey: bool = False) -> ImageSource:
        """Return the image as what a network reads.

        Parameters
        ----------
        channel
            Use this channel only.
        grey
            Convert RGB to one channel.

        Raises
        ------
        AxesError
            If the image has no such channel, or no RGB samples to convert.
        """
        return ImageSource(self.data, self.axes, channel=channel, grey=grey)


def open_image(path: str | Path, axes: str | None = None) -> ImageFile:
    """Open an image file without reading more of it than needed.

    Parameters
    ----------
    path
        A TIFF (plain, OME or ImageJ), PNG, JPEG or npy file, a zarr array, or
        an OME-Zarr image of version 0.4 or 0.5 (its full-resolution level).
    axes
        One letter per axis, such as "ZYX", where the file does not say what
        its axes are or says it wrongly: T time, C channel, Z Y X space, S
        samples of an RGB image. Default: as in the file's metadata, else
        guessed from the shape. OME and ImageJ TIFFs have all of T, Z and C;
        those of one voxel are left out unless they are given here.

    Raises
    ------
    ImageFileError
        If the file is missing, damaged, or of an unknown kind.
    AxesError
        If `axes` does not suit the array.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "image.npy", np.zeros((40, 50), "uint16"))
    >>> image = open_image(folder / "image.npy")
    >>> image.axes, image.shape, image.voxel_size
    ('YX', (40, 50), {})
    """
    path = Path(path)
    raw = _reader(path)(path)
    _check_array(raw.data, path)
    file_axes, notes = _settle_axes(raw)
    sizes, unit = to_micrometers(raw.voxel_size, raw.unit)
    if axes is None:
        return ImageFile(path, raw.data, file_axes, _known(sizes, file_axes), unit, notes)
    data, file_axes = _with_single(raw, file_axes, axes)
    given = parse_axes(axes, data.shape)
    return ImageFile(path, data, given, _moved(sizes, file_axes, given), unit, raw.notes)


def _reader(path: Path) -> Callable[[Path], RawImage]:
    if not path.exists():
        raise ImageFileError(f"{path} does not exist. Check the path for a typing error.")
    if path.is_dir():
        return read_zarr
    if not path.is_file():  # opening a pipe would wait for somebody to write into it
        raise ImageFileError(
            f"{path} is a device, pipe or socket, not a file. Save the image to a file first."
        )
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ImageFileError(
            f"{path}: unknown kind of image {path.suffix or 'without suffix'!r}. "
            f"Readable are {', '.join(READERS)} files and zarr folders."
        )
    return reader


def _read_picture(path: Path) -> RawImage:
    import imageio.v3 as iio

    try:
        data = iio.imread(path.read_bytes(), plugin="pillow", index=0)
    # Pillow raises SyntaxError for broken PNGs, and a bare Exception for pictures too large.
    except Exception as error:
        raise damaged(path, error) from error
    if data.dtype == bool:
        data = data.astype(np.uint8)
    if data.ndim == 3 and data.shape[-1] == 2:
        return RawImage(data[..., 0], "YX", notes=("The transparency channel is left out.",))
    return RawImage(data, "YXS" if data.ndim == 3 else "YX", rgb=data.ndim == 3)


def _read_npy(path: Path) -> RawImage:
    try:
        with path.open("rb") as stream:
            # numpy takes anything else for a pickle and says so, which misleads.
            np.lib.format.read_magic(stream)
        return RawImage(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        if "Python objects" in str(error):
            raise ImageFileError(
                f"{path} holds pickled Python objects, which could run code when opened, and no "
                "plain numbers. Save the image as a numeric array: np.save(path, image)."
            ) from error
        raise damaged(path, error) from error


READERS: dict[str, Callable[[Path], RawImage]] = {
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".png": _read_picture,
    ".jpg": _read_picture,
    ".jpeg": _read_picture,
    ".npy": _read_npy,
}
"""Readers of files by suffix; a folder is read as zarr."""


def _check_array(data: Any, path: Path) -> None:
    try:
        check_dtype(data.dtype)
    except ImageFileError as error:
        raise ImageFileError(f"{path}: {error}") from error
    if data.ndim < 2 or 0 in data.shape:
        raise ImageFileError(
            f"{path} has the shape {tuple(data.shape)}. An image needs at least two axes, "
            "none of them empty."
        )


def _settle_axes(raw: RawImage) -> tuple[str, tuple[str, ...]]:
    if raw.axes:
        return parse_axes(raw.axes, raw.data.shape), raw.notes
    guess = guess_axes(raw.data.shape, rgb=raw.rgb)
    return guess.axes, raw.notes if guess.sure else (*raw.notes, guess.reason)


def _with_single(raw: RawImage, file_axes: str, wanted: str) -> tuple[Any, str]:
    """Return data and axes with those axes of one voxel that the user asks for."""
    extra = {axis: at for at, axis in enumerate(wanted.upper()) if axis in raw.single}
    if len(wanted) - len(extra) != raw.data.ndim:
        return raw.data, file_axes
    letters = list(file_axes)
    for axis, at in extra.items():
        letters.insert(at, axis)
    return np.expand_dims(raw.data, tuple(extra.values())), "".join(letters)


def _known(sizes: dict[str, float], axes: str) -> dict[str, float]:
    return {axis: sizes[axis] for axis in axes if axis in SPACE and axis in sizes}


def _moved(sizes: dict[str, float], old: str, new: str) -> dict[str, float]:
    """Keep voxel sizes with their array axes when the letters are given anew."""
    moved = {}
    for before, after in zip(old, new, strict=True):
        origin = before if before in SPACE else after
        if after in SPACE and origin in sizes:
            moved[after] = sizes[origin]
    return moved
