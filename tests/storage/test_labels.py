import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from unetari.errors import AxesError, ImageFileError, OutputExistsError
from unetari.storage.images import open_image
from unetari.storage.labels import check_output, create_labels

rng = np.random.default_rng(0)
SIZES = {"Z": 1.75, "Y": 0.8, "X": 0.5}
SUFFIXES = [".tif", ".tiff", ".ome.tif", ".npy", ".zarr"]
SHAPES = {"Y": 30, "X": 20, "Z": 5, "T": 3, "C": 2}


def fill(path: Path, data: np.ndarray, axes: str, **options: object) -> None:
    """Write in four boxes, as tiles would come."""
    options = {"voxel_size": SIZES, "unit": "micrometer", **options}
    with create_labels(path, data.shape, data.dtype, axes=axes, **options) as labels:  # type: ignore[arg-type]
        half = data.shape[-1] // 2
        for rows in (slice(0, 7), slice(7, None)):
            for columns in (slice(0, half), slice(half, None)):
                where = (rows, *(slice(None),) * (data.ndim - 2), columns)
                labels[where] = data[where]
        np.testing.assert_array_equal(labels[:], data)


def example(axes: str, dtype: str = "uint8") -> np.ndarray:
    return rng.integers(0, 200, [SHAPES[axis] for axis in axes]).astype(dtype)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("axes", ["YX", "ZYX", "TYX", "TZYX"])
