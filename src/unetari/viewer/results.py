"""From a prediction to layers, exactly in place and always new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from unetari.model.overlay import label_color
from unetari.viewer.placement import place

if TYPE_CHECKING:
    import pandas as pd
    from napari.components import ViewerModel

    from unetari.inference.job import Job
    from unetari.inference.record import RunRecord

RECORD_KEY = "unetari"
"""Key of the run's record in a layer's metadata."""

_UNKNOWN = "#BBBBBB"


def class_colors(n_classes: int) -> dict[int | None, str | tuple[float, ...]]:
    """Return one colour per label, background transparent.

    The key None, in grey, is for labels that the user may paint beyond the classes.
    """
    colors: dict[int | None, str | tuple[float, ...]] = {None: _UNKNOWN, 0: "transparent"}
    for label in range(1, n_classes):
        colors[label] = (*label_color(label), 1.0)
    return colors


class _ClassColormap(DirectLabelColormap):  # type: ignore[misc]
    """Colours of classes, mixed without numba.

    Where numba is installed, napari compiles a dictionary for it at the first layer of labels,
    and the window stands still for a second, to look up 256 colours.
    """

    def _map_without_cache(self, values: NDArray[Any]) -> NDArray[np.float32]:
        colors = [self.color_dict.get(int(label), self.default_color) for label in values.flat]
        return np.array(colors, np.float32).reshape(*values.shape, 4)


def class_table(names: tuple[str, ...]) -> pd.DataFrame:
    """Return the features that make napari show "1; class: nucleus" in its status bar."""
    import pandas as pd

    return pd.DataFrame({"index": np.arange(len(names)), "class": list(names)})


def add_labels(
    viewer: ViewerModel, layer: Image, job: Job, labels: NDArray[np.unsignedinteger[Any]]
) -> Labels:
    """Show labels in a new layer, exactly on their image.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Gets one more layer; no other layer is touched.
    layer : napari.layers.Image
        The image that the labels belong to.
    job : Job
        The prediction: axes, region, class names, record.
    labels : ndarray of uint8 (uint16 beyond 256 classes)
        Shape `job.labels_shape`. The layer shows this very array: what is
        written to it appears at the next refresh.

    Returns
    -------
    napari.layers.Labels
    """
    placement = place(layer, job.source.axes, job.region)
    names = job.model.spec.labels
    result = Labels(
        placement.with_channel(labels),
        name=f"{layer.name} {job.model.spec.name or 'labels'}",
        colormap=_ClassColormap(color_dict=class_colors(len(names))),
        opacity=0.6,
        metadata={RECORD_KEY: job.record().model_dump(mode="json")},
        **placement.layer_options(),
    )
    viewer.add_layer(result)
    # Only now: adding a layer selects it, and in the 3D view napari 0.9 then looks up the
    # features under a pointer that may never have been over the canvas, and fails.
    result.features = class_table(names)
    return result


def add_scores(viewer: ViewerModel, layer: Image, job: Job, scores: NDArray[np.float32]) -> Image:
    """Show probabilities in a new, hidden image layer with the classes as its first axis.

    Parameters
    ----------
    viewer, layer, job
        As in `add_labels`.
    scores : ndarray of float32
        Shape `job.scores_shape`, (classes, ...).

    Returns
    -------
    napari.layers.Image
    """
    placement = place(layer, job.source.axes, job.region).with_leading_axis("class")
    result = Image(
        placement.with_channel(scores),
        name=f"{layer.name} {job.model.spec.name or 'labels'} scores",
        colormap="magma",
        blending="additive",
        contrast_limits=(0, 1),
        visible=False,
        metadata={RECORD_KEY: job.record().model_dump(mode="json")},
        **placement.layer_options(),
    )
    viewer.add_layer(result)
    return result


def write_record(layer: Labels | Image, record: RunRecord) -> None:
    """Put the record of a finished or cancelled run into a result layer's metadata."""
    layer.metadata = {**layer.metadata, RECORD_KEY: record.model_dump(mode="json")}
