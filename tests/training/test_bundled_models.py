"""The models that come along, on real images that they have not seen, and on generated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetari import samples
from unetari.inference.predict import predict
from unetari.model.bundled import bundled_file, bundled_models
from unetari.model.checkpoint import Model, load_model
from unetari.storage.images import open_image
from unetari.training.data import find_pairs, split_pairs
from unetari.training.options import load_options
from unetari.training.scores import Overlap, overlap

DATA = {"nuclei-2d": "dsb2018_fluo", "nuclei-3d": "bbbc050_mouse_embryo3d"}


def score(model: Model, image: Path, labels: Path) -> Overlap:
    truth = np.asarray(open_image(labels).data) > 0
    return overlap(predict(open_image(image).source(), model).labels, truth)


@pytest.mark.parametrize("name", DATA)
def test_a_model_has_a_card_and_is_small(name: str) -> None:
    assert name in bundled_models()
    file = bundled_file(name)
    assert file is not None
    assert len(file.read_bytes()) < 8e6
    spec = load_model(name).spec
    assert spec.class_names == ("background", "nucleus")
    assert spec.license
    assert spec.data_credit


@pytest.mark.parametrize("name", DATA)
def test_what_is_held_out_is_what_the_recipe_says(
    name: str, shared: Path, repository: Path
) -> None:
    data = shared / "data" / DATA[name]
    options = load_options(repository / "recipes" / f"{name}.toml")
    held_out = split_pairs(find_pairs(data / "images", data / "labels"), options)[1]
    trained = load_model(name).spec.training
    assert trained["validation_images"] == [pair.name for pair in held_out]
    assert trained["options"]["steps"] == options.steps


@pytest.mark.parametrize(
    ("name", "every", "least"), [("nuclei-2d", 6, 0.85), ("nuclei-3d", 4, 0.75)]
)
def test_held_out_images_are_segmented(name: str, every: int, least: float, shared: Path) -> None:
    data = shared / "data" / DATA[name]
    model = load_model(name)
    suffix = ".png" if name == "nuclei-2d" else ".tif"
    counts = [
        score(model, data / "images" / (held_out + suffix), data / "labels" / (held_out + suffix))
        for held_out in model.spec.training["validation_images"][::every]
    ]
    assert sum(counts[1:], start=counts[0]).iou > least


def test_an_image_of_another_set_is_segmented(shared: Path) -> None:
    folder = shared / "data" / "stardist_samples"
    image, truth = (tifffile.imread(folder / name) for name in ("img2d.tif", "mask2d.tif"))
    labels = predict(image, load_model("nuclei-2d"), axes="YX").labels
    assert overlap(labels, truth > 0).iou > 0.75


@pytest.mark.parametrize(("name", "least"), [("nuclei-2d", 0.9), ("nuclei-3d", 0.85)])
def test_generated_images_are_segmented(name: str, least: float) -> None:
    sample = samples.nuclei_2d() if name == "nuclei-2d" else samples.nuclei_3d()
    assert sample.mask is not None
    found = predict(sample.image, load_model(name), axes=sample.axes)
    assert overlap(found.labels, np.asarray(sample.mask) > 0).iou > least
