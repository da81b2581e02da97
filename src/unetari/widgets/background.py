"""Short work outside the GUI thread, such as loading a model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from qtpy.QtCore import QCoreApplication, QObject, QTimer, Signal


def is_process_ending() -> bool:
    """Return whether the program is over, and only waits for its threads."""
    return not threading.main_thread().is_alive()


class Thread(QObject):
    """A function in a thread of its own, which never outlives Qt.

    Python waits for its own threads before it takes anything apart. The threads of Qt's pool go
    on while the process ends, and their first signal of an object that is gone aborts it.

    Parameters
    ----------
    function : callable
        Runs in the thread. If it takes long, it must end soon after `stop`, and when
        `is_process_ending`.
    stop : callable
        Called in the GUI thread when the application quits, which then waits for the function.
    """

    ended = Signal(object)
    """What the function returned, once no thread holds anything of it any more."""
    _returned = Signal()

    # Keeps threads alive whose owner is gone, until they have ended.
    _alive: ClassVar[set[Thread]] = set()

    def __init__(
        self, function: Callable[[], object], stop: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__()
        self._function = function
        self._stop = stop
        self._value: object = None
        self._thread = threading.Thread(target=self._work, name="unetari")
        self._returned.connect(self._end)

    def start(self) -> None:
        """Start the thread."""
        self._alive.add(self)
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self._wait)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._value = self._function()
        finally:
            self._returned.emit()

    def _end(self) -> None:
        # Else the thread could hold the last reference, and delete this object in its own hands.
        self._thread.join()
        self._alive.discard(self)
        self.ended.emit(self._value)

    def _wait(self) -> None:
        self._stop()
        self._thread.join()


@dataclass(frozen=True)
class _Outcome:
    ticket: int
    value: object = None
    error: Exception | None = None


def _attempt(ticket: int, function: Callable[[], object]) -> _Outcome:
    # Whatever goes wrong travels as a value: it is shown in the GUI thread.
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
        thread = Thread(partial(_attempt, self._ticket, function))
        thread.ended.connect(self._receive)
        thread.start()

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
