import os
import pickle
import struct
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import zarr

from unetari.errors import AxesError, ImageFileError
from unetari.storage.images import open_image

rng = np.random.default_rng(0)
VOLUME = rng.integers(0, 60000, (5, 20, 30), dtype="uint16")
SIZES = {"Z": 1.75, "Y": 0.8, "X": 0.5}


def save_imagej(path: Path, unit: str = "micron", factor: float = 1.0) -> Path:
    y, x, z = (SIZES[axis] / factor for axis in "YXZ")
    metadata = {"axes": "ZYX", "unit": unit, "spacing": z}
    tifffile.imwrite(path, VOLUME, imagej=True, resolution=(1 / x, 1 / y), metadata=metadata)
    return path


def save_ome(path: Path, axes: str, data: np.ndarray, **metadata: object) -> Path:
    tifffile.imwrite(path, data, ome=True, metadata={"axes": axes, **metadata})
    return path


# TIFF


def test_plain_tiff_is_memory_mapped(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VOLUME, photometric="minisblack")
    image = open_image(tmp_path / "a.tif")
    assert isinstance(image.data, np.memmap)
    assert image.axes == "ZYX"
    assert image.voxel_size == {}
    assert image.unit == ""
    np.testing.assert_array_equal(image.data, VOLUME)


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1.0), ("nm", 1e-3), ("\\u00B5m", 1.0)])
def test_imagej_voxel_size_in_micrometer(tmp_path: Path, unit: str, factor: float) -> None:
    image = open_image(save_imagej(tmp_path / "a.tif", unit, factor))
    assert image.axes == "ZYX"
    assert image.unit == "micrometer"
    assert image.voxel_size == pytest.approx(SIZES, rel=1e-5)


def test_imagej_pixels_are_no_length(tmp_path: Path) -> None:
    image = open_image(save_imagej(tmp_path / "a.tif", "pixel"))
    assert image.unit == ""
    assert image.voxel_size == pytest.approx(SIZES, rel=1e-5)


def test_ome_voxel_size_with_mixed_units(tmp_path: Path) -> None:
    path = save_ome(
        tmp_path / "a.ome.tif",
        "ZYX",
        VOLUME,
        PhysicalSizeX=500.0,
        PhysicalSizeXUnit="nm",
        PhysicalSizeY=0.8,
        PhysicalSizeZ=0.00175,
        PhysicalSizeZUnit="mm",
    )
    image = open_image(path)
    assert image.voxel_size == pytest.approx(SIZES)
    assert image.unit == "micrometer"


@pytest.mark.parametrize(
    ("axes", "shape"),
    [("TCZYX", (2, 3, 4, 20, 30)), ("ZCYX", (4, 3, 20, 30)), ("YXS", (20, 30, 3))],
)
def test_ome_axes(tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
    data = rng.integers(0, 255, shape, dtype="uint8")
    image = open_image(save_ome(tmp_path / "a.ome.tif", axes, data))
    assert image.axes == axes
    np.testing.assert_array_equal(image.data, data)


def test_planar_rgb_has_its_samples_last(tmp_path: Path) -> None:
    data = rng.integers(0, 255, (3, 20, 30), dtype="uint8")
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", planarconfig="separate")
    image = open_image(tmp_path / "a.tif")
    assert image.axes == "YXS"
    np.testing.assert_array_equal(image.data, np.moveaxis(data, 0, -1))


def test_centimeter_counts_and_inch_does_not(tmp_path: Path) -> None:
    for unit in ("CENTIMETER", "INCH"):
        path = tmp_path / f"{unit}.tif"
        tifffile.imwrite(
            path, VOLUME[0], resolution=(10000 / 0.5, 10000 / 0.8), resolutionunit=unit
        )
    assert open_image(tmp_path / "CENTIMETER.tif").voxel_size == pytest.approx({"Y": 0.8, "X": 0.5})
    assert open_image(tmp_path / "INCH.tif").voxel_size == {}


def test_first_of_several_images_in_a_tiff_and_says_so(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(VOLUME[0], metadata=None)
        tif.write(np.zeros((7, 9), "uint8"), metadata=None)
    image = open_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.data, VOLUME[0])
    assert any("2 images" in note and "first" in note for note in image.notes)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_truncated_tiff(tmp_path: Path, keep: float, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, VOLUME, compression=compression, photometric="minisblack")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ImageFileError, match=r"a\.tif cannot be read"):
        open_image(path)


@pytest.mark.parametrize("compression", ["zlib", "lzma"])
def test_damaged_compressed_tiff(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, VOLUME, compression=compression, photometric="minisblack")
    with tifffile.TiffFile(path) as tif:
        start, size = tif.pages.first.dataoffsets[0], tif.pages.first.databytecounts[0]
    content = bytearray(path.read_bytes())
    content[start : start + size] = bytes(255 - byte for byte in content[start : start + size])
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match=r"a\.tif cannot be read.*damaged"):
        open_image(path)


