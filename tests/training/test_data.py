from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetari.core.config import UNetConfig
from unetari.core.normalization import Normalization, fit_intensity
from unetari.errors import ConfigError, ImageFileError, ShapeError
from unetari.training.data import (
    Pair,
    TrainingSample,
    draw_window,
    find_pairs,
    load_samples,
    split_pairs,
)
from unetari.training.options import TrainingOptions


def write(folder: Path, image: NDArray[np.generic], labels: NDArray[np.generic]) -> Pair:
    tifffile.imwrite(folder / "image.tif", image, photometric="minisblack")
    tifffile.imwrite(folder / "labels.tif", labels, photometric="minisblack")
    return Pair("field", folder / "image.tif", folder / "labels.tif")


def test_pairs_are_made_by_name_whatever_the_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.tif images/a.PNG images/notes.txt labels/a.npy labels/b.tif")
    pairs = find_pairs(tmp_path / "images", tmp_path / "labels")
    assert [(pair.name, pair.image.name, pair.labels.name) for pair in pairs] == [
        ("a", "a.PNG", "a.npy"),
        ("b", "b.tif", "b.tif"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("images/a.tif images/b.tif labels/a.tif", "'b' is in .*images and has no partner"),
        ("images/a.tif labels/a.tif labels/b.tif", "'b' is in .*labels and has no partner"),
        ("images/a.tif images/a.png labels/a.tif", "rename or move one"),
        ("images/a.txt labels/a.tif", "holds no images"),
        ("images/a.bmp labels/a.tif", "holds no images"),
        ("labels/a.tif", "no folder"),
    ],
)
def test_files_that_make_no_pairs_are_named(tmp_path: Path, files: str, message: str) -> None:
    touch(tmp_path, files)
    with pytest.raises(ImageFileError, match=message):
        find_pairs(tmp_path / "images", tmp_path / "labels")


def touch(folder: Path, names: str) -> None:
    for name in names.split():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()


def some_pairs(*names: str) -> tuple[Pair, ...]:
    return tuple(Pair(name, Path(name), Path(name)) for name in names)


def test_a_fraction_is_held_out_at_random_but_repeatably() -> None:
    pairs = some_pairs(*map(str, range(20)))
    options = TrainingOptions(validation=0.25)
    training, validation = split_pairs(pairs, options)
    assert len(validation) == 5
    assert sorted(training + validation, key=pairs.index) == list(pairs)
    assert (training, validation) == split_pairs(pairs, options)
    assert validation != split_pairs(pairs, options.replace(seed=1))[1]


def test_named_images_are_held_out_and_excluded() -> None:
    pairs = some_pairs("e1_t1", "e1_t2", "e2_t1", "e2_t2", "e3_t1")
    options = TrainingOptions(validation=("e2_*",), exclude=("e1_t2", "e2_t2"))
    training, validation = split_pairs(pairs, options)
    assert [pair.name for pair in training] == ["e1_t1", "e3_t1"]
    assert [pair.name for pair in validation] == ["e2_t1"]


def test_a_name_without_a_pair_is_refused() -> None:
    with pytest.raises(ConfigError, match="'e7_\\*' matches none"):
        split_pairs(some_pairs("e1", "e2"), TrainingOptions(validation=("e7_*",)))
    with pytest.raises(ConfigError, match="0 pairs to train on"):
        split_pairs(some_pairs("e1", "e2"), TrainingOptions(validation=("e*",)))


def test_normalization_is_that_of_prediction(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 5000, (30, 40), np.uint16)
    options = TrainingOptions(normalization=Normalization(method="percentile", low=5, high=95))
    (sample,) = load_samples(write(tmp_path, image, np.ones((30, 40), np.uint8)), options)
    expected = fit_intensity(options.normalization, [image[np.newaxis]])(image[np.newaxis])
    np.testing.assert_array_equal(sample.image, expected)


def test_a_2d_network_takes_a_stack_plane_by_plane(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 5000, (3, 30, 40), np.uint16)
    labels = np.zeros((3, 30, 40), np.uint16)
    labels[1, 5:9] = 300
    samples = load_samples(write(tmp_path, image, labels), TrainingOptions(axes="ZYX"))
    assert [sample.name for sample in samples] == ["field Z0", "field Z1", "field Z2"]
    assert [len(sample.foreground) for sample in samples] == [0, 160, 0]
    assert samples[1].labels.max() == 1