def test_round_trip(tmp_path: Path, suffix: str, axes: str) -> None:
    data = example(axes)
    fill(tmp_path / f"labels{suffix}", data, axes)
    image = open_image(tmp_path / f"labels{suffix}", axes=axes if suffix == ".npy" else None)
    assert image.axes == axes
    assert image.data.dtype == np.uint8
    np.testing.assert_array_equal(image.data[:], data)
    if suffix != ".npy":
        expected = {axis: SIZES[axis] for axis in axes if axis in SIZES}
        assert image.voxel_size == pytest.approx(expected, rel=1e-5)
        assert image.unit == "micrometer"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_every_dtype(tmp_path: Path, suffix: str, dtype: str) -> None:
    data = example("ZYX", dtype)
    fill(tmp_path / f"labels{suffix}", data, "ZYX")
    image = open_image(tmp_path / f"labels{suffix}")
    assert image.data.dtype == dtype
    np.testing.assert_array_equal(image.data[:], data)


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".zarr"])
@pytest.mark.parametrize("axes", ["ZTYX", "CZYX", "ZCTYX"])
def test_unusual_orders_are_stored_in_the_usual_one(tmp_path: Path, suffix: str, axes: str) -> None:
    data = example(axes)
    fill(tmp_path / f"labels{suffix}", data, axes)
    image = open_image(tmp_path / f"labels{suffix}")
    order = "TCZYX" if suffix == ".zarr" else "TZCYX"
    assert image.axes == "".join(axis for axis in order if axis in axes)
    np.testing.assert_array_equal(np.einsum(f"{image.axes}->{axes}", image.data[:]), data)


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".zarr"])
def test_unknown_unit_stays_unknown(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path / f"a{suffix}", example("ZYX"), "ZYX", unit="")
    image = open_image(tmp_path / f"a{suffix}")
    assert image.unit == ""
    assert image.voxel_size == pytest.approx(SIZES, rel=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_not_written_is_background(tmp_path: Path, suffix: str) -> None:
    with create_labels(tmp_path / f"a{suffix}", (6, 8), "uint8", axes="YX") as labels:
        labels[slice(0, 2)] = 3
        labels[slice(4, 6), slice(1, 3)] = np.ones((2, 2))
    data = open_image(tmp_path / f"a{suffix}").data[:]
    assert np.bincount(np.ravel(data)).tolist() == [28, 4, 0, 16]


def test_tiff_is_compressed(tmp_path: Path) -> None:
    with create_labels(tmp_path / "a.tif", (500, 500), "uint8", axes="YX"):
        pass
    assert (tmp_path / "a.tif").stat().st_size < 25_000


def test_zarr_is_ome_zarr_in_chunks(tmp_path: Path) -> None:
    with create_labels(tmp_path / "a.zarr", (2, 40, 600, 600), "uint8", axes="TZYX"):
        pass
    array = zarr.open_group(tmp_path / "a.zarr", mode="r")["0"]
    assert isinstance(array, zarr.Array)
    assert array.chunks == (1, 32, 512, 512)


# Nothing is lost and nothing is left behind


def fail_halfway(path: Path, error: type[BaseException]) -> None:
    with create_labels(path, (30, 20), "uint8", axes="YX", overwrite=True) as labels:
        labels[:] = 1
        raise error


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_failure_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_halfway(tmp_path / f"a{suffix}", KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_never_overwrites_unasked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    old, new = example("YX"), example("YX")
    fill(path, old, "YX")
    with pytest.raises(OutputExistsError, match="overwrite"):
        fill(path, new, "YX")
    np.testing.assert_array_equal(open_image(path).data[:], old)
    fill(path, new, "YX", overwrite=True)
    np.testing.assert_array_equal(open_image(path).data[:], new)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_old_file_survives_a_failing_overwrite(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    old = example("YX")
    fill(path, old, "YX")
    with pytest.raises(ZeroDivisionError):
        fail_halfway(path, ZeroDivisionError)
    np.testing.assert_array_equal(open_image(path).data[:], old)
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with (
        pytest.raises(OutputExistsError),
        create_labels(path, (6, 8), "uint8", axes="YX"),
    ):
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"


def test_folder_that_is_no_zarr_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.txt").touch()
    with pytest.raises(OutputExistsError, match="no zarr"):
        check_output(tmp_path / "a.zarr", overwrite=True)


def test_input_is_never_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", example("YX"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputExistsError, match="input"):
        check_output("a.tif", inputs=[tmp_path / "a.tif"], overwrite=True)
    zarr.create_array(tmp_path / "b.zarr" / "0", data=example("YX"))
    with pytest.raises(OutputExistsError, match="input"):
        check_output("b.zarr", inputs=["b.zarr/0"], overwrite=True)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_link_to_the_input_is_the_input(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", example("YX"))
    (tmp_path / "b.npy").symlink_to(tmp_path / "a.npy")
    with pytest.raises(OutputExistsError, match="input"):
        check_output(tmp_path / "b.npy", inputs=[tmp_path / "a.npy"], overwrite=True)


# What cannot be written


@pytest.mark.parametrize("name", ["labels.png", "labels"])
def test_unknown_suffix_names_the_choices(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageFileError, match=r"\.tif, \.tiff, \.npy, \.zarr"):
        check_output(tmp_path / name)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="Create it first"):
        check_output(tmp_path / "none" / "a.tif")


def test_too_large_for_the_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(ImageFileError, match="free"),
        create_labels(tmp_path / "a.tif", (10**6, 10**6, 10**3), "uint8", axes="ZYX"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("axes", ["Y", "YXS", "QYX"])
def test_axes_must_suit(tmp_path: Path, axes: str) -> None:
    shape = (6, 8, 3)[: len(axes)]
    with (
        pytest.raises((AxesError, ImageFileError)),
        create_labels(tmp_path / "a.tif", shape, "uint8", axes=axes),
    ):
        pass


def test_only_slices_are_taken(tmp_path: Path) -> None:
    with create_labels(tmp_path / "a.npy", (6, 8), "uint8", axes="YX") as labels:
        with pytest.raises(TypeError, match="at most 2 slices"):
            labels[3, 4] = 1  # type: ignore[index]
        with pytest.raises(ValueError, match="broadcast"):
            labels[0:2, 0:2] = np.ones((3, 3))
