"""`PredictWidget`: what is predicted, where, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence

from magicgui.widgets import CheckBox, PushButton
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from unetari.viewer.regions import RegionKind
from unetari.widgets.fields import choice, form, integer, offer, plain, row
from unetari.widgets.messages import Message, State

_REGIONS = {
    "whole": "whole image",
    "slice": "current slice",
    "visible": "visible part",
}
_PRECISIONS = {"float32": "exact (float32)", "auto": "fast (checked)"}
_STATISTICS = {
    "tile": "each tile",
    "sampled": "samples",
    "whole": "whole image",
    "blended": "blended tiles",
}
_LARGEST_TILE = 16384


class PredictWidget(QWidget):
    """Asks for a prediction and shows its progress; knows nothing of models and layers.

    Parameters
    ----------
    parent : QWidget, optional
        The owner.
    """

    predict_requested = Signal()
    cancel_requested = Signal()
    region_changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.region_field = choice(
            _REGIONS,
            label="Region",
            tooltip="All of the image, the slice that is shown, or what of that slice is in view",
        )
        self.device_field = choice(
            {"auto": "automatic", "cpu": "CPU"}, label="Device", tooltip="Where the network runs"
        )
        self.precision_field = choice(
            _PRECISIONS,
            label="Precision",
            tooltip="Fast: the fastest format of the device that changes at most 0.05 % of the "
            "labels of a sample, and float32 if there is none.",
        )
        self.auto_tile = CheckBox(
            value=True,
            text="auto",
            tooltip="As large as memory allows. The result does not depend on it.",
        )
        self.tile_field = integer(1, _LARGEST_TILE, 512, tooltip="Pixels along each axis")
        self.statistics_field = choice(
            _STATISTICS,
            label="Statistics",
            tooltip="What instance or group normalization takes its statistics from. Each tile: "
            "borders can show. Samples: parts of the image, once, so that tiles leave no trace. "
            "Whole image: exact; slow where the image does not fit in memory at once. "
            "Blended tiles: each of small tiles, as in training, that overlap by half.",
        )
        self.scores_box = CheckBox(
            text="probabilities",
            tooltip="A further image layer with the probability of every class",
        )
        self.predict_button = PushButton(
            text="Predict", tooltip="Segment the image; the result is a new layer"
        )
        self.cancel_button = PushButton(text="Cancel", tooltip="Stop; what is done stays")
        self.bar = QProgressBar()
        self.status = Message()
        self.warnings = Message()
        self.controls = QWidget(self)
        """Buttons, progress and outcome, for the owner to put where they are always seen."""
        self._lay_out()
        self._connect()
        self.set_running(False)

    def _lay_out(self) -> None:
        tile = row([self.auto_tile, self.tile_field], label="Tile size (px)")
        result = row([plain("labels"), self.scores_box], label="Result")
        where = [self.region_field, self.device_field, self.precision_field]
        fields = form([*where, tile, self.statistics_field, result])
        buttons = row([self.predict_button, self.cancel_button])
        buttons.native.layout().setStretch(0, 2)
        buttons.native.layout().setStretch(1, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(fields.native)
        column.addWidget(self.controls)
        below = QVBoxLayout(self.controls)
        below.setContentsMargins(0, 0, 0, 0)
        for widget in (buttons.native, self.bar, self.status, self.warnings):
            below.addWidget(widget)
        self.offer_statistics(False)

    def _connect(self) -> None:
        self.auto_tile.changed.connect(self._show_tile_field)
        self.region_field.changed.connect(self._on_region)
        self.predict_button.changed.connect(self._on_predict)
        self.cancel_button.changed.connect(self._on_cancel)
        self._show_tile_field()

    @property
    def region(self) -> RegionKind:
        """The chosen region."""
        kind: RegionKind = self.region_field.value
        return kind

    @property
    def device(self) -> str:
        """The chosen device."""
        return str(self.device_field.value)

    @property
    def precision(self) -> str:
        """The chosen floating-point format, "float32" or "auto"."""
        return str(self.precision_field.value)

    @property
    def norm_statistics(self) -> str:
        """What instance and group normalization take their statistics from."""
        return str(self.statistics_field.value) if self._offers_statistics else "tile"

    @property
    def wants_scores(self) -> bool:
        """Whether probabilities are asked for."""
        return self.scores_box.value

    @property
    def tile_size(self) -> int | None:
        """The chosen tile size; None for automatic."""
        return None if self.auto_tile.value else self.tile_field.value

    def set_devices(self, devices: Sequence[str]) -> None:
        """Offer the devices of this machine."""
        names = {name: name for name in devices}
        offer(self.device_field, {"auto": f"automatic ({devices[0]})", **names})

    def set_tile_limits(self, smallest: int, step: int) -> None:
        """Say what tile sizes a network can take."""
        self.tile_field.min = smallest
        self.tile_field.step = max(step, 16)

    def offer_statistics(self, offered: bool) -> None:
        """Offer where statistics come from, or not: batch normalization has its own."""
        self._offers_statistics = offered  # `visible` is false in a panel that is not shown
        self.statistics_field.visible = offered

    def set_problem(self, problem: str, state: State = State.NOTE) -> None:
        """Enable Predict, or say why it cannot work."""
        if self.is_running:
            return
        self.predict_button.enabled = not problem
        self.status.show_text(problem, state)
        self.warnings.show_text("")  # of a run with what was chosen before

    @property
    def is_running(self) -> bool:
        """Whether a run is shown."""
        return self._running

    def set_running(self, running: bool) -> None:
        """Show that a run begins or is over."""
        self._running = running
        self.predict_button.enabled = False
        self.cancel_button.enabled = running
        # No end: a moving bar while the model and the statistics are prepared.
        self._set_bar(0, 0)
        self.bar.setVisible(running)
        if running:
            self.status.show_text("Preparing...", State.BUSY)
            self.warnings.show_text("")

    def show_step(self, text: str) -> None:
        """Show what a run does before its first part is done."""
        if self.cancel_button.enabled:
            self.status.show_text(text, State.BUSY)

    def show_progress(self, progress: float, seconds: float) -> None:
        """Show what share is done, 0 to 1, and how long the rest takes."""
        self._set_bar(100, round(100 * progress))
        if not self.cancel_button.enabled:
            return
        left = seconds / progress * (1 - progress)
        rest = f", {format_seconds(left)} left" if progress < 1 else ""
        self.status.show_text(f"{progress:.0%} done{rest}", State.BUSY)

    def _set_bar(self, end: int, value: int) -> None:
        # Qt's bar paints its whole window, canvas included, before it returns; this lets it wait
        # for the next turn of the event loop.
        self.bar.setUpdatesEnabled(False)
        self.bar.setRange(0, end)
        self.bar.setValue(value)
        self.bar.setUpdatesEnabled(True)

    def show_outcome(
        self, text: str, state: State, warnings: str = "", *, can_predict: bool = True
    ) -> None:
        """Show how a run ended, until something is changed."""
        self.set_running(False)
        self.predict_button.enabled = can_predict
        self.status.show_text(text, state)
        self.warnings.show_text(warnings, State.NOTE)

    def _show_tile_field(self) -> None:
        self.tile_field.visible = not self.auto_tile.value

    def _on_region(self) -> None:
        self.region_changed.emit()

    def _on_predict(self) -> None:
        self.predict_requested.emit()

    def _on_cancel(self) -> None:
        self.cancel_button.enabled = False
        self.status.show_text("Stopping...", State.BUSY)
        self.cancel_requested.emit()


def format_seconds(seconds: float) -> str:
    """Return a duration as people say it.

    Examples
    --------
    >>> format_seconds(0.4), format_seconds(42.2), format_seconds(150), format_seconds(7300)
    ('1 s', '42 s', '2 min 30 s', '2 h 1 min')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
