"""Voxel sizes that image layers state."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.layers import Image


def voxel_size(layer: Image, axes: str) -> dict[str, float]:
    """Return the size of a voxel in micrometre, by letter; axes without a length unit are left out.

    Parameters
    ----------
    layer : napari.layers.Image
        Its scale and units are read.
    axes : str
        One letter per axis of the layer's data.
    """
    sizes = {}
    for letter, scale, unit in zip(axes, layer.scale, layer.units, strict=False):
        if letter in "ZYX" and unit.is_compatible_with("micrometer"):
            sizes[letter] = float((abs(float(scale)) * unit).to("micrometer").magnitude)
    return sizes