def test_tiff_cut_between_its_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for plane in VOLUME:
            tif.write(plane, metadata=None, contiguous=False)
    with tifffile.TiffFile(path) as opened:
        third = opened.pages[2]
        end = third.offset
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ImageFileError, match="cannot be read"):
        open_image(path)


# Pictures


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png_is_lossless(tmp_path: Path, dtype: str) -> None:
    data = VOLUME[0].astype(dtype)
    iio.imwrite(tmp_path / "a.PNG", data)
    image = open_image(tmp_path / "a.PNG")
    assert (image.axes, image.data.dtype) == ("YX", dtype)
    np.testing.assert_array_equal(image.data, data)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_rgb_picture(tmp_path: Path, suffix: str) -> None:
    iio.imwrite(tmp_path / f"a{suffix}", np.zeros((20, 30, 3), "uint8"))
    image = open_image(tmp_path / f"a{suffix}")
    assert (image.axes, image.shape) == ("YXS", (20, 30, 3))
    assert image.source(grey=True).n_channels == 1


def test_grey_with_transparency_is_grey(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", np.dstack([VOLUME[0] >> 8] * 2).astype("uint8"))
    image = open_image(tmp_path / "a.png")
    assert (image.axes, image.shape) == ("YX", (20, 30))
    assert "transparency" in image.notes[0]


def test_truncated_png(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", VOLUME[0])
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:200])
    with pytest.raises(ImageFileError, match="damaged"):
        open_image(tmp_path / "a.png")


# npy


def test_npy_is_memory_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    image = open_image(tmp_path / "a.npy")
    assert isinstance(image.data, np.memmap)
    assert image.axes == "ZYX"


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("trapped"),))


def test_npy_with_pickle_is_refused_unopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.array([Trap(), Trap()], object), allow_pickle=True)
    with pytest.raises(ImageFileError, match="run code"):
        open_image("a.npy")
    Path("b.npy").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ImageFileError, match="cannot be read"):
        open_image("b.npy")
    assert not Path("trapped").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY" + struct.pack("<BBH", 1, 0, 9)]
)
def test_damaged_npy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ImageFileError):
        open_image(tmp_path / "a.npy")


def test_truncated_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-100])
    with pytest.raises(ImageFileError, match="cannot be read"):
        open_image(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros(5), "at least two axes"),
        (np.zeros((0, 5)), "none of them empty"),
        (np.zeros((4, 5), complex), "complex128"),
        (np.full((4, 5), "text"), "takes booleans"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, data: np.ndarray, words: str) -> None:
    np.save(tmp_path / "a.npy", data)
    with pytest.raises(ImageFileError, match=words):
        open_image(tmp_path / "a.npy")


# zarr


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_array_with_attributes(tmp_path: Path, zarr_format: int) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr", data=VOLUME, zarr_format=2 if zarr_format == 2 else 3
    )
    array.attrs.update({"axes": "tyx", "scale": [1, 0.8, 0.5], "unit": "um"})
    image = open_image(tmp_path / "a.zarr")
    assert (image.axes, image.unit) == ("TYX", "micrometer")
    assert image.voxel_size == {"Y": 0.8, "X": 0.5}
    np.testing.assert_array_equal(image.data[:], VOLUME)


