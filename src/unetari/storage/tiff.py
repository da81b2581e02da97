"""TIFF files: OME, ImageJ, and plain ones."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unetari.core.axes import LETTERS
from unetari.errors import ImageFileError
from unetari.storage.raw import RawImage, damaged
from unetari.storage.units import axes_to_micrometers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from tifffile import TiffFile, TiffPageSeries

_CENTIMETER = 3


def read_tiff(path: Path) -> RawImage:
    """Open the first series of a TIFF, memory-mapped where it is stored in one piece."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tif:
            if not tif.series:
                raise damaged(path, "it contains no image")
            series = tif.series[0]
            _check_complete(path, tif, series)
            data = _load(path, series)
            axes, data = _samples_last(series.axes, data)
            sizes, unit = _voxel_size(tif)
            notes = _notes(tif)
            single = "".join(axis for axis in series.get_axes(squeeze=False) if axis not in axes)
    except ImageFileError:
        raise
    # Each decoder has errors of its own for damaged data, such as zlib.error.
    except Exception as error:
        if "imagecodecs" in str(error):
            raise ImageFileError(
                f"{path} is compressed in a way that needs one more package: {error}. "
                "Install it with: pip install imagecodecs"
            ) from error
        raise damaged(path, error) from error
    return RawImage(data, axes, axes.endswith("S"), sizes, unit, notes, single)


def _load(path: Path, series: TiffPageSeries) -> NDArray[Any]:
    import tifffile

    # Memory maps work where the pixels lie in the file as they are, in one piece.
    if series.dataoffset is not None:
        return tifffile.memmap(path, series=0, mode="r")
    return series.asarray()


def _check_complete(path: Path, tif: TiffFile, series: TiffPageSeries) -> None:
    size = tif.filehandle.size
    end = 0 if series.dataoffset is None else series.dataoffset + series.nbytes
    for page in series.pages:
        if page is None:
            raise damaged(path, "some of its planes are missing")
        ends = (o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False))
        end = max(end, *ends, 0)
    if end > size:
        raise damaged(path, f"it ends after {size} of at least {end} bytes")
    if not _chain_ends(tif):
        raise damaged(path, f"it breaks off after plane {len(tif.pages)}")


def _chain_ends(tif: TiffFile) -> bool:
    """Whether the last page that can be read says that it is the last."""
    # tifffile only logs a broken chain of pages and goes on with those before the break.
    len(tif.pages)
    position = tif.pages.next_page_offset
    if position is None or position + tif.tiff.offsetsize > tif.filehandle.size:
        return False
    tif.filehandle.seek(position)
    (following,) = struct.unpack(tif.tiff.offsetformat, tif.filehandle.read(tif.tiff.offsetsize))
    return bool(following == 0)


def _samples_last(axes: str, data: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """Return axes in our letters, or "" where the file does not name them."""
    if "S" in axes and data.shape[axes.index("S")] not in (3, 4):
        # Two samples, or more than four, are no RGB image.
        axes = axes.replace("S", "C" if "C" not in axes else "Q")
    if "S" in axes and not axes.endswith("S"):
        data = np.moveaxis(data, axes.index("S"), -1)
        axes = axes.replace("S", "") + "S"
    if "C" in axes and "S" in axes and data.shape[axes.index("C")] == 1:
        data = np.squeeze(data, axes.index("C"))
        axes = axes.replace("C", "")
    known = set(axes) <= set(LETTERS) and len(set(axes)) == len(axes) and {"Y", "X"} <= set(axes)
    return (axes if known else ""), data


def _notes(tif: TiffFile) -> tuple[str, ...]:
    count = len(tif.series)
    if count == 1:
        return ()
    return (f"The file holds {count} images; the first one is used.",)


def _voxel_size(tif: TiffFile) -> tuple[dict[str, float], str]:
    if tif.is_ome and tif.ome_metadata:
        return _ome_voxel_size(tif.ome_metadata)
    if tif.is_imagej and tif.imagej_metadata is not None:
        metadata = tif.imagej_metadata
        sizes = {**_resolution(tif), "Z": _number(metadata.get("spacing"))}
        return {a: s for a, s in sizes.items() if s}, str(metadata.get("unit") or "")
    if tif.pages.first.tags.valueof("ResolutionUnit") == _CENTIMETER:
        return _resolution(tif), "cm"
    # Dots per inch are a printer's or a screen's resolution, not the microscope's.
    return {}, ""


def _ome_voxel_size(xml: str) -> tuple[dict[str, float], str]:
    from tifffile import xml2dict

    image = xml2dict(xml)["OME"].get("Image", {})
    first: Mapping[str, Any] = image[0] if isinstance(image, list) else image
    pixels = first.get("Pixels", {})
    sizes = {axis: _number(pixels.get(f"PhysicalSize{axis}")) for axis in "ZYX"}
    units = {axis: str(pixels.get(f"PhysicalSize{axis}Unit", "um")) for axis in "ZYX"}
    return axes_to_micrometers({a: s for a, s in sizes.items() if s}, units)


def _resolution(tif: TiffFile) -> dict[str, float]:
    tags = tif.pages.first.tags
    sizes = {}
    for axis in "YX":
        per_pixel = tags.valueof(f"{axis}Resolution")
        if isinstance(per_pixel, tuple) and len(per_pixel) == 2 and per_pixel[0]:
            sizes[axis] = per_pixel[1] / per_pixel[0]
    return sizes


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
