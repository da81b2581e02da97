"""New layers with class names, colours and the record; nothing else is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from napari.utils.colormaps import DirectLabelColormap

from unetari.core.source import ImageSource
from unetari.viewer.results import (
    RECORD_KEY,
    add_labels,
    add_scores,
    class_colors,
    write_record,
)

from .conftest import FakeRecord, make_job

REGION = (slice(4, 12), slice(0, 16))


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def image(viewer: ViewerModel) -> Image:
    return viewer.add_image(np.zeros((16, 16)), name="cells")


def test_labels_name_their_classes(viewer: ViewerModel, image: Image) -> None:
    job = make_job(ImageSource(image.data, "YX"), REGION)
    layer = add_labels(viewer, image, job, np.zeros(job.labels_shape, np.uint8))
    assert layer.data.dtype == np.uint8
    assert list(layer.features["index"]) == [0, 1, 2]
    assert list(layer.features["class"]) == ["background", "class 1", "class 2"]
    layer.data[2, 3] = 2
    status = layer.get_status((6, 3), world=True)
    assert "class 2" in str(status)


def test_the_background_is_transparent_and_classes_differ() -> None:
    colors = class_colors(40)
    assert colors[0] == "transparent"
    assert len({str(color) for color in colors.values()}) == 41


def test_labels_show_the_array_that_is_written_to(viewer: ViewerModel, image: Image) -> None:
    job = make_job(ImageSource(image.data, "YX"), REGION)
    labels = np.zeros(job.labels_shape, np.uint8)
    layer = add_labels(viewer, image, job, labels)
    labels[5, 5] = 1
    assert layer.data[5, 5] == 1


def test_every_run_makes_a_new_layer(viewer: ViewerModel, image: Image) -> None:
    job = make_job(ImageSource(image.data, "YX"), REGION)
    first = add_labels(viewer, image, job, np.zeros(job.labels_shape, np.uint8))
    first.data[0, 0] = 2
    second = add_labels(viewer, image, job, np.zeros(job.labels_shape, np.uint8))
    assert first.name == "cells nuclei-2d"
    assert second.name == "cells nuclei-2d [1]"
    assert first.data[0, 0] == 2
    assert list(viewer.layers) == [image, first, second]


def test_metadata_holds_the_record(viewer: ViewerModel, image: Image) -> None:
    job = make_job(ImageSource(image.data, "YX"), REGION)
    layer = add_labels(viewer, image, job, np.zeros(job.labels_shape, np.uint8))
    assert layer.metadata[RECORD_KEY] == {"status": "planned"}
    layer.metadata["mine"] = 1
    write_record(layer, FakeRecord("finished"))  # type: ignore[arg-type]
    assert layer.metadata == {RECORD_KEY: {"status": "finished"}, "mine": 1}


def test_scores_are_an_image_with_the_classes_first(viewer: ViewerModel, image: Image) -> None:
    job = make_job(ImageSource(image.data, "YX"), REGION)
    layer = add_scores(viewer, image, job, np.zeros((3, *job.labels_shape), np.float32))
    assert layer.data.shape == (3, 8, 16)
    assert not layer.visible
    np.testing.assert_allclose(layer.data_to_world((0, 0, 0)), (0, 4, 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_are_those_of_napari(
    viewer: ViewerModel, image: Image, dtype: type[np.unsignedinteger[Any]]
) -> None:
    job = make_job(ImageSource(image.data, "YX"), REGION)
    layer = add_labels(viewer, image, job, np.zeros(job.labels_shape, dtype))
    values = np.arange(200, dtype=dtype).reshape(2, 100)
    expected = DirectLabelColormap(color_dict=class_colors(3))
    np.testing.assert_array_equal(layer.colormap.map(values), expected.map(values))
    layer.selected_label = expected.selection = 2
    layer.show_selected_label = expected.use_selection = True
    np.testing.assert_array_equal(layer.colormap.map(values), expected.map(values))


def test_napari_compiles_nothing_for_labels(
    viewer: ViewerModel, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "napari.utils.colormaps.colormap._accel_cmap.labels_raw_to_texture_direct"
    monkeypatch.setattr(name, lambda *_: pytest.fail("This may be compiled first."))
    job = make_job(ImageSource(image.data, "YX"), REGION)
    layer = add_labels(viewer, image, job, np.ones(job.labels_shape, np.uint8))
    assert layer.thumbnail.any()
