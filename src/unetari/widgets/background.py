"""Short work outside the GUI thread, such as loading a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qtpy.QtCore import QObject, QTimer, Signal
from superqt.utils import create_worker


@dataclass(frozen=True)
class _Outcome:
    ticket: int
    value: object = None
    error: Exception | None = None


def _attempt(ticket: int, function: Callable[[], object]) -> _Outcome:
    # Whatever goes wrong travels as a value: a worker's own error path loses
    # some exceptions, and shows the others without context.
    try:
        return _Outcome(ticket, value=function())
    except Exception as error:  # noqa: BLE001 (handed to `failed`)
        return _Outcome(ticket, error=error)


class Background(QObject):
    """Runs functions in a thread and reports the newest one's outcome in the GUI thread."""

    done = Signal(object)
    """The returned value."""
    failed = Signal(object)
    """The exception."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._ticket = 0
        self.is_running = False

    def start(self, function: Callable[[], object]) -> None:
        """Run a function; the outcome of an earlier one is no longer reported."""
        self._ticket += 1
        self.is_running = True
        worker = create_worker(_attempt, self._ticket, function)
        worker.returned.connect(self._receive)
        worker.start()

    def forget(self) -> None:
        """Report nothing of what still runs."""
        self._ticket += 1
        self.is_running = False

    def _receive(self, outcome: _Outcome) -> None:
        if outcome.ticket != self._ticket:
            return
        self.is_running = False
        if outcome.error is not None:
            self.failed.emit(outcome.error)
        else:
            self.done.emit(outcome.value)


def single_shot(owner: QObject, milliseconds: int, slot: Callable[[], None]) -> QTimer:
    """Return a timer that calls `slot` once per start; starting it again begins anew."""
    timer = QTimer(owner)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(slot)
    return timer
