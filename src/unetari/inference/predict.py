"""Tiled prediction: `prepare` a job, `run` it tile by tile.

`run` is a plain generator: the viewer, the command line and a script differ
only in who drains it.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetari.errors import Cancelled
from unetari.inference.allocator import keep_freed_memory
from unetari.inference.decide import TileResult
from unetari.inference.engine import Engine
from unetari.inference.job import Job, prepare
from unetari.inference.record import RunRecord, Seams
from unetari.model.checkpoint import Model


@dataclass(frozen=True)
class Prediction:
    """A finished prediction."""

    labels: NDArray[np.unsignedinteger[Any]]
    """Class per voxel, with the image's axes less channels."""
    scores: NDArray[np.float32] | None
    """Probabilities, (classes, ...), if asked for."""
    record: RunRecord
    """What was done, enough to repeat it."""


def run(
    job: Job, *, should_stop: Callable[[], bool] = lambda: False
) -> Generator[TileResult, None, RunRecord]:
    """Compute a job tile by tile.

    Parameters
    ----------
    job : Job
        From `prepare`.
    should_stop : callable
        Asked often, also between the layers of the network; once true, the
        run ends and what was yielded stays valid.

    Yields
    ------
    TileResult
        Parts of the labels, as they are finished: strips of a tile, or a tile at once.

    Returns
    -------
    RunRecord
        The record of the run, finished or cancelled.

    Raises
    ------
    OutOfMemoryError
        If not even the smallest tile fits.
    """
    planned, clock = job.record(), time.perf_counter()
    engine = Engine(job, should_stop)
    status: Literal["finished", "cancelled"] = "finished"
    seams: Seams | None = None
    with keep_freed_memory():
        try:
            yield from engine.compute()
            seams = engine.measure_seams()
        except Cancelled:
            status = "cancelled"  # what was yielded stays with the caller
        finally:
            engine.close()
    return planned.replace(
        status=status,
        remarks=engine.notes,
        exact=engine.is_exact,
        precision=engine.precision,
        precision_checks=engine.checks,
        tiles_done=engine.tiles_done,
        progress=round(engine.progress, 4),
        tile_shape=engine.tiling.tile_shape,
        strip=engine.tiling.strip,
        batch=engine.tiling.batch,
        seconds=round(time.perf_counter() - clock, 3),
        seams=seams,
    )


def predict_tiles(
    image: Any,
    model: Model | str | os.PathLike[str],
    *,
    axes: str | None = None,
    channel: int | None = None,
    grey: bool = False,
    region: Sequence[slice] | None = None,
    scale: Sequence[float] | None = None,
    device: str = "auto",
    precision: str = "float32",
    norm_statistics: str = "tile",
    tile_shape: Sequence[int] | None = None,
    max_memory: int | None = None,
    scores: bool = False,
) -> Generator[TileResult, None, RunRecord]:
    """Segment an image tile by tile.

    The parameters and errors are those of `predict`; they are checked at once,
    before the first tile is asked for.

    Yields
    ------
    TileResult
        Where it belongs, its labels, and its scores if asked for.

    Examples
    --------
    >>> from unetari import Model, UNetConfig
    >>> model = Model.build(UNetConfig(n_blocks=2, start_filters=4), seed=0)
    >>> image = np.zeros((50, 70), np.uint16)
    >>> [tile.where for tile in predict_tiles(image, model, tile_shape=(50, 56))]
    [(slice(0, 50, None), slice(0, 34, None)), (slice(0, 50, None), slice(34, 70, None))]
    """
    job = prepare(
        image,
        model,
        axes=axes,
        channel=channel,
        grey=grey,
        region=region,
        scale=scale,
        device=device,
        precision=precision,
        norm_statistics=norm_statistics,
        tile_shape=tile_shape,
        max_memory=max_memory,
        scores=scores,
    )
    _warn(job)
    return run(job)


def predict(
    image: Any,
    model: Model | str | os.PathLike[str],
    *,
    axes: str | None = None,
    channel: int | None = None,
    grey: bool = False,
    region: Sequence[slice] | None = None,
    scale: Sequence[float] | None = None,
    device: str = "auto",
    precision: str = "float32",
    norm_statistics: str = "tile",
    tile_shape: Sequence[int] | None = None,
    max_memory: int | None = None,
    scores: bool = False,
) -> Prediction:
    """Segment an image.

    Parameters
    ----------
    image : array-like or ImageSource
        numpy, dask or zarr array of any real dtype.
    model : Model, str or path-like
        A loaded model, the name of a bundled or kept one, or a path.
    axes, channel, grey, region, scale, device, precision, norm_statistics,
    tile_shape, max_memory, scores
        As in `unetari.inference.job.prepare`.

    Returns
    -------
    Prediction
        `labels` has the image's axes less channels, `scores` the classes first.

    Raises
    ------
    AxesError, ShapeError, ModelFileError, DeviceError, OutOfMemoryError
        If the image does not fit the model, the model cannot be loaded, the
        device does not exist, or memory does not suffice.

    Examples
    --------
    >>> from unetari import Model, UNetConfig
    >>> model = Model.build(UNetConfig(n_blocks=2, start_filters=4), seed=0)
    >>> predict(np.zeros((3, 50, 70), np.uint16), model, axes="TYX").labels.shape
    (3, 50, 70)
    """
    job = prepare(
        image,
        model,
        axes=axes,
        channel=channel,
        grey=grey,
        region=region,
        scale=scale,
        device=device,
        precision=precision,
        norm_statistics=norm_statistics,
        tile_shape=tile_shape,
        max_memory=max_memory,
        scores=scores,
    )
    _warn(job)
    return collect(job)


def _warn(job: Job) -> None:
    for text in job.warnings:
        warnings.warn(text, UserWarning, stacklevel=3)


def collect(job: Job) -> Prediction:
    """Run a job to its end and gather the results in memory."""
    labels = np.zeros(job.labels_shape, job.labels_dtype)
    scores = np.zeros(job.scores_shape, np.float32) if job.wants_scores else None
    record = drain_into(run(job), labels, scores)
    return Prediction(labels, scores, record)


def drain_into(
    results: Generator[TileResult, None, RunRecord], labels: Any, scores: Any = None
) -> RunRecord:
    """Drain a run into arrays that take slices (numpy, zarr, memory maps)."""
    while True:
        try:
            result = next(results)
        except StopIteration as end:
            record: RunRecord = end.value
            return record
        labels[result.where] = result.labels
        if scores is not None:
            scores[(slice(None), *result.where)] = result.scores
