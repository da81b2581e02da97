"""From what the viewer shows to the part of an image that is predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from unetari.errors import ShapeError
from unetari.viewer.layers import layer_data

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

RegionKind = Literal["whole", "slice", "visible"]
_FLAT = 1e-9


def region_slices(
    viewer: ViewerModel, layer: Image, axes: str, kind: RegionKind
) -> tuple[slice, ...]:
    """Return the part of a layer that a prediction is asked for.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Its sliders say which position is shown.
    layer : napari.layers.Image
        The image; scale, rotation, shear, affine and units are taken into account.
    axes : str
        One letter per axis of the layer's data, as in `ImageSource.axes`.
    kind : {"whole", "slice", "visible"}
        Everything; the shown position on every axis that has a slider; or, of
        that, only what lies inside the canvas. A 3D view shows all of its three axes.

    Returns
    -------
    tuple of slice
        One per label axis (the axes less C and S), in voxels of the full resolution.

    Raises
    ------
    ShapeError
        If the viewer shows no part of the layer.
    """
    if kind == "whole":
        spans = [slice(0, size) for size in layer_data(layer).shape[: layer.ndim]]
    elif kind == "slice":
        spans = _slice_spans(viewer, layer)
    else:
        spans = _visible_spans(viewer, layer)
    letters = axes.replace("S", "")
    return tuple(span for letter, span in zip(letters, spans, strict=True) if letter != "C")


def displayed_axes(viewer: ViewerModel, layer: Layer) -> list[int]:
    """Return the layer's axes that lie in the canvas; a layer is aligned at its last axes."""
    missing = viewer.dims.ndim - layer.ndim
    return sorted(axis - missing for axis in viewer.dims.displayed if axis >= missing)


def shown_position(viewer: ViewerModel, layer: Layer) -> NDArray[np.int64]:
    """Return the voxel index that the sliders point at, per axis of the layer.

    Only the axes that have a slider mean anything. The index may lie outside the data.
    """
    point = np.array(viewer.dims.point[-layer.ndim :], dtype=float) * _unit_factors(viewer, layer)
    # As napari slices: shear or rotation between a slider's axis and the canvas is left out.
    point[displayed_axes(viewer, layer)] = 0
    return np.asarray(np.rint(layer.world_to_data(point)), np.int64)


def is_shown(viewer: ViewerModel, layer: Layer, where: Sequence[slice]) -> bool:
    """Whether the shown position crosses the box `where`, one slice per axis of the layer."""
    position = shown_position(viewer, layer)
    hidden = set(range(layer.ndim)) - set(displayed_axes(viewer, layer))
    return all(where[axis].start <= position[axis] < where[axis].stop for axis in hidden)


def _unit_factors(viewer: ViewerModel, layer: Layer) -> NDArray[np.float64]:
    """Factors from the viewer's units to the layer's, which may differ (nm and um)."""
    world = viewer.dims.units
    if world is None or len(world) < layer.ndim:
        return np.ones(layer.ndim)
    pairs = zip(world[-layer.ndim :], layer.units, strict=True)
    return np.array(
        [
            (1 * shown).to(own).magnitude if shown.is_compatible_with(own) else 1.0
            for shown, own in pairs
        ]
    )


def _slice_spans(viewer: ViewerModel, layer: Image) -> list[slice]:
    sizes = layer_data(layer).shape[: layer.ndim]
    displayed = displayed_axes(viewer, layer)
    position = shown_position(viewer, layer)
    spans = []
    for axis, size in enumerate(sizes):
        if axis in displayed:
            spans.append(slice(0, size))
            continue
        index = int(position[axis])
        if not 0 <= index < size:
            raise ShapeError(
                f"The viewer shows position {index} on axis {layer.axis_labels[axis]!r}, and "
                f"{layer.name!r} has positions 0 to {size - 1} there. Move the slider to a "
                "position where the image is visible, or predict the whole image."
            )
        spans.append(slice(index, index + 1))
    return spans


def _visible_spans(viewer: ViewerModel, layer: Image) -> list[slice]:
    spans = _slice_spans(viewer, layer)
    if viewer.dims.ndisplay == 3:
        return spans
    for axis, (low, high) in _visible_box(viewer, layer).items():
        # Voxel i reaches from i - 0.5 to i + 0.5.
        start = max(0, math.floor(low + 0.5))
        stop = min(spans[axis].stop, math.ceil(high + 0.5))
        if start >= stop:
            raise ShapeError(
                f"No part of {layer.name!r} is inside the canvas. Move or zoom the view until the "
                "image is visible (View > Reset View), or predict the whole image."
            )
        spans[axis] = slice(start, stop)
    return spans


def _visible_box(viewer: ViewerModel, layer: Image) -> dict[int, tuple[float, float]]:
    """Return what the canvas spans, in voxels, per displayed axis of the layer.

    From the camera, for `layer.corner_pixels` holds more than is visible once a
    multiscale image has been zoomed, and the last state after it has left the canvas.
    """
    camera = viewer.scene.camera
    missing = viewer.dims.ndim - layer.ndim
    pairs = [
        (axis - missing, place)
        for place, axis in enumerate(viewer.dims.displayed)
        if axis >= missing
    ]
    if not pairs:
        raise _edge_on(layer)
    axes, places = (list(column) for column in zip(*pairs, strict=True))
    centre = np.array(camera.center[-2:])[places]
    half = np.array(viewer.canvas.size, dtype=float)[places] / camera.zoom / 2
    signs = np.array(list(product((-1, 1), repeat=len(axes))))
    corners = (centre + signs * half) * _unit_factors(viewer, layer)[axes]
    origin = np.array(layer.data_to_world(np.zeros(layer.ndim)))
    steps = np.array([layer.data_to_world(step) for step in np.eye(layer.ndim)]) - origin
    # As napari draws: what couples displayed axes with others is left out.
    matrix = steps.T[np.ix_(axes, axes)]
    # Relative to the steps, for a voxel may be tiny, and a turn by 90 degrees leaves rounding.
    if abs(np.linalg.det(matrix)) < _FLAT * np.prod(np.linalg.norm(steps[axes], axis=1)):
        raise _edge_on(layer)
    data = np.linalg.solve(matrix, (corners - origin[axes]).T)
    return {
        axis: (float(row.min()), float(row.max())) for axis, row in zip(axes, data, strict=True)
    }


def _edge_on(layer: Image) -> ShapeError:
    return ShapeError(
        f"{layer.name!r} is seen edge on, so no area of it is inside the canvas. Change the order "
        "of the axes or the layer's rotation, or predict the whole image."
    )
