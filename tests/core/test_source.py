"""Reading an image by axes: right voxels, only those asked for, whatever the array."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetari.core.source import ArrayLike, ImageSource
from unetari.errors import AxesError, ImageFileError, ShapeError

RNG = np.random.default_rng(5)


def make(axes: str, dtype: str = "uint16") -> NDArray[Any]:
    sizes = {"T": 3, "C": 2, "Z": 4, "Y": 11, "X": 13, "S": 3}
    shape = [sizes[letter] for letter in axes]
    return RNG.integers(0, 250, shape).astype(dtype)


def to_memmap(array: NDArray[Any], folder: Path) -> ArrayLike:
    path = folder / "image.npy"
    np.save(path, array)
    mapped: ArrayLike = np.load(path, mmap_mode="r")
    return mapped


KINDS: dict[str, Callable[[NDArray[Any], Path], ArrayLike]] = {
    "numpy": lambda array, _: array,
    "fortran": lambda array, _: np.asfortranarray(array),
    "dask": lambda array, _: da.from_array(array, chunks=3),
    "zarr": lambda array, _: zarr.array(array, chunks=(2,) * array.ndim),
    "memmap": to_memmap,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", ["TZCYX", "CTZYX", "TZYXC", "TZYXS", "ZTCYX"])
def test_reads_the_right_voxels(kind: str, axes: str, tmp_path: Path) -> None:
    array = make(axes)
    source = ImageSource(KINDS[kind](array, tmp_path), axes)
    order = [axes.index(letter) for letter in ("TZSYX" if "S" in axes else "TZCYX")]
    expected = array.transpose(order)  # (T, Z, C, Y, X)

    plane = source.read({"T": 1, "Z": 3}, (slice(2, 7), slice(0, 13)))
    volume = source.read({"T": 2}, (slice(1, 4), slice(2, 7), slice(5, 6)))

    np.testing.assert_array_equal(plane, expected[1, 3, :, 2:7])
    np.testing.assert_array_equal(volume, expected[2, 1:4, :, 2:7, 5:6].swapaxes(0, 1))
    assert isinstance(plane, np.ndarray)
    assert plane.dtype == array.dtype


@pytest.mark.parametrize("channel", [0, 1, -1, np.int64(1)])
def test_selects_a_channel(channel: int) -> None:
    array = make("ZCYX")
    source = ImageSource(array, "ZCYX", channel=channel)
    assert source.n_channels == 1
    assert source.data_channels == 2
    block = source.read({"Z": 2}, (slice(None), slice(None)))
    np.testing.assert_array_equal(block, array[2, channel][None])


def test_an_image_without_channels_has_one() -> None:
    source = ImageSource(make("YX"), "YX")
    assert source.n_channels == 1
    assert source.read({}, (slice(0, 4), slice(0, 5))).shape == (1, 4, 5)
    assert ImageSource(make("YX"), "YX", channel=0).n_channels == 1


@pytest.mark.parametrize("dtype", [">u2", ">f4", "?", "f2", "i8", "u8"])
def test_dtypes_stay_as_they_are(dtype: str) -> None:
    array = make("YX", dtype)
    block = ImageSource(array, "YX").read({}, (slice(0, 4), slice(0, 5)))
    assert block.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(block[0], array[:4, :5])


@pytest.mark.parametrize("dtype", ["complex64", "O", "U3", "M8[s]"])
def test_refuses_what_is_no_real_number(dtype: str) -> None:
    with pytest.raises(ImageFileError, match="booleans, integers and floats"):
        ImageSource(np.zeros((4, 4), dtype), "YX")


def test_complex_images_get_advice() -> None:
    with pytest.raises(ImageFileError, match=r"numpy\.abs"):
        ImageSource(np.zeros((4, 4), complex), "YX")


def test_grey_is_the_luma() -> None:
    array = make("YXS", "uint8")
    source = ImageSource(array, "YXS", grey=True)
    block = source.read({}, (slice(0, 11), slice(0, 13)))
    assert block.shape == (1, 11, 13)
    assert block.dtype == source.dtype == np.dtype(np.float32)
    np.testing.assert_allclose(block[0], array @ [0.299, 0.587, 0.114], rtol=1e-6)


def test_grey_of_white_is_white() -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    block = ImageSource(white, "YXS", grey=True).read({}, (slice(0, 2), slice(0, 2)))
    np.testing.assert_allclose(block, 255, rtol=1e-6)


def test_three_channels_can_be_grey() -> None:
    array = RNG.random((3, 5, 6))
    block = ImageSource(array, "CYX", grey=True).read({}, (slice(0, 5), slice(0, 6)))
    np.testing.assert_allclose(block[0], np.tensordot([0.299, 0.587, 0.114], array, 1), rtol=1e-5)


def test_alpha_is_dropped() -> None:
    array = RNG.integers(0, 255, (5, 6, 4)).astype(np.uint8)
    source = ImageSource(array, "YXS")
    assert source.n_channels == 3
    block = source.read({}, (slice(0, 5), slice(0, 6)))
    np.testing.assert_array_equal(block, np.moveaxis(array[..., :3], -1, 0))
    assert ImageSource(array, "YXS", grey=True).n_channels == 1
    with pytest.raises(AxesError, match="channel=3"):
        ImageSource(array, "YXS", channel=3)


@pytest.mark.parametrize(
    ("axes", "options", "match"),
    [
        ("CYX", {"channel": 2}, "channel=2 does not exist.*0 to 1"),
        ("CYX", {"channel": -3}, "channel=-3"),
        ("YX", {"channel": 1}, "has 1 channel"),
        ("CYX", {"grey": True}, "has 2 channels"),
        ("YX", {"grey": True}, "has 1 channel"),
        ("YXS", {"grey": True, "channel": 1}, "exclude each other"),
    ],
)
def test_refuses_impossible_choices(axes: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(AxesError, match=match):
        ImageSource(make(axes), axes, **options)


def test_refuses_axes_that_do_not_match() -> None:
    with pytest.raises(AxesError, match="3 axes, and the image has 2"):
        ImageSource(make("YX"), "ZYX")


def test_replacing_checks_again() -> None:
    source = ImageSource(make("CYX"), "CYX")
    assert dataclasses.replace(source, channel=1).n_channels == 1
    with pytest.raises(AxesError):
        dataclasses.replace(source, channel=5)


def test_geometry() -> None:
    source = ImageSource(make("TZCYX"), "tzcyx")
    assert source.axes == "TZCYX"
    assert (source.label_axes, source.label_shape) == ("TZYX", (3, 4, 11, 13))
    assert (source.spatial_axes(2), source.spatial_axes(3)) == ("YX", "ZYX")
    assert (source.spatial_shape(2), source.spatial_shape(3)) == ((11, 13), (4, 11, 13))
    assert (source.loop_axes(2), source.loop_axes(3)) == ("TZ", "T")


def test_a_3d_network_needs_z() -> None:
    with pytest.raises(AxesError, match=r"needs a Z axis.*T 3, Y 11, X 13"):
        ImageSource(make("TYX"), "TYX").spatial_axes(3)


def test_frames() -> None:
    source = ImageSource(make("TCZYX"), "TCZYX")
    assert list(source.frames(3)) == [{"T": 0}, {"T": 1}, {"T": 2}]
    frames = list(source.frames(2))
    assert len(frames) == 12
    assert frames[:2] == [{"T": 0, "Z": 0}, {"T": 0, "Z": 1}]
    assert list(ImageSource(make("YX"), "YX").frames(2)) == [{}]


def test_frames_of_a_region() -> None:
    source = ImageSource(make("TZYX"), "TZYX")
    region = (slice(1, 3), slice(2, 3), slice(0, 5), slice(None))
    assert list(source.frames(2, region)) == [{"T": 1, "Z": 2}, {"T": 2, "Z": 2}]
    assert list(source.frames(3, region)) == [{"T": 1}, {"T": 2}]
    with pytest.raises(AxesError, match=r"1 slices.*TZYX"):
        list(source.frames(2, (slice(None),)))


@pytest.mark.parametrize("box", [(slice(-1, 4), slice(0, 3)), (slice(0, 12), slice(0, 3))])
def test_refuses_boxes_beyond_the_image(box: tuple[slice, ...]) -> None:
    with pytest.raises(ShapeError, match="axis Y, which has 11 px"):
        ImageSource(make("YX"), "YX").read({}, box)


def test_refuses_a_frame_without_all_indices() -> None:
    with pytest.raises(AxesError, match=r"T \(time\)"):
        ImageSource(make("TZYX"), "TZYX").read({"Z": 0}, (slice(0, 2), slice(0, 2)))


class Counting:
    """An array that remembers how many values were read."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.read = 0

    def __getitem__(self, key: Any) -> NDArray[Any]:
        part: NDArray[Any] = self.array[key]
        self.read += part.size
        return part


