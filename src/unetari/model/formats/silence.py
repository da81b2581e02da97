"""Keep the advice that libraries have for their own developers from the user, in any thread."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

_TALKATIVE = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "onnxscript", "onnx_ir")


class _Silence:
    """What one process has only once, and its threads share: its warnings and log levels.

    Each thread restoring what it found would leave behind what another one had set, for good:
    the first to come saves, the last to go restores.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._undo = ExitStack()

    def enter(self, message: str, category: type[Warning]) -> None:
        with self._lock:
            if not self._inside:
                self._begin()
            self._inside += 1
            warnings.filterwarnings("ignore", message, category)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()

    def _begin(self) -> None:
        self._undo.enter_context(warnings.catch_warnings())
        for logger in map(logging.getLogger, _TALKATIVE):
            self._undo.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)


_SILENCE = _Silence()


@contextmanager
def quiet(message: str = "", category: type[Warning] = Warning) -> Iterator[None]:
    """Ignore warnings, and what torch's exporters log; threads may overlap in it.

    Parameters
    ----------
    message : str
        Regular expression for the beginnings of the warnings; default: all.
    category : type
        Their class.
    """
    _SILENCE.enter(message, category)
    try:
        yield
    finally:
        _SILENCE.leave()
