"""Image layers become sources without a copy."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
from napari.layers import Image

from unetari.errors import AxesError
from unetari.viewer.layers import guess_layer_axes, layer_source
from unetari.viewer.voxels import voxel_size


def test_data_is_neither_read_nor_copied() -> None:
    data = np.zeros((4, 20, 30), np.uint16)
    assert layer_source(Image(data)).data is data
    lazy = dask.array.zeros((4, 20, 30), chunks=10)
    assert layer_source(Image(lazy)).data is lazy


def test_axes_follow_labels_and_units() -> None:
    image = Image(np.zeros((5, 3, 20, 30)), axis_labels=("z", "c", "y", "x"))
    assert guess_layer_axes(image).axes == "ZCYX"
    image = Image(np.zeros((50, 20, 30)), units=("second", "um", "um"))
    assert guess_layer_axes(image).axes == "TYX"


def test_napari_default_labels_mean_nothing() -> None:
    guess = guess_layer_axes(Image(np.zeros((30, 40))))
    assert guess.axes == "YX"


def test_rgb_has_samples_last() -> None:
    image = Image(np.zeros((20, 30, 3), np.uint8), rgb=True)
    assert layer_source(image).axes == "YXS"
    assert layer_source(image, "yx").axes == "YXS"
    assert layer_source(image, grey=True).n_channels == 1
    assert layer_source(image, channel=2).n_channels == 1


def test_multiscale_gives_the_full_resolution() -> None:
    image = Image([np.zeros((64, 64)), np.zeros((32, 32))], multiscale=True)
    assert layer_source(image).data.shape == (64, 64)


def test_wrong_axes_are_refused() -> None:
    with pytest.raises(AxesError, match="names 3 axes"):
        layer_source(Image(np.zeros((20, 30))), "ZYX")


def test_voxel_sizes_are_in_micrometre() -> None:
    image = Image(np.zeros((4, 20, 30)), scale=(2, 500, 250), units=("second", "nm", "nm"))
    assert voxel_size(image, "TYX") == pytest.approx({"Y": 0.5, "X": 0.25})
    assert voxel_size(Image(np.zeros((20, 30))), "YX") == {}
