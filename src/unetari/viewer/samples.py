"""File > Open Sample: images as layers, with their voxel size and true mask."""

from __future__ import annotations

from concurrent.futures import Future, wait
from threading import Thread
from typing import TYPE_CHECKING, Any

from napari import current_viewer
from napari.utils import progress

from unetari import samples
from unetari.errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable

    from unetari.samples import Sample

_TICK = 0.05  # seconds

LayerData = tuple[Any, dict[str, Any], str]


def nuclei_2d() -> list[LayerData]:
    """Return generated nuclei, 2D, with their true mask."""
    return to_layers(samples.nuclei_2d())


def nuclei_3d() -> list[LayerData]:
    """Return generated nuclei, 3D, with their true mask."""
    return to_layers(samples.nuclei_3d())


def cells3d() -> list[LayerData]:
    """Return a real volume of nuclei, fetched on first use."""
    return to_layers(_fetch(samples.cells_3d, "cells3d"))


def human_mitosis() -> list[LayerData]:
    """Return a real image of human nuclei, fetched on first use."""
    return to_layers(_fetch(samples.human_mitosis, "human mitosis"))


def to_layers(sample: Sample) -> list[LayerData]:
    """Return a sample as napari layers.

    Parameters
    ----------
    sample : Sample
        Image, and its true mask if that is known.

    Returns
    -------
    list of tuple
        (data, options, kind): an image, and labels with the same placement, hidden
        so that the image can be seen.
    """
    sizes = sample.voxel_size
    place: dict[str, Any] = {"axis_labels": tuple(sample.axes.lower())}
    if sizes:
        place["scale"] = tuple(sizes[letter] for letter in sample.axes)
        place["units"] = ("micrometer",) * len(sample.axes)
    layers: list[LayerData] = [(sample.image, {"name": sample.name, **place}, "image")]
    if sample.mask is not None:
        options = {"name": f"{sample.name}, true mask", "visible": False, **place}
        layers.append((sample.mask, options, "labels"))
    return layers


def _fetch(load: Callable[[], Sample], name: str) -> Sample:
    """Load a sample in a thread, while a moving bar keeps the window alive.

    A slow server must not keep the program alive once its window is closed, so
    the thread is one that Python leaves behind.

    Raises
    ------
    Cancelled
        If the window is closed meanwhile.
    """
    sample: Future[Sample] = Future()
    had_window = current_viewer() is not None
    Thread(target=_settle, args=(sample, load), daemon=True).start()
    # Without an end: the size of the download is not known.
    with progress(total=0, desc=f"Fetching {name}") as bar:
        while wait([sample], timeout=_TICK).not_done:
            bar.update(0)  # napari then handles what the user does meanwhile
            if had_window and current_viewer() is None:
                raise Cancelled(f"The window was closed before the sample {name} was there.")
    return sample.result()


def _settle(future: Future[Sample], load: Callable[[], Sample]) -> None:
    try:
        future.set_result(load())
    except Exception as error:  # noqa: BLE001 (raised where the result is asked for)
        future.set_exception(error)
