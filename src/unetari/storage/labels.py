"""Label files out: TIFF, npy and OME-Zarr, complete or not at all.

A file is written under a temporary name beside its place and renamed once it
is complete, so that a failure or an interruption leaves nothing behind and an
older file stays as it was until the new one is there.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from unetari.core.axes import parse_axes
from unetari.errors import ImageFileError, OutputExistsError
from unetari.storage.omezarr import create_multiscale
from unetari.storage.raw import Layout

if TYPE_CHECKING:
    import zarr

STORED_ORDER = {".tif": "TZCYX", ".tiff": "TZCYX", ".zarr": "TCZYX"}
"""The order of axes that ImageJ and OME-Zarr prescribe; npy files take any."""

_BIG = 2**32 - 2**25
"""Largest classic TIFF, with room for its metadata."""
_IMAGEJ_DTYPES = ("uint8", "uint16", "float32")

Key: TypeAlias = slice | Sequence[slice]


@dataclass
class LabelFile:
    """An array on disk that takes slices; the axes are in the caller's order.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels.npy"
    >>> with create_labels(path, (4, 6), "uint8", axes="YX") as labels:
    ...     labels[0:2, 0:3] = 1
    >>> int(np.load(path).sum())
    6
    """

    path: Path
    """Where the file will be."""
    shape: tuple[int, ...]
    """Shape in the caller's order of axes."""
    dtype: np.dtype[Any]
    """Type of the values."""
    axes: str
    """One letter per axis, in the caller's order."""
    stored_axes: str
    """The same letters in the order in which the file stores them."""
    _store: Any

    def __setitem__(self, where: Key, values: ArrayLike) -> None:
        """Write `values` into the box `where`: one slice per axis; missing ones mean all."""
        boxes = self._complete(where)
        shape = tuple(
            len(range(*box.indices(size))) for box, size in zip(boxes, self.shape, strict=True)
        )
        block = np.broadcast_to(np.asarray(values, self.dtype), shape)
        try:
            self._store[tuple(boxes[i] for i in self._order)] = block.transpose(self._order)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def __getitem__(self, where: Key) -> NDArray[Any]:
        """Return a copy of the box `where`."""
        boxes = self._complete(where)
        block = np.array(self._store[tuple(boxes[i] for i in self._order)])
        return block.transpose(np.argsort(self._order))

    def close(self) -> None:
        """Let go of the file, which Windows does not rename while it is mapped."""
        self._store = None

    @property
    def _order(self) -> tuple[int, ...]:
        return tuple(self.axes.index(axis) for axis in self.stored_axes)

    def _complete(self, where: Key) -> tuple[slice, ...]:
        given = (where,) if isinstance(where, slice) else tuple(where)
        if len(given) > len(self.shape) or not all(isinstance(box, slice) for box in given):
            raise TypeError(f"{where!r}: give at most {len(self.shape)} slices, one per axis.")
        return given + (slice(None),) * (len(self.shape) - len(given))


@contextmanager
def create_labels(
    path: str | Path,
    shape: Sequence[int],
    dtype: DTypeLike,
    *,
    axes: str,
    voxel_size: Mapping[str, float] | None = None,
    unit: str = "",
    overwrite: bool = False,
) -> Iterator[LabelFile]:
    """Create a label file, filled with zeros, and complete it when the block ends.

    Parameters
    ----------
    path
        The suffix chooses the format: .tif and .tiff (ImageJ metadata where
        the type and size allow it, else OME), .ome.tif (OME), .npy (keeps
        neither axes nor voxel size), .zarr (an OME-Zarr 0.5 image with one
        level). TIFFs are zlib-compressed.
    shape
        Shape of the labels, one number per letter of `axes`.
    dtype
        Type of the labels, or float32 for scores.
    axes
        One letter per axis out of T, C, Z, Y, X, in any order. TIFFs store
        them in the order TZCYX and zarrs in the order TCZYX, as prescribed.
    voxel_size
        Size per spatial axis, such as {"Y": 0.325, "X": 0.325}.
    unit
        Unit of the voxel size: "micrometer", or "" if unknown.
    overwrite
        Replace an existing file.

    Yields
    ------
    LabelFile
        Takes values in slices: ``labels[10:20, 0:50] = block``.

    Raises
    ------
    OutputExistsError
        If the file exists and `overwrite` is not set.
    ImageFileError
        If the suffix is unknown or the folder cannot be written to.
    AxesError
        If `axes` does not suit `shape`.
    """
    path = check_output(path, overwrite=overwrite)
    axes = parse_axes(axes, tuple(shape))
    suffix = path.suffix.lower()
    order = STORED_ORDER.get(suffix, axes)
    if not set(axes) <= set("TCZYX"):
        raise ImageFileError(f"axes={axes!r}: label files take the axes T, C, Z, Y, X only.")
    stored = "".join(axis for axis in order if axis in axes)
    lengths = dict(zip(axes, shape, strict=True))
    sizes = {axis: size for axis, size in (voxel_size or {}).items() if axis in stored}
    layout = Layout(tuple(lengths[a] for a in stored), np.dtype(dtype), stored, sizes, unit)
    scratch = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part{suffix}")
    try:
        with _FORMATS[suffix](scratch, path.name, layout) as store:
            labels = LabelFile(path, tuple(shape), layout.dtype, axes, stored, store)
            del store
            try:
                yield labels
            finally:
                labels.close()
        _move_into_place(scratch, path, overwrite)
    finally:
        _remove(scratch)


