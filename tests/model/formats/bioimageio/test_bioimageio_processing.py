"""Pre- and postprocessing: equal to the formulas of the specification, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unetari.core.normalization import fit_intensity
from unetari.errors import ModelFileError
from unetari.model.formats.bioimageio.description import Axis, Step, Tensor
from unetari.model.formats.bioimageio.processing import (
    Preprocessing,
    read_postprocessing,
    read_preprocessing,
)

IMAGE = np.random.default_rng(0).gamma(2, 300, (2, 20, 30)).astype(np.float32)


def tensor(*steps: Step, channels: int = 2) -> Tensor:
    axes = (
        Axis("batch", "batch"),
        Axis("channel", "channel", channels, names=("a",) * channels),
        Axis("y", "space", 8, 1),
        Axis("x", "space", 8, 1),
    )
    return Tensor("raw", axes, steps, None)


def step(name: str, **options: Any) -> Step:
    return Step(name, options)


def apply(pre: Preprocessing, image: NDArray[Any]) -> NDArray[Any]:
    mapped = torch.from_numpy(fit_intensity(pre.normalization, [image])(image))[None]
    result: NDArray[Any] = torch.nn.Sequential(*pre.steps)(mapped)[0].numpy()
    return result


def zscore(x: NDArray[Any], axes: tuple[int, ...], eps: float = 1e-6) -> NDArray[Any]:
    result: NDArray[Any] = (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + eps)
    return result


def stretch(
    x: NDArray[Any], low: float, high: float, axes: tuple[int, ...], eps: float
) -> NDArray[Any]:
    lower, upper = np.percentile(x, (low, high), axis=axes, keepdims=True)
    result: NDArray[Any] = (x - lower) / (upper - lower + eps)
    return result


SPACE, ALL = (1, 2), (0, 1, 2)
LINEAR = {"gain": [2.0, -3.0], "offset": [1.0, 0.5], "axis": "channel"}
FIXED = {"mean": [100.0, 200.0], "std": [10.0, 20.0], "axis": "channel"}


@pytest.mark.parametrize(
    ("steps", "reference"),
    [
        ([], lambda x: x),
        ([step("zero_mean_unit_variance", axes=["x", "y"])], lambda x: zscore(x, SPACE)),
        (
            [step("zero_mean_unit_variance", axes=["channel", "y", "x"], eps=0.1)],
            lambda x: zscore(x, ALL, 0.1),
        ),
        ([step("zero_mean_unit_variance")], lambda x: zscore(x, ALL)),
        (
            [
                step(
                    "scale_range",
                    axes=["y", "x"],
                    min_percentile=5.0,
                    max_percentile=99.8,
                    eps=0.05,
                )
            ],
            lambda x: stretch(x, 5, 99.8, SPACE, 0.05),
        ),
        (
            [
                step(
                    "scale_range", axes=["channel", "y", "x"], min_percentile=1, max_percentile=98
                ),
                step("clip", min=0.0, max=1.0),
            ],
            lambda x: stretch(x, 1, 98, ALL, 1e-6).clip(0, 1),
        ),
        ([step("scale_range", axes=["y", "x"])], lambda x: stretch(x, 0, 100, SPACE, 1e-6)),
        ([step("scale_linear", gain=1 / 255, offset=-0.5)], lambda x: x / 255 - 0.5),
        ([step("scale_linear", gain=-2.0, offset=3.0)], lambda x: -2 * x + 3),
        (
            [step("scale_linear", **LINEAR)],
            lambda x: x * np.array([2, -3])[:, None, None] + np.array([1, 0.5])[:, None, None],
        ),
        (
            [step("fixed_zero_mean_unit_variance", mean=103.5, std=13.7)],
            lambda x: (x - 103.5) / 13.7,
        ),
        (
            [step("fixed_zero_mean_unit_variance", **FIXED)],
            lambda x: (x - np.array([100, 200])[:, None, None]) / np.array([10, 20])[:, None, None],
        ),
        (
            [
                step("scale_linear", gain=0.01, offset=5.0),
                step("zero_mean_unit_variance", axes=["y", "x"], eps=0.1),
                step("scale_linear", gain=2.0, offset=1.0),
            ],
            lambda x: 2 * zscore(0.01 * x + 5, SPACE, 0.1) + 1,
        ),
        (
            [step("clip", min=100.0, max=500.0), step("scale_linear", gain=0.1, offset=0.0)],
            lambda x: 0.1 * x.clip(100, 500),
        ),
        ([step("binarize", threshold=400.0)], lambda x: x > 400),
        (
            [
                step("binarize", threshold=[400.0, 500.0], axis="channel"),
                step("ensure_dtype", dtype="uint8"),
                step("ensure_dtype", dtype="float32"),
            ],
            lambda x: x > np.array([400, 500])[:, None, None],
        ),
        ([step("sigmoid")], lambda x: 1 / (1 + np.exp(-x.astype(np.float64)))),
    ],
)
def test_preprocessing_is_that_of_the_specification(
    steps: list[Step], reference: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    float32 = step("ensure_dtype", dtype="float32")
    found = apply(read_preprocessing(tensor(float32, *steps, float32)), IMAGE)
    expected = reference(IMAGE.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def test_statistics_over_many_images_become_those_of_the_image() -> None:
    pre = read_preprocessing(tensor(step("zero_mean_unit_variance", axes=["batch", "y", "x"])))
    assert pre.normalization.scope == "image"
    assert any("statistics over many images" in note for note in pre.notes)
    pre = read_preprocessing(tensor(step("zero_mean_unit_variance", axes=["y", "x"])))
    assert pre.normalization.scope == "frame"
    assert not pre.notes


def test_images_of_another_type_are_mentioned() -> None:
    pre = read_preprocessing(tensor(step("ensure_dtype", dtype="uint8")))
    assert any("expects images of type uint8" in note for note in pre.notes)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([step("zero_mean_unit_variance", axes=["channel", "x"])], "for every position along y"),
        (
            [step("scale_range", axes=["y", "x"], reference_tensor="other")],
            "statistics of another tensor",
        ),
        (
            [step("clip", min=0.0), step("zero_mean_unit_variance", axes=["y", "x"])],
            "statistics of what clip makes",
        ),
        (
            [step("scale_range", axes=["y", "x"]), step("zero_mean_unit_variance")],
            "values that another step has scaled",
        ),
        ([step("clip", min_percentile=1.0, max_percentile=99.0)], "cannot be expressed"),
        ([step("scale_linear", gain=2.0, offset=0.0), step("ensure_dtype", dtype="uint8")],
         "rounds to uint8"),
        ([step("softmax", axis="x")], "taken along x"),
        ([step("scale_linear", gain=[1.0, 2.0], offset=0.0, axis="x")], "not one per channel"),
        ([step("from_the_future")], "not known to this version"),
    ],
)  # fmt: skip
def test_preprocessing_that_cannot_be_exact_is_refused(steps: list[Step], reason: str) -> None:
    with pytest.raises(ModelFileError, match=reason):
        read_preprocessing(tensor(*steps))


def test_the_last_activation_is_the_engines() -> None:
    for name, classes in (("sigmoid", "independent"), ("softmax", "exclusive")):
        post = read_postprocessing(tensor(step("scale_linear", gain=2.0, offset=0.0), step(name)))
        assert (post.output, post.classes, len(post.steps)) == ("logits", classes, 1)


def test_other_postprocessing_becomes_part_of_the_network() -> None:
    post = read_postprocessing(
        tensor(
            step("sigmoid"),
            step("binarize", threshold=0.3),
            step("ensure_dtype", dtype="uint8"),
        )
    )
    assert (post.output, post.classes) == ("probabilities", "independent")
    scores = torch.tensor([[[[-2.0, -0.5, 1.0]]]])
    assert torch.nn.Sequential(*post.steps)(scores).flatten().tolist() == [0, 1, 1]
    unknown = read_postprocessing(tensor(step("clip", min=0.0, max=1.0)))
    assert (unknown.output, unknown.classes) == (None, None)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("zero_mean_unit_variance", {"axes": ["y", "x"]}, "statistics of the whole result"),
        ("scale_mean_variance", {"reference_tensor": "raw"}, "statistics of the whole result"),
        ("scale_range", {}, "statistics of the whole result"),
        ("clip", {"min_percentile": 1.0}, "statistics of the whole result"),
        ("custom", {"callable": "watershed"}, "runs code of the package"),
        ("stardist_postprocessing", {}, "StarDist's polygons into objects"),
        ("cellpose_flow_dynamics", {}, "Cellpose's flows into objects"),
        ("ensure_dtype", {"dtype": "uint8"}, "rounds to uint8"),
    ],
)
def test_postprocessing_that_tiles_cannot_do_is_refused(
    name: str, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelFileError, match=reason):
        read_postprocessing(tensor(step(name, **options)))
