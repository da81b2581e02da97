"""Sample data as napari gets it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer

from unetari import samples
from unetari.errors import Cancelled, ImageFileError
from unetari.samples import Sample
from unetari.viewer import samples as viewer_samples


@pytest.mark.parametrize("name", ["nuclei_2d", "nuclei_3d"])
def test_generated_samples_have_a_mask_in_place_and_a_voxel_size(name: str) -> None:
    viewer = ViewerModel()
    for data in getattr(viewer_samples, name)():
        viewer.add_layer(Layer.create(*data))
    image, mask = viewer.layers
    assert image.data.shape == mask.data.shape
    assert mask.data.max() > 10
    assert not mask.visible
    np.testing.assert_array_equal(image.scale, mask.scale)
    assert {str(unit) for unit in image.units} == {"micrometer"}
    assert image.scale[-1] < 1


def test_fetched_samples_are_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = Sample(np.zeros((8, 8), np.uint8), None, "YX", {}, "human mitosis")
    monkeypatch.setattr(samples, "human_mitosis", lambda: fetched)
    ((data, options, kind),) = viewer_samples.human_mitosis()
    assert data is fetched.image
    assert kind == "image"
    assert "scale" not in options


def test_offline_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Sample:
        raise ImageFileError("The sample cells3d cannot be downloaded.")

    monkeypatch.setattr(samples, "cells_3d", fail)
    with pytest.raises(ImageFileError, match="cannot be downloaded"):
        viewer_samples.cells3d()


def test_closing_the_window_ends_the_wait_for_a_slow_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()
    windows: list[object] = ["before", "meanwhile", None]
    monkeypatch.setattr(samples, "cells_3d", lambda: answered.wait(30))
    monkeypatch.setattr(viewer_samples, "current_viewer", lambda: windows.pop(0))
    before = set(threading.enumerate())
    with pytest.raises(Cancelled, match="window was closed"):
        viewer_samples.cells3d()
    (thread,) = set(threading.enumerate()) - before
    # Python waits for all others when it exits.
    assert thread.daemon
    answered.set()
    thread.join()
