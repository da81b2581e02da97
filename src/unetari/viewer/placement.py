"""Where a result lies: exactly on its image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.transforms import Affine, CompositeAffine
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Image


@dataclass(frozen=True)
class Placement:
    """How a result's axes relate to those of the image layer, and their transform."""

    transform: CompositeAffine
    """Scale, rotation, shear and translation of the result."""
    affine: Affine
    """The extra affine of the image, for the axes that are kept."""
    channel_axis: int | None
    """Where the result has a singleton in place of the image's channels."""

    @property
    def ndim(self) -> int:
        """Number of axes of the result layer."""
        return int(self.transform.ndim)

    def with_channel(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of an array over the label axes that has the layer's axes."""
        if self.channel_axis is None:
            return array
        return np.expand_dims(array, self.channel_axis)

    def to_layer(self, where: Sequence[slice]) -> tuple[slice, ...]:
        """Turn a box over the label axes into one over the layer's axes."""
        box = list(where)
        if self.channel_axis is not None:
            box.insert(self.channel_axis, slice(0, 1))
        return tuple(box)

    def with_leading_axis(self, label: str) -> Placement:
        """Return the placement of an array with one more axis in front."""
        transform = self.transform.expand_dims([0])
        # expand_dims resets these two.
        transform.units = ("pixel", *self.transform.units)
        transform.axis_labels = (label, *self.transform.axis_labels)
        channel = None if self.channel_axis is None else self.channel_axis + 1
        return Placement(transform, self.affine.expand_dims([0]), channel)

    def layer_options(self) -> dict[str, Any]:
        """Return the arguments that place a layer."""
        transform = self.transform
        return {
            "scale": transform.scale,
            "translate": transform.translate,
            "rotate": transform.rotate,
            "shear": transform.shear,
            "affine": self.affine.affine_matrix,
            "units": transform.units,
            "axis_labels": transform.axis_labels,
        }


def place(layer: Image, axes: str, region: Sequence[slice]) -> Placement:
    """Place the result for a region of an image.

    Channels have no counterpart in the result. As the layer's first axis they
    are dropped, for napari aligns layers at their last axes. Elsewhere a single
    plane stays in their place, stretched so that it shows on every channel.

    Parameters
    ----------
    layer : napari.layers.Image
        The image; it is not changed.
    axes : str
        One letter per axis of the layer's data.
    region : sequence of slice
        One per label axis (the axes less C and S).

    Returns
    -------
    Placement
    """
    letters = axes.replace("S", "")
    image = CompositeAffine(
        layer.scale,
        layer.translate,
        rotate=layer.rotate,
        shear=layer.shear,
        ndim=layer.ndim,
        units=layer.units,
        axis_labels=layer.axis_labels,
    )
    starts = iter(part.start for part in region)
    # In voxels of the image; the transform turns it into a translation.
    offset = np.array([0.0 if letter == "C" else next(starts) for letter in letters])
    channel = letters.find("C")
    if channel > 0:
        offset[channel] = (layer.data.shape[channel] - 1) / 2
    scale = image.scale.copy()
    translate = image(offset)
    if channel > 0:
        scale[channel] *= layer.data.shape[channel]
    image.scale, image.translate = scale, translate
    if channel == 0:
        kept = list(range(1, layer.ndim))
        return Placement(image.set_slice(kept), layer.affine.set_slice(kept), None)
    return Placement(image, layer.affine, channel if channel > 0 else None)
