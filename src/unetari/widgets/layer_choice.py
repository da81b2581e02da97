"""`LayerChoice`: a choice among the viewer's Image layers that follows the layer list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from unetari.viewer.results import RECORD_KEY
from unetari.widgets.fields import ChoiceField

if TYPE_CHECKING:
    from napari.components import ViewerModel


class LayerChoice(ChoiceField):
    """Keeps the chosen layer when layers are added, removed, moved or renamed.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Its layers are offered.
    parent : QWidget, optional
        The owner.
    """

    layer_changed = Signal()
    """Emitted when another layer, or none, is chosen."""

    def __init__(self, viewer: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__({}, parent)
        self._layers = viewer.layers
        self._chosen: Image | None = None
        for name in ("inserted", "removed", "reordered", "renamed"):
            getattr(self._layers.events, name).connect(self.refresh)
        self.changed.connect(self._on_chosen)
        self.refresh()

    def layer(self) -> Image | None:
        """Return the chosen layer, or None if there is no Image layer."""
        return self._chosen

    def set_layer(self, layer: Image) -> None:
        """Choose a layer."""
        self.set_value(layer)

    def disconnect_from_viewer(self) -> None:
        """Follow the layer list no longer."""
        for name in ("inserted", "removed", "reordered", "renamed"):
            getattr(self._layers.events, name).disconnect(self.refresh)

    def refresh(self) -> None:
        """Read the layer list again."""
        # The newest layer is on top of the list, as in the viewer.
        images = [layer for layer in reversed(self._layers) if is_input(layer)]
        self.set_choices({layer: layer.name for layer in images})
        if self._chosen in images:
            self.set_value(self._chosen)
        self._on_chosen()

    def _on_chosen(self) -> None:
        if self.value() is not self._chosen:
            self._chosen = self.value()
            self.layer_changed.emit()


def is_input(layer: object) -> bool:
    """Whether a layer can be segmented: an image that is not itself a result."""
    return isinstance(layer, Image) and RECORD_KEY not in layer.metadata
