"""`UnetariDock`: model, image and prediction in one panel, in the order a person works."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtGui import QCloseEvent, QShowEvent
from qtpy.QtWidgets import QFrame, QGroupBox, QScrollArea, QVBoxLayout, QWidget

from unetari.core.config import UNetConfig
from unetari.core.network import NetworkConfig, reach_of
from unetari.core.normalization import WITH_STATISTICS
from unetari.core.scaling import RIM
from unetari.core.shapes import Fix, ShapeReport, check_shape
from unetari.errors import UnetariError
from unetari.model.bundled import bundled_models
from unetari.model.thumbnails import draw_prediction
from unetari.viewer.regions import region_slices
from unetari.widgets.background import Background, single_shot
from unetari.widgets.fields import align_labels
from unetari.widgets.image import GREY, ImageWidget
from unetari.widgets.messages import State
from unetari.widgets.model import BUILD, LIBRARY, ModelWidget
from unetari.widgets.model_work import import_for_runs
from unetari.widgets.predict import PredictWidget, format_seconds
from unetari.widgets.prediction_session import PredictionSession, notify
from unetari.widgets.prediction_worker import Begun, Ended, PredictionRequest
from unetari.widgets.scale_choice import ScaleChoice

if TYPE_CHECKING:
    from napari.components import ViewerModel

_VIEW_DELAY_MS = 150  # the canvas is drawn again before the visible region is known
_MODEL, _IMAGE, _PREDICT = "1. Model", "2. Image", "3. Predict"
_WIDTH = 300  # pixels; the least of the panel
_SHORT = 70  # letters; a longer problem is not said twice
_COMPUTING = "Computing the first part..."
_READING = "Reading the image for its intensities and computing the first part..."


def list_devices() -> Sequence[str]:
    """Return the devices of this machine; the first call imports torch, and all else of a run."""
    from unetari.model.device import available_devices

    import_for_runs()  # while nobody waits for it
    return available_devices()


@atexit.register
def _close_viewers() -> None:
    """Close the viewers that a script leaves open when it ends.

    PyQt then deletes what is left one by one, while it walks through the list of it; what goes
    with something else leaves a hole there, and the process crashes in every third case.
    """
    from napari import Viewer

    Viewer.close_all()


class _Panel(QWidget):
    """Content of a scroll area that is as tall as its texts need at the actual width."""

    def minimumSizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """Leave the height to the layout: Qt's own hint is that of the narrowest panel."""
        return QSize(0, 0)


class _Area(QScrollArea):
    """Scrolls up and down, and is never narrower than what it holds.

    Qt computes the heights of texts for the width that the layout would like to have:
    in a narrower one they would lose their last lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """Ask for the width of the widest part and the scroll bar."""
        panel, bar = self.widget(), self.verticalScrollBar()
        layout = None if panel is None else panel.layout()
        width = _WIDTH
        if layout is not None and bar is not None:
            width = max(width, layout.minimumSize().width() + bar.sizeHint().width())
        return QSize(width, super().minimumSizeHint().height())

    def event(self, event: QEvent | None) -> bool:
        """Follow the content: another page may be wider."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().event(event))


