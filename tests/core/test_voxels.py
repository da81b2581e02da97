"""Voxel sizes that suit a model, and those that do not."""

from __future__ import annotations

import pytest

from unetari.core.config import UNetConfig
from unetari.core.spec import ModelSpec
from unetari.core.voxels import compare_voxel_sizes


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