@pytest.mark.parametrize("scope", ["image", "frame"])
def test_statistics_are_those_of_the_scope(tmp_path: Path, scope: str) -> None:
    image = np.stack([np.full((8, 8), 10), np.full((8, 8), 30)]).astype(np.uint16)
    image[:, 0] += 10
    normalization = Normalization(method="minmax", scope=scope)
    options = TrainingOptions(axes="ZYX", normalization=normalization)
    samples = load_samples(write(tmp_path, image, np.ones_like(image)), options)
    highest = [float(sample.image.max()) for sample in samples]
    assert highest == ([pytest.approx(1 / 3), 1.0] if scope == "image" else [1.0, 1.0])


@pytest.mark.parametrize(
    ("shape", "labels", "error", "message"),
    [
        ((8, 8), np.ones((8, 9), np.uint8), ShapeError, r"\(8, 9\).*8, .*8"),
        ((8, 8, 3), np.ones((8, 8), np.uint8), ShapeError, "3 channels"),
        ((8, 8), np.zeros((8, 8), np.uint8), ImageFileError, "empty"),
        ((8, 8), np.ones((8, 8), np.float32), ImageFileError, "whole numbers"),
        ((8, 8), np.full((8, 8), 2, np.uint8), ImageFileError, "out_channels=3"),
    ],
)
def test_pairs_that_cannot_work_are_refused(
    tmp_path: Path,
    shape: tuple[int, ...],
    labels: NDArray[Any],
    error: type[Exception],
    message: str,
) -> None:
    pair = write(tmp_path, np.ones(shape, np.uint8), labels)
    options = TrainingOptions(axes="YXS"[: len(shape)], target="classes")
    with pytest.raises(error, match=message):
        load_samples(pair, options)


def numbered(shape: tuple[int, ...]) -> TrainingSample:
    """Return a sample whose labels are its image, so that any shift between them shows."""
    labels = np.arange(1, 1 + int(np.prod(shape)), dtype=np.uint16).reshape(shape)
    return TrainingSample("numbered", labels[np.newaxis].astype(np.float32), labels)


@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    patch=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    margin=st.integers(0, 10),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_windows_have_their_size_and_stay_aligned(
    shape: tuple[int, int], patch: tuple[int, int], margin: int, seed: int
) -> None:
    window = [size + 2 * margin for size in patch]
    image, labels = draw_window(
        numbered(shape), patch, window, np.random.default_rng(seed), foreground=0.5
    )
    assert labels.shape == tuple(window)
    np.testing.assert_array_equal(image[0], labels)


def test_a_patch_is_cut_within_an_image_that_holds_it() -> None:
    sample = numbered((20, 30))
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels = draw_window(sample, (16, 16), (16, 16), rng, foreground=0.0)[1]
        assert len(np.unique(labels)) == 256


def test_foreground_is_looked_for() -> None:
    labels = np.zeros((200, 200), np.uint16)
    labels[150:154, 30:34] = 1
    sample = TrainingSample("rare", np.zeros((1, 200, 200), np.float32), labels)
    rng = np.random.default_rng(0)
    hits = [
        draw_window(sample, (16, 16), (16, 16), rng, foreground=1.0)[1].any() for _ in range(20)
    ]
    assert all(hits)


def test_foreground_lies_anywhere_in_the_patch() -> None:
    labels = np.zeros((100, 100), np.uint16)
    labels[50, 50] = 1
    sample = TrainingSample("one", np.zeros((1, 100, 100), np.float32), labels)
    rng = np.random.default_rng(0)
    seen = [
        np.argwhere(draw_window(sample, (16, 16), (16, 16), rng, foreground=1.0)[1])[0]
        for _ in range(400)
    ]
    rows = np.bincount([row for row, _ in seen], minlength=16)
    assert rows.min() > 5
    assert rows.max() < 60
    assert np.abs(np.corrcoef(np.transpose(seen))[0, 1]) < 0.2


def test_channels_are_selected_or_turned_grey(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    pair = write(tmp_path, image, np.ones((8, 9), np.uint8))
    raw = Normalization(method="none")
    green = TrainingOptions(axes="YXS", channel=1, normalization=raw)
    np.testing.assert_array_equal(load_samples(pair, green)[0].image[0], image[..., 1])
    grey = TrainingOptions(axes="YXS", grey=True, normalization=raw)
    assert load_samples(pair, grey)[0].image.shape == (1, 8, 9)
    colour = TrainingOptions(axes="YXS", network=UNetConfig(in_channels=3), normalization=raw)
    assert load_samples(pair, colour)[0].image.shape == (3, 8, 9)