class UnetariDock(QWidget):
    """The plugin's panel; what runs a prediction stays in view below the rest, which scrolls.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The viewer it works in; napari passes it by this name.
    parent : QWidget, optional
        The owner.
    """

    def __init__(self, napari_viewer: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        # napari hands plugins a proxy, which has another identity at every access.
        self._viewer: ViewerModel = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.model = ModelWidget()
        self.image = ImageWidget(self._viewer)
        self.predict = PredictWidget()
        self.area = _Area()
        self.session = PredictionSession(self._viewer)
        self._report: ShapeReport | None = None
        self._scale = ScaleChoice()
        self._devices = Background(self)
        self._knows_devices = False
        self._predicted = ""
        self._begun: Begun | None = None
        self._view_timer = single_shot(self, _VIEW_DELAY_MS, self._update_problem)
        self._lay_out()
        self._connect()
        self._on_model()

    def _lay_out(self) -> None:
        panel = _Panel()
        column = QVBoxLayout(panel)
        column.setContentsMargins(4, 4, 4, 4)
        parts = {_MODEL: self.model, _IMAGE: self.image, _PREDICT: self.predict}
        for title, part in parts.items():
            box = QGroupBox(title)
            inside = QVBoxLayout(box)
            inside.setContentsMargins(6, 6, 6, 6)
            inside.addWidget(part)
            column.addWidget(box)
        column.addStretch(1)
        self.area.setWidget(panel)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(self.area, stretch=1)
        self.predict.controls.setContentsMargins(12, 4, 12, 6)
        whole.addWidget(self.predict.controls)

    def _connect(self) -> None:
        self.model.current_image = self.image.value
        self.model.changed.connect(self._on_model)
        self.image.changed.connect(self._on_image)
        self.image.report.fix_requested.connect(self._fix)
        self.predict.predict_requested.connect(self._start)
        self.predict.cancel_requested.connect(self.session.cancel)
        self.predict.region_changed.connect(self._update_problem)
        self.session.begun.connect(self._on_begun)
        self.session.advanced.connect(self.predict.show_progress)
        self.session.ended.connect(self._on_ended)
        self._devices.done.connect(self.predict.set_devices)
        self._devices.failed.connect(self._on_no_devices)
        for events in (self._viewer.dims.events, self._viewer.scene.camera.events):
            events.connect(self._on_view)
        # Not a bound method of this widget: those are cut before `destroyed` is emitted.
        self.destroyed.connect(self.session.cancel)

    def _on_model(self) -> None:
        choice = self.model.value()
        if choice is not None:
            self.image.set_dim(choice.spec.config.dim)
            if choice.is_trained:
                self._ask_for_devices()
        self._on_image()

    def _ask_for_devices(self) -> None:
        """List the devices once torch is there; before, that alone would take seconds."""
        if not self._knows_devices:
            self._knows_devices = True
            self._devices.start(list_devices)

    def _on_no_devices(self, error: Exception) -> None:
        self._knows_devices = False  # the next model or run asks again
        notify(error)

    def _on_image(self) -> None:
        choice, source = self.model.value(), self.image.value()
        self._scale.update(self.image.layer, source, None if choice is None else choice.spec)
        self._show_image()

    def _show_image(self) -> None:
        """Show how the image, rescaled or not, meets the model."""
        choice, source = self.model.value(), self.image.value()
        scale = self._scale.factors
        self.model.diagram.set_image(source, scale)
        self._report = None
        if choice is not None:
            self._limit_tiles(choice.spec.config)
        if choice is None or source is None:
            self.image.report.show_sentences([])
        else:
            report = self._report = check_shape(choice.spec.config, source, scale=scale)
            fixes = [*self._possible_fixes(report), *self._scale.fixes]
            self.image.report.show_report(report, fixes, notes=self._scale.notes)
        self._update_problem()

    def _limit_tiles(self, config: NetworkConfig) -> None:
        reaches = reach_of(config, RIM if self._scale.factors else 0)
        self.predict.set_tile_limits(
            max(reach.smallest_tile for reach in reaches),
            max(reach.multiple for reach in reaches),
        )
        has_choice = isinstance(config, UNetConfig) and not config.tiles_exactly
        self.predict.offer_statistics(has_choice)

    def _possible_fixes(self, report: ShapeReport) -> list[Fix]:
        """Keep the fixes that throw no training away, or say that they do.

        An image that does not fit may leave nothing but another network; padding
        makes up for the number of blocks.
        """
        fixes = [_shorten(fix) for fix in report.fixes]
        if self.model.page == BUILD:
            return fixes
        return [self._honest(fix) for fix in fixes if fix.kind != "n_blocks"]

    def _honest(self, fix: Fix) -> Fix:
        if fix.kind == "in_channels":
            return replace(fix, text=fix.text.replace("a ", "an untrained ", 1))
        if fix.kind == "slice_by_slice" and not self._sibling():
            return replace(fix, text="Build an untrained 2D network")
        return fix

    def _fix(self, fix: Fix) -> None:
        if fix.kind == "n_blocks" and fix.value is not None:
            self.model.build_with(n_blocks=fix.value)
        elif fix.kind == "in_channels" and fix.value is not None:
            self.model.build_with(in_channels=fix.value)
        elif fix.kind == "channel":
            self.image.set_channel(fix.value)
        elif fix.kind == "grey":
            self.image.set_channel(GREY)
        elif fix.kind == "slice_by_slice":
            self._go_slice_by_slice()
        elif fix.kind in ("rescale", "own_size"):
            self._scale.choose(fix.kind == "rescale")
            self._show_image()

    def _go_slice_by_slice(self) -> None:
        """Take the bundled 2D sibling of a bundled 3D model, else build a 2D network."""
        sibling = self._sibling()
        if sibling:
            self.model.library.choose(sibling)
        else:
            self.model.build_with(dim=2)

    def _sibling(self) -> str:
        """Return the name of the bundled 2D sibling of a bundled 3D model; empty without one."""
        listed = self.model.library.value()
        if self.model.page != LIBRARY or listed is None or listed.origin != "bundled":
            return ""
        name = listed.name.replace("3d", "2d")
        return name if name in bundled_models() else ""

    def _problem(self) -> str:
        """Why Predict cannot work now; empty if it can."""
        if self.model.problem:
            return _brief(self.model.problem, _MODEL)
        if self.image.problem:
            return _brief(self.image.problem, _IMAGE)
        if self._report is not None and self._report.problems:
            return _brief(self._report.problems[0], _IMAGE)
        try:
            self._region()
        except UnetariError as error:
            return str(error)
        return ""

    def _region(self) -> tuple[slice, ...]:
        layer, source = self.image.layer, self.image.value()
        if layer is None or source is None:
            return ()
        return region_slices(self._viewer, layer, source.axes, self.predict.region)

    def _update_problem(self) -> None:
        self.predict.set_problem(self._problem())

    def _on_view(self, _: Any = None) -> None:
        if self.predict.region != "whole":
            self._view_timer.start()

    def _start(self) -> None:
        choice, layer, source = self.model.value(), self.image.layer, self.image.value()
        if choice is None or layer is None or source is None or self._problem():
            self._update_problem()
            return
        request = PredictionRequest(
            source=source,
            get_model=choice.get,
            region=self._region(),
            scale=self._scale.factors,
            device=self.predict.device,
            precision=self.predict.precision,
            norm_statistics=self.predict.norm_statistics,
            tile_size=self.predict.tile_size,
            scores=self.predict.wants_scores,
        )
        self._predicted = choice.file_sha256
        self.session.start(layer, request)  # first: to show that it runs takes a moment, too
        self.predict.set_running(True)

    def _on_begun(self, step: Begun) -> None:
        self._begun = step
        self.predict.warnings.show_text(" ".join(step.job.warnings))
        reads = step.job.model.spec.normalization.method in WITH_STATISTICS
        self.predict.show_step(f"{_READING if reads else _COMPUTING} {step.job.describe()}")
        self._ask_for_devices()

    def _on_ended(self, outcome: Ended) -> None:
        self._draw_picture(outcome)
        text, state = _describe(outcome, self.session)
        findings = outcome.record.findings if outcome.record is not None else ()
        # A problem that came up meanwhile must not take the place of the outcome.
        self._view_timer.stop()
        self.predict.show_outcome(
            text,
            state,
            " ".join(findings),
            can_predict=not self._problem(),
        )

    def _draw_picture(self, outcome: Ended) -> None:
        """Have a model of the library show what it found last."""
        begun, self._begun = self._begun, None
        is_finished = outcome.record is not None and outcome.record.status == "finished"
        if begun is not None and self._predicted and is_finished and outcome.error is None:
            job = begun.job
            draw = partial(draw_prediction, job.source, job.region, begun.labels)
            self.model.library.draw_picture(self._predicted, draw)

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Align the labels, whose font is known now."""
        super().showEvent(event)
        for part in (self.model, self.image, self.predict):
            align_labels(part)

    def event(self, event: QEvent | None) -> bool:
        """Stop the run when napari takes the panel out of its dock to close it."""
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._shut_down()
        return bool(super().event(event))

    def closeEvent(self, event: QCloseEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Stop the run when the panel is a window of its own and is closed."""
        self._shut_down()
        super().closeEvent(event)

    def _shut_down(self) -> None:
        self.session.cancel()


def _shorten(fix: Fix) -> Fix:
    """Word a fix so that a button of a narrow panel has room for it."""
    if fix.kind == "in_channels":
        return replace(fix, text=f"Build a {fix.value}-channel network")
    return fix


def _brief(problem: str, section: str) -> str:
    """Repeat a short problem; point to a long one, which its section says in full."""
    return problem if len(problem) <= _SHORT else f"See {section}."


def _describe(outcome: Ended, session: PredictionSession) -> tuple[str, State]:
    """Say in a sentence how a run ended."""
    record = outcome.record
    if outcome.error is not None:
        return f"Failed: {outcome.error or type(outcome.error).__name__}", State.PROBLEM
    if record is None or record.progress == 0:
        return "Stopped before there was a result.", State.NOTE
    if record.status == "cancelled" and session.labels is None:
        return "Stopped, because its layer was removed.", State.NOTE
    if record.status == "cancelled":
        kept = f"{record.progress:.0%} is done and stays."
        return f"Stopped: {kept}", State.NOTE
    where = record.device
    if record.precision != "float32":
        where = f"{record.device} ({record.precision})"
    name = f" Result: {session.labels.name}." if session.labels is not None else ""
    return f"Done in {format_seconds(record.seconds)} on {where}.{name}", State.GOOD
