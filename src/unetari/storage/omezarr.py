"""Zarr arrays, and OME-Zarr images of versions 0.4 and 0.5 (and older ones)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetari.errors import ImageFileError
from unetari.storage.raw import Layout, RawImage, damaged
from unetari.storage.units import axes_to_micrometers

if TYPE_CHECKING:
    import zarr

_LETTERS = {
    **{letter.lower(): letter for letter in "TCZYXS"},
    "time": "T",
    "channel": "C",
    "channels": "C",
    "rgb": "S",
}
_CHUNK = {"Z": 32, "Y": 512, "X": 512}
"""Chunk size per axis, 1 for the others: a plane is read without the whole volume."""
_BEFORE_AXES = "TCZYX"
"""The axes of OME-Zarr 0.1 and 0.2, which do not name them."""


def read_zarr(path: Path) -> RawImage:
    """Open a zarr array, or the full-resolution level of an OME-Zarr image."""
    import zarr

    node = _open(path)
    if isinstance(node, zarr.Array):
        return _read_array(node)
    multiscales = _multiscales(node)
    if multiscales:
        return _read_multiscale(path, node, multiscales)
    return _read_first_series(path, node)


def _open(path: Path) -> zarr.Array[Any] | zarr.Group:
    import zarr

    try:
        return zarr.open(path, mode="r")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup")):
            raise damaged(path, error) from error
        raise ImageFileError(
            f"{path} is a folder without zarr metadata. Give an image file, or the folder that "
            "holds zarr.json, .zarray or .zgroup."
        ) from error


def _multiscales(group: zarr.Group) -> Sequence[Mapping[str, Any]]:
    attributes: dict[str, Any] = group.attrs.asdict()
    ome = attributes.get("ome")
    found = (ome if isinstance(ome, Mapping) else attributes).get("multiscales")
    return found if isinstance(found, list) else ()


def _read_array(array: zarr.Array[Any]) -> RawImage:
    """Axes as one string or list in the attributes, or zarr's dimension names."""
    attributes = array.attrs.asdict()
    names = getattr(array.metadata, "dimension_names", None)
    axes = _letters(attributes.get("axes") or attributes.get("_ARRAY_DIMENSIONS") or names or ())
    if len(axes) != array.ndim:
        return RawImage(array)
    scale = attributes.get("scale")
    sizes = _sizes(axes, scale) if isinstance(scale, Sequence) else {}
    return RawImage(array, axes, "S" in axes, sizes, str(attributes.get("unit", "")))


def _read_multiscale(
    path: Path, group: zarr.Group, multiscales: Sequence[Mapping[str, Any]]
) -> RawImage:
    import zarr

    first = multiscales[0]
    try:
        level = first["datasets"][0]
        array = group[level["path"]]
    except (KeyError, IndexError, TypeError) as error:
        raise damaged(path, f"its full-resolution level is missing ({error})") from error
    if not isinstance(array, zarr.Array):
        raise damaged(path, f"its full-resolution level {level['path']!r} is no array")
    entries = first.get("axes") or _BEFORE_AXES[-array.ndim :]
    axes = _letters(entries)
    if len(axes) != array.ndim:
        return RawImage(array)
    scale = [
        level_scale * whole_scale
        for level_scale, whole_scale in zip(
            _scale(level, array.ndim), _scale(first, array.ndim), strict=True
        )
    ]
    sizes, unit = axes_to_micrometers(_sizes(axes, scale), _units(entries))
    return RawImage(array, axes, "S" in axes, sizes, unit)


def _read_first_series(path: Path, group: zarr.Group) -> RawImage:
    """Read the first image of a bioformats2raw collection, or say what the group holds."""
    import zarr

    members = sorted(group.keys())
    if "0" in members and isinstance(series := group["0"], zarr.Group) and _multiscales(series):
        raw = _read_multiscale(path / "0", series, _multiscales(series))
        return raw._replace(notes=("The first image of the collection (0) is used.",))
    listed = ", ".join(str(path / name) for name in members[:4]) or "nothing"
    raise ImageFileError(
        f"{path} is a zarr group without an OME-Zarr image (no multiscales). It holds {listed}. "
        "Give the path of one array or image inside it."
    )


def _letters(entries: Any) -> str:
    """Turn axis entries (letters, names, OME-Zarr axes) into our letters, "" if they are not."""
    if isinstance(entries, str):
        entries = list(entries)
    names = [e.get("name", "") if isinstance(e, Mapping) else e for e in entries]
    letters = [_LETTERS.get(str(name).lower(), "") for name in names]
    return "".join(letters) if all(letters) and len(set(letters)) == len(letters) else ""


def _sizes(axes: str, scale: Sequence[Any]) -> dict[str, float]:
    if len(scale) != len(axes):
        return {}
    return {axis: float(size) for axis, size in zip(axes, scale, strict=True) if axis in "ZYX"}


def _scale(entry: Mapping[str, Any], ndim: int) -> list[float]:
    """Return the scale among the coordinate transformations, one number per axis."""
    for transformation in entry.get("coordinateTransformations", ()):
        scale = transformation.get("scale")
        if transformation.get("type") == "scale" and len(scale or ()) == ndim:
            return [float(size) for size in scale]
    return [1.0] * ndim


def _units(entries: Any) -> dict[str, str]:
    return {
        _letters([entry]): str(entry.get("unit", ""))
        for entry in entries
        if isinstance(entry, Mapping)
    }


def create_multiscale(path: Path, name: str, layout: Layout) -> zarr.Array[Any]:
    """Create an OME-Zarr 0.5 image with one level of zeros, and return that level."""
    import zarr

    group = zarr.open_group(path, mode="w-", zarr_format=3)
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [_axis_entry(axis, layout.unit) for axis in layout.axes],
                "datasets": [{"path": "0", "coordinateTransformations": [_scale_entry(layout)]}],
            }
        ],
    }
    return group.create_array(
        "0",
        shape=layout.shape,
        dtype=layout.dtype,
        chunks=tuple(
            min(size, _CHUNK.get(axis, 1))
            for axis, size in zip(layout.axes, layout.shape, strict=True)
        ),
        dimension_names=tuple(layout.axes.lower()),
    )


def _axis_entry(axis: str, unit: str) -> dict[str, str]:
    kind = {"T": "time", "C": "channel"}.get(axis, "space")
    entry = {"name": axis.lower(), "type": kind}
    return {**entry, "unit": unit} if kind == "space" and unit else entry


def _scale_entry(layout: Layout) -> dict[str, Any]:
    return {"type": "scale", "scale": [layout.voxel_size.get(axis, 1.0) for axis in layout.axes]}
