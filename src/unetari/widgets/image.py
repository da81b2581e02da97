"""`ImageWidget`: which image, what its axes mean, and whether it fits the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from magicgui.widgets import LineEdit, PushButton
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from unetari.core.axes import AxesGuess
from unetari.core.source import ImageSource
from unetari.errors import UnetariError
from unetari.viewer.layers import guess_layer_axes, layer_source
from unetari.widgets.fields import choice, form, offer, put_below, row
from unetari.widgets.layer_choice import LayerChoice
from unetari.widgets.messages import Message, State, mark
from unetari.widgets.report import ReportView

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

ALL, GREY = "all", "grey"
_EVENTS = ("data", "axis_labels", "units", "scale")
_RGB = ("red", "green", "blue")


class ImageWidget(QWidget):
    """Describes an Image layer as an `ImageSource`.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Its Image layers are offered.
    parent : QWidget, optional
        The owner.
    """

    changed = Signal()
    """Emitted when another layer, other axes or another channel is chosen."""

    def __init__(self, viewer: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._dim: int | None = None
        self._source: ImageSource | None = None
        self._problem = ""
        self._given: WeakKeyDictionary[Image, str] = WeakKeyDictionary()
        self._watched: Image | None = None
        self.layers = LayerChoice(viewer, self)
        self.axes = LineEdit(
            tooltip="One letter per axis: T time, C channels, Z Y X space, "
            "S the samples of an RGB image"
        )
        self._guess = PushButton(text="Guess", tooltip="Return to the axes as guessed")
        self.axes_reason = Message()
        self.channels = choice({ALL: ALL}, label="Channels", tooltip="What the network sees")
        self.report = ReportView()
        self._lay_out()
        self.layers.layer_changed.connect(self._on_layer)
        # magicgui's own signal comes with every letter.
        self.axes.native.editingFinished.connect(self._on_axes_edited)
        self._guess.changed.connect(self._on_guess)
        self.channels.changed.connect(self._update)
        self._on_layer()

    def _lay_out(self) -> None:
        axes = row([self.axes, self._guess], label="Axes")
        fields = form([self.layers.field, axes, self.channels])
        put_below(axes, self.axes_reason)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(fields.native)
        column.addWidget(self.report)

    @property
    def layer(self) -> Image | None:
        """The chosen layer."""
        return self.layers.layer()

    @property
    def problem(self) -> str:
        """Why there is no image to use; empty if there is one."""
        return self._problem

    def value(self) -> ImageSource | None:
        """Return the image, or None while there is none; `problem` says why."""
        return self._source

    def set_dim(self, dim: int | None) -> None:
        """Say how many dimensions the network has, which helps to guess the axes."""
        if dim != self._dim:
            self._dim = dim
            self._update()

    def set_axes(self, axes: str) -> None:
        """Say what the axes mean; an empty text returns to the guess."""
        self.axes.value = axes
        self._on_axes_edited()

    def set_channel(self, channel: int | str | None) -> None:
        """Choose a channel by its number, "grey", or None for all."""
        self.channels.value = ALL if channel is None else channel

    def _on_layer(self) -> None:
        self._watch(self.layer)
        self.channels.value = ALL
        self._update()

    def _watch(self, layer: Image | None) -> None:
        """Follow the events of one layer."""
        for name in _EVENTS:
            if self._watched is not None:
                getattr(self._watched.events, name).disconnect(self._on_layer_event)
            if layer is not None:
                getattr(layer.events, name).connect(self._on_layer_event)
        self._watched = layer

    def _on_layer_event(self, _: Any = None) -> None:
        self._update()

    def _on_axes_edited(self) -> None:
        if self.layer is None:
            return
        text = self.axes.value.strip().upper()
        if text and text != self._guessed_axes():
            self._given[self.layer] = text
        else:
            self._given.pop(self.layer, None)
        self._update()

    def _on_guess(self) -> None:
        self.set_axes("")

    def _guessed_axes(self) -> str:
        try:
            return guess_layer_axes(self.layer, self._dim).axes if self.layer else ""
        except UnetariError:
            return ""  # nothing to guess; reading the layer says why

    def _update(self) -> None:
        self._source, self._problem = None, ""
        if self.layer is None:
            self._problem = "Open an image (File > Open, or File > Open Sample > unetari)."
        else:
            try:
                self._source = self._read(self.layer)
            except UnetariError as error:
                self._problem = str(error)
        self._show()
        self.changed.emit()

    def _read(self, layer: Image) -> ImageSource:
        source = layer_source(layer, self._given.get(layer), dim=self._dim)
        self._offer_channels(source)
        channel = self.channels.value
        if channel == GREY:
            return layer_source(layer, source.axes, grey=True)
        return layer_source(layer, source.axes, channel=None if channel == ALL else channel)

    def _offer_channels(self, source: ImageSource) -> None:
        count = source.data_channels
        choices: dict[int | str, str] = {ALL: f"all {count}" if count > 1 else ALL}
        if count == 3:
            choices[GREY] = GREY
        if count > 1:
            is_rgb = "S" in source.axes
            names = (f" ({_RGB[n]})" if is_rgb else "" for n in range(count))
            choices |= {n: f"{n}{name}" for n, name in enumerate(names)}
        offer(self.channels, choices)

    def _show(self) -> None:
        layer = self.layer
        given = layer is not None and layer in self._given
        self.axes.enabled = layer is not None
        self._guess.visible = given
        shown = self._given[layer] if layer is not None and given else self._guessed_axes()
        self.axes.value = shown
        mark(self.axes.native, layer is not None and bool(self._problem))
        self._explain_axes(layer, given)
        self.channels.visible = self._source is not None and self._source.data_channels > 1

    def _explain_axes(self, layer: Image | None, given: bool) -> None:
        if layer is None:
            self.axes_reason.show_text("")
        elif self._problem:
            self.axes_reason.show_text(self._problem, State.PROBLEM)
        elif given:
            self.axes_reason.show_text("")
        else:
            self._explain_guess(guess_layer_axes(layer, self._dim))

    def _explain_guess(self, guess: AxesGuess) -> None:
        text = guess.reason
        letter, meaning = ("T", "time") if "Z" in guess.axes else ("Z", "depth")
        if not guess.sure and "C" in guess.axes and letter not in guess.axes:
            # The most common mistake in this field, so the way out stands beside it.
            text += f" If C is really {meaning}, write {guess.axes.replace('C', letter)}."
        self.axes_reason.show_text(text, State.GOOD if guess.sure else State.NOTE)