def test_zarr_dimension_names(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", data=VOLUME, dimension_names=["time", "y", "x"])
    assert open_image(tmp_path / "a").axes == "TYX"


def test_zarr_array_without_a_word(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=VOLUME)
    image = open_image(tmp_path / "a.zarr")
    assert image.axes == "ZYX"
    assert image.notes


def write_multiscales(group: zarr.Group, version: str, unit: str = "nanometer") -> None:
    axes = [{"name": a, "type": "space", **({"unit": unit} if unit else {})} for a in "zyx"]
    scale = {"type": "scale", "scale": [1750.0, 800.0, 250.0]}
    whole = {"type": "scale", "scale": [1.0, 1.0, 2.0]}
    entry: dict[str, Any] = {
        "axes": axes,
        "datasets": [{"path": "full", "coordinateTransformations": [scale]}],
        "coordinateTransformations": [whole],
    }
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": [entry]}
    else:
        group.attrs["multiscales"] = [{**entry, "version": version}]
    group.create_array("full", data=VOLUME)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(tmp_path: Path, version: str) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    write_multiscales(group, version)
    image = open_image(tmp_path / "a.zarr")
    assert (image.axes, image.unit) == ("ZYX", "micrometer")
    assert image.voxel_size == pytest.approx(SIZES)
    assert isinstance(image.data, zarr.Array)


def test_ome_zarr_without_units_keeps_its_proportions(tmp_path: Path) -> None:
    write_multiscales(zarr.open_group(tmp_path / "a.zarr", mode="w"), "0.5", unit="")
    image = open_image(tmp_path / "a.zarr")
    assert image.unit == ""
    assert image.voxel_size == {"Z": 1750.0, "Y": 800.0, "X": 500.0}


def test_collection_gives_its_first_image(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    write_multiscales(group.create_group("0"), "0.5")
    image = open_image(tmp_path / "a.zarr")
    assert image.shape == VOLUME.shape
    assert "first image" in image.notes[0]


def test_zarr_group_without_image_names_its_members(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("raw", data=VOLUME)
    with pytest.raises(ImageFileError, match="raw"):
        open_image(tmp_path / "a.zarr")
    assert open_image(tmp_path / "a.zarr" / "raw").axes == "ZYX"


def test_ome_zarr_without_its_level(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    write_multiscales(group, "0.5")
    del group["full"]
    with pytest.raises(ImageFileError, match="full-resolution level"):
        open_image(tmp_path / "a.zarr")


@pytest.mark.parametrize("content", ["{", "{}", '{"zarr_format": 9}'])
def test_broken_zarr_metadata(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text(content)
    with pytest.raises(ImageFileError, match=r"a\.zarr"):
        open_image(tmp_path / "a.zarr")


def test_folder_that_is_no_zarr(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="without zarr metadata"):
        open_image(tmp_path)


# Any file


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="does not exist"):
        open_image(tmp_path / "a.tif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the special files of Unix")
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.npy"])
def test_a_pipe_is_refused_without_being_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)  # who opens it waits for a writer
    with pytest.raises(ImageFileError, match="pipe or socket, not a file"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.docx", "a"])
def test_unknown_kind_names_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    with pytest.raises(ImageFileError, match=r"\.tif, .*\.npy"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.npy"])
def test_text_under_another_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("this is no image at all")
    with pytest.raises(ImageFileError, match="cannot be read"):
        open_image(tmp_path / name)


def test_given_axes_take_the_voxel_sizes_along(tmp_path: Path) -> None:
    path = save_imagej(tmp_path / "a.tif")
    image = open_image(path, axes="tyx")
    assert image.axes == "TYX"
    assert image.voxel_size == pytest.approx({"Y": 0.8, "X": 0.5}, rel=1e-5)


def test_frames_that_are_planes_get_the_spacing_of_planes(tmp_path: Path) -> None:
    metadata = {"axes": "TYX", "unit": "um", "spacing": 1.75}
    tifffile.imwrite(tmp_path / "a.tif", VOLUME, imagej=True, metadata=metadata)
    assert "Z" not in open_image(tmp_path / "a.tif").voxel_size
    assert open_image(tmp_path / "a.tif", axes="ZYX").voxel_size["Z"] == 1.75


@pytest.mark.parametrize("imagej", [True, False])
def test_axes_of_one_voxel_come_back_when_they_are_named(tmp_path: Path, imagej: bool) -> None:
    metadata = {"axes": "ZYX"}
    tifffile.imwrite(
        tmp_path / "a.tif", VOLUME[:1], imagej=imagej, ome=not imagej, metadata=metadata
    )
    assert open_image(tmp_path / "a.tif").axes == "YX"
    image = open_image(tmp_path / "a.tif", axes="tzyx")
    assert (image.axes, image.shape) == ("TZYX", (1, *VOLUME[:1].shape))
    np.testing.assert_array_equal(image.data[0], VOLUME[:1])
    assert open_image(tmp_path / "a.tif", axes="YXC").shape == (*VOLUME.shape[1:], 1)
    with pytest.raises(AxesError, match="names 1"):
        open_image(tmp_path / "a.tif", axes="X")


def test_axes_that_do_not_suit(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    with pytest.raises(AxesError):
        open_image(tmp_path / "a.npy", axes="YX")


# Real files


def test_real_png(shared: Path) -> None:
    path = next((shared / "data/dsb2018_fluo/images").glob("*.png"))
    image = open_image(path)
    assert (image.axes, image.data.dtype) == ("YX", "uint8")


def test_real_volume(shared: Path) -> None:
    image = open_image(shared / "data/bbbc050_mouse_embryo3d/images/Emb01_t451.tif")
    assert (image.axes, image.shape) == ("ZYX", (51, 124, 127))
    assert image.source().spatial_shape(3) == (51, 124, 127)


def test_real_ome_zarr(shared: Path) -> None:
    image = open_image(shared / "data/omezarr_cardiomyocyte/cardiomyocyte_mip_small.zarr")
    assert (image.axes, image.shape) == ("CZYX", (3, 1, 1080, 1280))
    assert image.voxel_size == {"Z": 1.0, "Y": 0.65, "X": 0.65}
    assert image.unit == "micrometer"
    assert image.source(channel=0).n_channels == 1
