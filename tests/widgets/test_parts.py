"""The small parts: background work, fields, messages, the prediction form."""

from __future__ import annotations

import threading
from typing import get_args

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent, QObject, QPoint, QPointF, Qt
from qtpy.QtGui import QImage, QWheelEvent
from qtpy.QtWidgets import QApplication

from unetari.core.shapes import Fix
from unetari.viewer.regions import RegionKind
from unetari.widgets.background import Background
from unetari.widgets.fields import align_labels, choice, form, integer, offer
from unetari.widgets.messages import Message, State
from unetari.widgets.predict import PredictWidget
from unetari.widgets.report import button_text, choose_fixes


def test_background_work_runs_beside_the_window_and_reports_there(qtbot: QtBot) -> None:
    background = Background()
    here = threading.get_ident()
    with qtbot.waitSignal(background.done) as seen:
        background.start(threading.get_ident)
    assert seen.args[0] != here
    assert not background.is_running


@pytest.mark.parametrize("error", [RuntimeError("torch"), ValueError("other")])
def test_background_failures_are_reported(qtbot: QtBot, error: Exception) -> None:
    def fail() -> None:
        raise error

    background = Background()
    with qtbot.waitSignal(background.failed) as seen:
        background.start(fail)
    assert seen.args == [error]


def test_only_the_newest_background_work_is_reported(qtbot: QtBot) -> None:
    background = Background()
    seen: list[object] = []
    background.done.connect(seen.append)
    background.start(lambda: 1)
    background.start(lambda: 2)
    with qtbot.waitSignal(background.done):
        background.start(lambda: 3)
    assert seen == [3]


def test_choices_keep_their_value_when_they_change(qtbot: QtBot) -> None:
    field = choice({1: "one", 2: "two"})
    qtbot.addWidget(field.native)
    field.value = 2
    seen: list[object] = []
    field.changed.connect(seen.append)
    offer(field, {3: "drei", 2: "zwei"})
    assert (field.choices, field.value) == ((3, 2), 2)
    offer(field, {1: "zwei"})
    assert field.value == 1
    # Becoming part of a form brings nothing back.
    form([field])
    assert field.choices == (1,)
    offer(field, {})
    assert field.value is None
    assert not seen


def test_typing_a_number_counts_once_it_is_complete(qtbot: QtBot) -> None:
    field = integer(1, 4096, 32)
    qtbot.addWidget(field.native)
    seen: list[int] = []
    field.changed.connect(seen.append)
    field.native.lineEdit().selectAll()
    qtbot.keyClicks(field.native, "-128")  # type: ignore[no-untyped-call]
    assert field.value == 32
    qtbot.keyClick(field.native, Qt.Key.Key_Return)  # type: ignore[no-untyped-call]
    assert seen == [128]


@pytest.mark.parametrize("field", ["choice", "int"])
def test_scrolling_over_a_field_does_not_change_it(qtbot: QtBot, field: str) -> None:
    widget = choice({n: str(n) for n in range(9)}) if field == "choice" else integer(0, 9, 4)
    qtbot.addWidget(widget.native)
    widget.value = 4
    event = QWheelEvent(
        QPointF(5, 5),
        QPointF(5, 5),
        QPoint(0, 120),
        QPoint(0, 120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget.native, event)
    assert widget.value == 4
    assert not event.isAccepted()


def test_labels_of_different_forms_get_one_width(qtbot: QtBot) -> None:
    fields = [choice({1: "one"}, label=label) for label in ("short", "much longer than that")]
    part = form([form([field]) for field in fields], labels=False).native
    qtbot.addWidget(part)
    part.show()
    align_labels(part)
    qtbot.waitUntil(lambda: len({f.native.mapTo(part, QPoint(0, 0)).x() for f in fields}) == 1)


def test_a_message_hides_while_it_is_empty(qtbot: QtBot) -> None:
    message = Message("Something", State.GOOD)
    qtbot.addWidget(message)
    assert not message.isHidden()
    message.show_text("")
    assert message.isHidden()


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("height", [24, 90])
def test_the_sign_stands_beside_the_first_line(qtbot: QtBot, state: State, height: int) -> None:
    message = Message("HHH", state)
    qtbot.addWidget(message)
    message.setStyleSheet("background: white; color: black;")
    message.resize(200, height)
    message.show()
    picture = message.grab().toImage()
    sign = _inked_rows(picture, range(16))
    letters = _inked_rows(picture, range(20, 80))
    assert abs(sum(sign) / len(sign) - sum(letters) / len(letters)) <= 2


def _inked_rows(picture: QImage, columns: range) -> list[int]:
    rows = range(picture.height())
    return [y for y in rows if any(picture.pixelColor(x, y).lightness() < 200 for x in columns)]


def test_the_time_left_is_shown(qtbot: QtBot) -> None:
    widget = PredictWidget()
    qtbot.addWidget(widget)
    widget.set_running(True)
    assert widget.bar.maximum() == 0
    widget.show_progress(0.25, 10.0)
    assert widget.status.text == "25% done, 30 s left"
    assert (widget.bar.value(), widget.bar.maximum()) == (25, 100)


def test_progress_is_painted_when_the_window_has_time(qtbot: QtBot) -> None:
    class Paints(QObject):
        count = 0

        def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
            self.count += event is not None and event.type() == QEvent.Type.Paint
            return False

    widget, paints = PredictWidget(), Paints()
    qtbot.addWidget(widget)
    widget.bar.installEventFilter(paints)
    widget.show()
    widget.set_running(True)
    widget.show_progress(0.01, 1.0)
    qtbot.waitUntil(lambda: paints.count > 0)
    before = paints.count
    for percent in range(2, 100):
        widget.show_progress(percent / 100, 1.0)
    assert (widget.bar.value(), paints.count) == (99, before)
    qtbot.waitUntil(lambda: paints.count > before)


def test_the_tile_size_keeps_to_what_the_network_can_take(qtbot: QtBot) -> None:
    widget = PredictWidget()
    qtbot.addWidget(widget)
    assert widget.tile_size is None
    widget.auto_tile.value = False
    widget.tile_field.value = 8
    widget.set_tile_limits(104, 8)
    assert widget.tile_size == 104


def test_every_region_is_offered_and_no_other(qtbot: QtBot) -> None:
    widget = PredictWidget()
    qtbot.addWidget(widget)
    assert widget.region_field.choices == get_args(RegionKind)


def test_devices_are_offered(qtbot: QtBot) -> None:
    widget = PredictWidget()
    qtbot.addWidget(widget)
    widget.set_devices(("cuda:0", "cpu"))
    assert widget.device_field.choices == ("auto", "cuda:0", "cpu")
    assert widget.device == "auto"


def test_fixes_are_short_few_and_doable() -> None:
    fixes = [
        Fix("pad", 2, "Pad Y by 2 px to 512 px (prediction does so by itself)"),
        *[Fix("channel", n, f"Use channel {n} only") for n in range(8)],
        Fix("n_blocks", 2, "Use 2 blocks: the image then fits without padding"),
        Fix("n_blocks", 2, "Use 2 blocks: enough for Z"),
    ]
    texts = [button_text(fix) for fix in choose_fixes(fixes)]
    assert texts == [
        "Use channel 0",
        "Use channel 1",
        "Use channel 2",
        "Use 2 blocks",
    ]