def test_reads_only_what_is_asked_for() -> None:
    counting = Counting(make("TCZYX"))
    source = ImageSource(counting, "TCZYX", channel=1)
    assert counting.read == 0
    source.read({"T": 0, "Z": 1}, (slice(2, 5), slice(1, 3)))
    assert counting.read == 6


@given(
    axes=st.sampled_from(["TZCYX", "CZYX", "ZYX", "YX", "YXS", "TYX", "TZYXC"]),
    max_bytes=st.integers(1, 4000),
    one_frame=st.booleans(),
    dim=st.sampled_from([2, 3]),
)
@settings(max_examples=60, deadline=None)
def test_blocks_partition_image_or_frame(
    axes: str, max_bytes: int, one_frame: bool, dim: int
) -> None:
    dim = dim if "Z" in axes else 2
    array = make(axes)
    source = ImageSource(array, axes)
    frame = next(source.frames(dim)) if one_frame else None
    blocks = list(source.iter_blocks(dim, frame, max_bytes=max_bytes))

    channel = next((axes.index(letter) for letter in "CS" if letter in axes), None)
    whole = array[None] if channel is None else np.moveaxis(array, channel, 0)
    if frame is not None:
        index: tuple[Any, ...] = (slice(None), *frame.values())
        whole = whole[index]
    together = np.concatenate([block.reshape(len(block), -1) for block in blocks], axis=1)
    np.testing.assert_array_equal(together, whole.reshape(len(whole), -1))
    row = source.n_channels * array.shape[axes.index("X")] * array.itemsize
    assert all(block.nbytes <= max(max_bytes, row) for block in blocks)


def test_blocks_read_everything_once() -> None:
    counting = Counting(make("TZYX"))
    list(ImageSource(counting, "TZYX").iter_blocks(2, max_bytes=100))
    assert counting.read == counting.array.size


def test_an_empty_image_has_no_blocks() -> None:
    assert list(ImageSource(np.zeros((0, 5, 5)), "ZYX").iter_blocks(3)) == []
