"""A prediction in a thread: what it is asked for, what it reports, how it stops."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from napari.qt.threading import create_worker
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from unetari.core.source import ImageSource
from unetari.widgets.background import Thread, is_process_ending
from unetari.widgets.model_work import import_for_runs

if TYPE_CHECKING:
    from unetari.inference.decide import TileResult
    from unetari.inference.job import Job
    from unetari.inference.record import RunRecord
    from unetari.model.checkpoint import Model


@dataclass(frozen=True)
class PredictionRequest:
    """What the user asked for; independent of the widgets from then on."""

    source: ImageSource
    """The image."""
    get_model: Callable[[], Model]
    """Gives the model; called in the thread."""
    region: tuple[slice, ...]
    """One slice per label axis."""
    scale: tuple[float, ...] | None = None
    """Factors by which the image is rescaled for the network, ([Z,] Y, X)."""
    device: str = "auto"
    """Name of the device."""
    precision: str = "float32"
    """Floating-point format of the network."""
    norm_statistics: str = "tile"
    """Where instance and group normalization take their statistics from."""
    tile_size: int | None = None
    """Largest size of a tile along each axis, in voxels; None for what fits in memory."""
    scores: bool = False
    """Whether to give probabilities, too."""


@dataclass(frozen=True)
class Begun:
    """The job is planned; the arrays fill up while it runs."""

    job: Job
    labels: NDArray[np.unsignedinteger[Any]]
    scores: NDArray[np.float32] | None


@dataclass(frozen=True)
class Advanced:
    """A part of the arrays is final."""

    where: tuple[slice, ...]
    progress: float
    """Share of the voxels that are done, 0 to 1."""


@dataclass(frozen=True)
class Ended:
    """The run is over: finished or cancelled with a record, or failed with an error."""

    record: RunRecord | None = None
    error: Exception | None = None


Steps = Generator[Begun | Advanced, None, Ended]


def run_request(request: PredictionRequest, should_stop: Callable[[], bool]) -> Steps:
    """Carry out a request step by step; never raises.

    Qt's generator workers lose a RuntimeError without a trace, and torch raises
    them for everything, so each failure is returned as a value.
    """
    try:
        return (yield from _run(request, should_stop))
    except Exception as error:  # noqa: BLE001 (shown to the user by the receiver)
        return Ended(error=error)


def _run(request: PredictionRequest, should_stop: Callable[[], bool]) -> Steps:
    import torch

    # One core is left to the window, and torch knows of fewer than the machine has: physical
    # cores, OMP_NUM_THREADS. This must come before any other work of torch here.
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) - 1)))
    import_for_runs()
    from unetari.inference.job import prepare

    model = request.get_model()
    size = request.tile_size
    job = prepare(
        request.source,
        model,
        region=request.region,
        scale=request.scale,
        device=request.device,
        precision=request.precision,
        norm_statistics=request.norm_statistics,
        tile_shape=None if size is None else (size,) * model.spec.config.dim,
        scores=request.scores,
    )
    labels = np.zeros(job.labels_shape, job.labels_dtype)
    scores = np.zeros(job.scores_shape, np.float32) if job.wants_scores else None
    yield Begun(job, labels, scores)
    results = start_job(job, should_stop=should_stop)
    while True:
        try:
            result = next(results)
        except StopIteration as end:
            return Ended(record=end.value)
        labels[result.where] = result.labels
        if scores is not None:
            scores[(slice(None), *result.where)] = result.scores
        yield Advanced(result.where, result.progress)


def start_job(
    job: Job, *, should_stop: Callable[[], bool]
) -> Generator[TileResult, None, RunRecord]:
    """Run the engine, which is imported here, in the thread."""
    from unetari.inference.predict import run

    return run(job, should_stop=should_stop)


def predict_in_background(steps: Steps) -> Steps:
    """Relay the steps: the function that the worker runs, and that napari names when it is busy."""
    return (yield from steps)


class PredictionRun(QObject):
    """One prediction in a thread.

    Parameters
    ----------
    request : PredictionRequest
        What to do.
    """

    begun = Signal(object)
    """`Begun`, once, unless it failed or stopped before."""
    advanced = Signal(object)
    """`Advanced`, once per finished part."""
    ended = Signal(object)
    """`Ended`, exactly once."""

    # Keeps runs alive whose panel is gone, until their thread has stopped.
    _alive: ClassVar[set[PredictionRun]] = set()

    def __init__(self, request: PredictionRequest) -> None:
        super().__init__()
        self._stop = threading.Event()
        self._steps = run_request(request, self._should_stop)
        self._outcome = Ended()
        self._worker = create_worker(predict_in_background, self._steps)
        self._worker.yielded.connect(self._relay)
        self._worker.returned.connect(self._keep)
        # Not in the pool of `start`: see Thread.
        self._thread = Thread(self._work, self.cancel)
        self._thread.ended.connect(self._finish)

    @classmethod
    def running(cls) -> tuple[PredictionRun, ...]:
        """Return the runs whose thread has not stopped."""
        return tuple(cls._alive)

    def start(self) -> None:
        """Start the thread."""
        self._alive.add(self)
        self._thread.start()

    def cancel(self) -> None:
        """Ask the run to stop; it does so within one layer of the network."""
        self._stop.set()

    def _should_stop(self) -> bool:
        # napari asks the worker itself to quit when its window closes.
        return self._stop.is_set() or self._worker.abort_requested or is_process_ending()

    def _work(self) -> None:
        self._worker.run()
        # A worker that quits leaves its generator suspended, with all it holds.
        self._steps.close()

    def _relay(self, step: Begun | Advanced) -> None:
        (self.begun if isinstance(step, Begun) else self.advanced).emit(step)

    def _keep(self, outcome: Ended) -> None:
        self._outcome = outcome

    def _finish(self) -> None:
        self._alive.discard(self)
        self.ended.emit(self._outcome)
