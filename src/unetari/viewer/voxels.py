"""Voxel sizes: what an image layer says, and whether it suits a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.layers import Image

    from unetari.core.spec import ModelSpec

_TOLERANCE = 1.6
"""Factor between the voxel sizes of model and image that is not worth a word."""


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


def compare_voxel_sizes(layer: Image, axes: str, spec: ModelSpec) -> str:
    """Say if a model was trained on voxels of a quite different size; empty if not, or unknown.

    Parameters
    ----------
    layer, axes
        As in `voxel_size`.
    spec : ModelSpec
        The model's card.
    """
    sizes = voxel_size(layer, axes)
    trained = dict(zip("ZYX"[-spec.config.dim :], spec.voxel_size, strict=False))
    for letter in "XYZ":
        if not (letter in sizes and letter in trained):
            continue
        ratio = sizes[letter] / trained[letter]
        if max(ratio, 1 / ratio) > _TOLERANCE:
            seen = f"{ratio:.2g} times smaller" if ratio > 1 else f"{1 / ratio:.2g} times larger"
            return (
                f"{letter}: the model was trained at {trained[letter]:.3g} µm per voxel, and this "
                f"image has {sizes[letter]:.3g} µm, so everything looks {seen} to it. Rescale the "
                "image if the result is poor."
            )
    return ""
