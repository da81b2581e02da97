"""`LayerChoice`: a choice among the viewer's Image layers that follows the layer list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image
from qtpy.QtCore import QObject, Signal

from unetari.viewer.results import RECORD_KEY
from unetari.widgets.fields import choice, offer

if TYPE_CHECKING:
    from napari.components import ViewerModel

_HELP = "The image that is segmented"
_EVENTS = ("inserted", "removed", "reordered", "renamed")


class LayerChoice(QObject):
    """Keeps the chosen layer when layers are added, removed, moved or renamed.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Its layers are offered in `field`.
    parent : QObject, optional
        The owner.
    """

    layer_changed = Signal()
    """Emitted when another layer, or none, is chosen."""

    def __init__(self, viewer: ViewerModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.field = choice({}, label="Layer", tooltip=_HELP)
        self.field.native.setPlaceholderText("no image open")
        self._layers = viewer.layers
        self._chosen: Image | None = None
        for name in _EVENTS:
            getattr(self._layers.events, name).connect(self.refresh)
        self.field.changed.connect(self._on_chosen)
        self.refresh()

    def layer(self) -> Image | None:
        """Return the chosen layer, or None if there is no Image layer."""
        return self._chosen

    def set_layer(self, layer: Image) -> None:
        """Choose a layer."""
        self.field.value = layer

    def refresh(self) -> None:
        """Read the layer list again."""
        # The newest layer is on top of the list, as in the viewer.
        images = [layer for layer in reversed(self._layers) if is_input(layer)]
        offer(self.field, {layer: layer.name for layer in images})
        self._on_chosen()

    def _on_chosen(self) -> None:
        name = self.field.native.currentText()
        self.field.tooltip = name or _HELP  # the field cuts a long one
        if self.field.value is not self._chosen:
            self._chosen = self.field.value
            self.layer_changed.emit()


def is_input(layer: object) -> bool:
    """Whether a layer can be segmented: an image that is not itself a result."""
    return isinstance(layer, Image) and RECORD_KEY not in layer.metadata
