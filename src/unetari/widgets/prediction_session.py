"""`PredictionSession`: drives predictions and is the one module that touches result layers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from napari.utils.notifications import ErrorNotification, notification_manager, show_error
from qtpy.QtCore import QObject, Signal

from unetari.errors import UnetariError
from unetari.viewer.placement import Placement, place
from unetari.viewer.regions import is_shown
from unetari.viewer.results import add_labels, add_scores, write_record
from unetari.widgets.background import single_shot
from unetari.widgets.prediction_worker import (
    Advanced,
    Begun,
    Ended,
    PredictionRequest,
    PredictionRun,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

    from unetari.inference.record import RunRecord

_REFRESH_MS = 100


class PredictionSession(QObject):
    """Runs one prediction at a time and shows its result as it grows.

    It belongs to no widget, so that a run ends in order when its panel is closed.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Gets the result layers.
    """

    begun = Signal(object)
    """`Begun`: the result layer is there."""
    advanced = Signal(float, float)
    """Finished parts, all parts, seconds since the start."""
    ended = Signal(object)
    """`Ended`, after the layers are up to date."""

    # Keeps sessions alive whose panel is gone, until their layers are in order.
    _busy: ClassVar[set[PredictionSession]] = set()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self._run: PredictionRun | None = None
        self._image: Image | None = None
        self._placement: Placement | None = None
        self.labels: Labels | None = None
        self.scores: Image | None = None
        self._started = 0.0
        self._progress = 0.0
        self._failure: Exception | None = None
        self._recolours = False
        self._timer = single_shot(self, _REFRESH_MS, self._refresh)

    @property
    def is_running(self) -> bool:
        """Whether a prediction runs."""
        return self._run is not None

    def start(self, layer: Image, request: PredictionRequest) -> None:
        """Start a prediction of a layer; the layer itself is never changed."""
        if self._run is not None:
            return
        self._image, self.labels, self.scores = layer, None, None
        self._started = time.monotonic()
        self._progress = 0.0
        self._failure = None
        self._recolours = False
        self._run = PredictionRun(request)
        self._run.begun.connect(self._on_begun)
        self._run.advanced.connect(self._on_advanced)
        self._run.ended.connect(self._on_ended)
        self._viewer.layers.events.removed.connect(self._on_removed)
        self._busy.add(self)
        self._run.start()

    def cancel(self) -> None:
        """Stop; what is finished stays in the layer, and a layer with nothing is removed."""
        if self._run is not None:
            self._run.cancel()

    def _on_begun(self, step: Begun) -> None:
        if self._image is None:
            return
        try:
            self._add_layers(self._image, step)
        except Exception as error:  # noqa: BLE001 (shown when the run has ended)
            # Adding a layer runs code of napari and of other plugins.
            self._failure = error
            self.cancel()
        else:
            self.begun.emit(step)

    def _add_layers(self, image: Image, step: Begun) -> None:
        self._placement = place(image, step.job.source.axes, step.job.region)
        if step.scores is not None:
            self.scores = add_scores(self._viewer, image, step.job, step.scores)
        self.labels = add_labels(self._viewer, image, step.job, step.labels)
        # What is painted where no part is finished yet would be overwritten.
        self.labels.editable = False

    def _on_advanced(self, step: Advanced) -> None:
        is_first = self._progress == 0
        self._progress = step.progress
        self.advanced.emit(step.progress, time.monotonic() - self._started)
        if self._timer.isActive() or self.labels is None:
            return
        # A volume takes most of a second to draw, so it is drawn once, at the end.
        if self._viewer.dims.ndisplay == 2 and self._is_shown(step):
            if is_first:
                self._refresh()  # at once: somebody is waiting for a sign
            self._timer.start()

    def _is_shown(self, step: Advanced) -> bool:
        labels = self.labels
        if labels is None or self._placement is None:
            return False
        return is_shown(self._viewer, labels, self._placement.to_layer(step.where))

    def _refresh(self) -> None:
        if self._recolours and self.labels is not None:
            # In Mesa's OpenGL, the first new data of labels after another layer was removed crash
            # the process (napari 0.9 alone does so, too), unless their colours are sent as well.
            self._recolours = False
            self.labels.events.colormap()
        for layer in (self.labels, self.scores):
            if layer is not None:
                layer.refresh(thumbnail=False, highlight=False, extent=False)

    def _on_removed(self, event: Any) -> None:
        if event.value is self._image and self.labels is None:
            self._image = None  # a result would lie on nothing
            self.cancel()
        elif self.labels is not None and event.value is not self.labels:
            self._recolours = True
            if self._viewer.dims.ndisplay == 2:
                self._timer.start()
        # Nobody would see the rest of the result.
        if self.labels is not None and event.value is self.labels:
            self.labels = None
            self.cancel()
        if self.scores is not None and event.value is self.scores:
            self.scores = None

    def _on_ended(self, outcome: Ended) -> None:
        self._timer.stop()
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._run = None
        self._image = None
        try:
            self._finish_layers(outcome.record)
        except Exception as error:  # noqa: BLE001 (shown below)
            # Drawing, too, runs code of napari and of other plugins.
            self._failure = self._failure or error
        if outcome.error is None and self._failure is not None:
            outcome = Ended(outcome.record, self._failure)
        if outcome.error is not None:
            notify(outcome.error)
        self._busy.discard(self)
        self.ended.emit(outcome)

    def _finish_layers(self, record: RunRecord | None) -> None:
        if self._progress == 0:
            self._remove_layers()
        if self.labels is not None:
            self.labels.editable = True
        for layer in (self.labels, self.scores):
            if layer is not None and record is not None:
                write_record(layer, record)
        if self._recolours:
            self._refresh()
        for layer in (self.labels, self.scores):
            if layer is not None:
                layer.refresh()

    def _remove_layers(self) -> None:
        """Take empty results away; nobody could edit them."""
        layers = [layer for layer in (self.labels, self.scores) if layer is not None]
        self.labels = self.scores = None
        for layer in layers:
            self._viewer.layers.remove(layer)


def notify(error: Exception) -> None:
    """Show an error in the viewer: our own as a sentence, others with their traceback at hand."""
    if isinstance(error, UnetariError):
        show_error(str(error))
    else:
        notification_manager.dispatch(ErrorNotification(error))