def check_output(
    path: str | Path, *, inputs: Iterable[str | Path] = (), overwrite: bool = False
) -> Path:
    """Return `path` if a label file may be written there.

    Parameters
    ----------
    path
        The label file to be written.
    inputs
        Files that are read, and so must not be replaced, not even with
        `overwrite`.
    overwrite
        Whether an existing label file may be replaced.

    Raises
    ------
    OutputExistsError
        If the file exists and may not be replaced.
    ImageFileError
        If the suffix is unknown or the folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise ImageFileError(
            f"{path}: labels cannot be written as {path.suffix or 'a file without suffix'!r}. "
            f"Choose one of: {', '.join(_FORMATS)}."
        )
    for source in map(Path, inputs):
        if path.resolve() == source.resolve() or path.resolve() in source.resolve().parents:
            raise OutputExistsError(
                f"{path} is the input, or holds it, and is never overwritten. Choose another name."
            )
    if not path.parent.is_dir():
        raise ImageFileError(f"{path}: the folder {path.parent} does not exist. Create it first.")
    if path.exists():
        _check_replaceable(path, overwrite)
    return path


def _check_replaceable(path: Path, overwrite: bool) -> None:
    if not overwrite:
        raise OutputExistsError(
            f"{path} exists already. Choose another name, or allow overwriting it (--overwrite on "
            "the command line, overwrite=True in Python)."
        )
    is_zarr = any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))
    if path.is_dir() and not is_zarr:
        raise OutputExistsError(
            f"{path} is a folder that is no zarr, and is never replaced. Choose another name."
        )


@contextmanager
def _npy(path: Path, _name: str, layout: Layout) -> Iterator[NDArray[Any]]:
    needed = math.prod(layout.shape) * layout.dtype.itemsize
    try:
        free = shutil.disk_usage(path.parent).free
        # Writing to a memory map on a full disk ends the process, so look before.
        if needed > free:
            raise OSError(f"{needed:,} bytes are needed and {free:,} are free")
        array = np.lib.format.open_memmap(path, "w+", layout.dtype, layout.shape)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield array
        array.flush()
    finally:
        del array


@contextmanager
def _tiff(path: Path, name: str, layout: Layout) -> Iterator[NDArray[Any]]:
    # A compressed TIFF is written in one go: collect on disk first, then compress.
    collected = path.with_suffix(".npy")
    try:
        with _npy(collected, name, layout) as array:
            try:
                yield array
                _write_tiff(path, ".ome." in name.lower(), layout, array)
            finally:
                del array
    finally:
        _remove(collected)


def _write_tiff(path: Path, ome: bool, layout: Layout, array: NDArray[Any]) -> None:
    import tifffile

    imagej = not ome and layout.dtype.name in _IMAGEJ_DTYPES and array.nbytes < _BIG
    metadata = _imagej_metadata(layout) if imagej else _ome_metadata(layout)
    resolution = [1 / layout.voxel_size.get(axis, 1.0) for axis in "XY"]
    try:
        tifffile.imwrite(
            path,
            array,
            imagej=imagej,
            ome=not imagej,
            bigtiff=array.nbytes >= _BIG,
            compression="zlib",
            photometric="minisblack",
            resolution=(resolution[0], resolution[1]),
            metadata=metadata,
        )
    except OSError as error:
        raise _unwritable(path, error) from error


def _imagej_metadata(layout: Layout) -> dict[str, Any]:
    unit = "micron" if layout.unit == "micrometer" else "pixel"
    metadata = {"axes": layout.axes, "unit": unit}
    if "Z" in layout.voxel_size:
        return {**metadata, "spacing": layout.voxel_size["Z"]}
    return metadata


def _ome_metadata(layout: Layout) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": layout.axes}
    for axis, size in layout.voxel_size.items():
        metadata[f"PhysicalSize{axis}"] = size
        metadata[f"PhysicalSize{axis}Unit"] = "µm" if layout.unit == "micrometer" else "pixel"
    return metadata


@contextmanager
def _zarr(path: Path, name: str, layout: Layout) -> Iterator[zarr.Array[Any]]:
    try:
        array = create_multiscale(path, Path(name).stem, layout)
    except OSError as error:
        raise _unwritable(path, error) from error
    yield array


_FORMATS: dict[str, Callable[[Path, str, Layout], Any]] = {
    ".tif": _tiff,
    ".tiff": _tiff,
    ".npy": _npy,
    ".zarr": _zarr,
}


def _move_into_place(scratch: Path, path: Path, overwrite: bool) -> None:
    if path.exists():
        # Somebody may have written here while the labels were computed.
        _check_replaceable(path, overwrite)
    if not (path.is_dir() or scratch.is_dir()):
        scratch.replace(path)
        return
    # A folder cannot be replaced in one step: move the old one aside first.
    old = scratch.with_suffix(".old")
    if path.exists():
        path.rename(old)
    scratch.rename(path)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> ImageFileError:
    return ImageFileError(
        f"Cannot write in {path.parent}: {error.strerror or error}. "
        "Check the free space and the rights of the folder, or choose another one."
    )
