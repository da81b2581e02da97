"""Voxel sizes that suit a model, and those that do not."""

from __future__ import annotations

import pytest

from unetari.core.config import UNetConfig
from unetari.core.spec import ModelSpec
from unetari.core.voxels import compare_voxel_sizes, rescale_factors
from unetari.errors import ShapeError


@pytest.mark.parametrize(
    ("size", "word"), [(0.5, ""), (0.62, ""), (0.1, "5 times larger"), (2.0, "4 times smaller")]
)
def test_a_model_for_other_voxel_sizes_is_said(size: float, word: str) -> None:
    note = compare_voxel_sizes({"Y": size, "X": size}, ModelSpec(voxel_size=(0.5, 0.5)))
    assert (word in note) if word else note == ""


def test_only_the_axes_that_are_off_are_named() -> None:
    spec = ModelSpec(config=UNetConfig(dim=3), voxel_size=(1.75, 0.8, 0.8))
    note = compare_voxel_sizes({"Z": 1.75, "Y": 0.2, "X": 0.2}, spec)
    assert note.startswith("Y, X: the model was trained at 0.8")
    assert compare_voxel_sizes({}, spec) == ""


def test_axes_that_are_off_by_different_factors_are_all_named() -> None:
    spec = ModelSpec(config=UNetConfig(dim=3), voxel_size=(2.0, 0.5, 0.5))
    note = compare_voxel_sizes({"Z": 1.0, "Y": 2.0, "X": 2.0}, spec)
    assert note.startswith("Z: the model was trained at 2 ")
    assert "2 times larger" in note
    assert "Y, X: the model was trained at 0.5" in note
    assert "4 times smaller" in note


def test_axes_that_are_off_by_the_same_factor_share_a_sentence() -> None:
    note = compare_voxel_sizes({"Z": 4.0, "Y": 1.0, "X": 1.0}, SPEC)
    assert note.startswith("Z, Y, X: the model was trained at 2 x 0.5 x 0.5 µm")
    assert note.count("2 times smaller") == 1


SPEC = ModelSpec(config=UNetConfig(dim=3), voxel_size=(2.0, 0.5, 0.5))


def test_factors_bring_an_image_to_the_size_of_the_model() -> None:
    assert rescale_factors({"Z": 1.0, "Y": 1.5, "X": 0.5}, SPEC) == (0.5, 3.0, 1.0)


def test_rounding_of_the_sizes_is_no_reason_to_resample() -> None:
    assert rescale_factors({"Z": 1.99, "Y": 0.501, "X": 0.25}, SPEC) == (1.0, 1.0, 0.5)


def test_a_plane_needs_only_the_sizes_that_the_network_sees() -> None:
    assert rescale_factors({"Y": 1.0, "X": 1.0}, ModelSpec(voxel_size=(0.5, 0.5))) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({}, "unknown along Z, Y, X .known: none"),
        ({"Y": 0.5, "X": 0.5}, "unknown along Z .known: Y 0.5, X 0.5"),
        ({"Z": float("nan"), "Y": 0.5, "X": 0.0}, "unknown along Z, X"),
        ({"Z": 2.0, "Y": 0.004, "X": 0.004}, "0.008.*from 0.05 to 20.*bin the image"),
    ],
)
def test_unknown_and_absurd_sizes_are_refused(sizes: dict[str, float], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        rescale_factors(sizes, SPEC)


def test_a_model_without_a_voxel_size_asks_for_factors() -> None:
    with pytest.raises(ShapeError, match=r"does not say .* --scale 1x2x2"):
        rescale_factors({"Z": 1, "Y": 1, "X": 1}, ModelSpec(config=UNetConfig(dim=3)))


def test_sizes_that_cannot_be_are_no_reason_to_warn() -> None:
    assert compare_voxel_sizes({"Z": 0.0, "Y": float("nan"), "X": 0.5}, SPEC) == ""
