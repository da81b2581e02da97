"""Intensity maps: right numbers, the same for any chunking, defined for odd images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetari.core import statistics
from unetari.core.normalization import (
    IntensityMap,
    Method,
    Normalization,
    describe_intensities,
    fit_intensity,
)
from unetari.errors import ConfigError, ImageFileError, ShapeError

METHODS: tuple[Method, ...] = ("percentile", "zscore", "minmax", "range", "none")
DTYPES = ["?", "u1", "i1", ">u2", "i2", "u4", ">i4", "i8", "u8", "f2", "f4", ">f4", "f8", "g"]


def make(dtype: str, shape: tuple[int, ...] = (2, 6, 17, 19)) -> NDArray[Any]:
    values = np.random.default_rng(3).gamma(2, 12, shape).clip(0, 120)
    return (values > 20).astype(dtype) if dtype == "?" else values.astype(dtype)


def fit(method: Method, *blocks: NDArray[Any]) -> IntensityMap:
    return fit_intensity(Normalization(method=method), blocks)


def cut(image: NDArray[Any], seed: int) -> list[NDArray[Any]]:
    """Cut (C, Z, Y, X) into blocks at random places and shuffle them."""
    rng = np.random.default_rng(seed)
    z, y, x = (sorted({0, n, *rng.integers(1, n, 2).tolist()}) for n in image.shape[1:])
    blocks = [
        image[:, z0:z1, y0:y1, x0:x1]
        for z0, z1 in itertools.pairwise(z)
        for y0, y1 in itertools.pairwise(y)
        for x0, x1 in itertools.pairwise(x)
    ]
    return [blocks[i] for i in rng.permutation(len(blocks))]


@pytest.mark.parametrize("dtype", DTYPES)
def test_percentiles_are_those_of_numpy(dtype: str) -> None:
    image = make(dtype)
    fitted = fit("percentile", image)
    for channel in range(2):
        low, high = np.percentile(image[channel].astype(np.float64), [1.0, 99.8])
        assert fitted.offset[channel] == pytest.approx(low, rel=1e-12)
        assert 1 / fitted.scale[channel] == pytest.approx(high - low, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zscore_gives_zero_mean_and_unit_variance(dtype: str) -> None:
    image = make(dtype)
    mapped = fit("zscore", image)(image)
    assert mapped.mean(axis=(1, 2, 3)) == pytest.approx(0, abs=1e-4)
    assert mapped.std(axis=(1, 2, 3)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_minmax_spans_zero_to_one(dtype: str) -> None:
    image = make(dtype)
    mapped = fit("minmax", image)(image)
    assert mapped.min(axis=(1, 2, 3)) == pytest.approx(0)
    assert mapped.max(axis=(1, 2, 3)) == pytest.approx(1)


def test_range_and_none() -> None:
    image = np.array([[-10.0, 0.0, 50.0, 200.0]])
    ranged = fit_intensity(Normalization(method="range", low=0, high=100), [image])
    np.testing.assert_allclose(ranged(image), [[-0.1, 0, 0.5, 2]], rtol=1e-6)
    np.testing.assert_array_equal(fit("none", image)(image), image.astype(np.float32))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_result_is_float32_and_input_unchanged(method: Method, dtype: str) -> None:
    image = make(dtype)
    image.flags.writeable = False
    mapped = fit(method, image)(image)
    assert mapped.dtype == np.float32
    assert mapped.shape == image.shape
    assert np.isfinite(mapped).all()


@given(seed=st.integers(0, 10**6), dtype=st.sampled_from(DTYPES), method=st.sampled_from(METHODS))
@settings(max_examples=60, deadline=None)
def test_chunking_and_order_change_nothing(seed: int, dtype: str, method: Method) -> None:
    image = make(dtype)
    if image.dtype.kind == "f":
        image[0, 1, 2, 3:9] = [np.nan, np.inf, -np.inf, np.nan, np.inf, np.nan]
    whole, parts = fit(method, image), fit(method, *cut(image, seed))
    if method == "zscore":
        np.testing.assert_allclose(parts.offset, whole.offset, rtol=1e-12)
        np.testing.assert_allclose(parts.scale, whole.scale, rtol=1e-9)
    elif method in ("range", "none") and image.dtype.kind != "f":
        assert (parts.offset, parts.scale) == (whole.offset, whole.scale)
    else:
        assert parts == whole


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u8"])
def test_more_values_than_bins_still_agree(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_BINS", 2**12)
    monkeypatch.setattr(statistics, "PIECE", 5000)
    image = np.random.default_rng(1).gamma(2, 1e6, (1, 20, 50, 60)).astype(dtype)
    whole = fit("percentile", image)
    assert fit("percentile", *cut(image, 7)) == whole
    low, high = np.percentile(image.astype(np.float64), [1.0, 99.8])
    assert whole.offset[0] == pytest.approx(low, abs=1e-3 * (high - low))
    assert 1 / whole.scale[0] == pytest.approx(high - low, rel=2e-3)


def test_a_large_offset_keeps_its_digits() -> None:
    image = np.float64(1e9) + np.random.default_rng(0).random((1, 40, 50))
    for method in ("percentile", "zscore", "minmax"):
        mapped = fit(method, image)(image)
        assert 0.2 < mapped.std() < 1.1
        assert len(np.unique(mapped)) > 1500


def test_zscore_of_many_pieces_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    image = (1e6 + np.random.default_rng(0).normal(size=(1, 100, 90))).astype(np.float32)
    whole = fit("zscore", image)
    monkeypatch.setattr(statistics, "PIECE", 37)
    pieces = fit("zscore", image)
    np.testing.assert_allclose(pieces.offset, whole.offset, rtol=1e-6)
    np.testing.assert_allclose(pieces.scale, whole.scale, rtol=1e-6)


@pytest.mark.parametrize("method", ["percentile", "zscore", "minmax"])
@pytest.mark.parametrize("value", [0.0, -3.5, 1e30, 7.1])
def test_a_constant_channel_becomes_zeros(method: Method, value: float) -> None:
    image = np.stack([np.full((20, 30), value), np.random.default_rng(0).random((20, 30))])
    mapped = fit(method, image)(image)
    assert not mapped[0].any()
    assert mapped[1].any()


def test_a_constant_image_of_integers_becomes_zeros() -> None:
    image = np.full((1, 5, 5), 65535, np.uint16)
    for method in ("percentile", "zscore", "minmax"):
        assert not fit(method, image)(image).any()


def test_fixed_maps_leave_constants_alone() -> None:
    image = np.full((1, 5, 5), 50, np.uint8)
    ranged = fit_intensity(Normalization(method="range", low=0, high=100), [image])
    assert ranged(image) == pytest.approx(0.5)
    assert fit("none", image)(image) == pytest.approx(50)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_what_is_not_finite_takes_the_nearest_extreme(method: Method, dtype: str) -> None:
    clean = make("f8", (1, 15, 20)).astype(dtype)
    image = np.concatenate([clean, np.full((1, 1, 20), np.nan, dtype)], axis=1)
    image[0, -1, 5:8] = np.inf
    image[0, -1, 8:11] = -np.inf
    fitted = fit(method, image)
    assert (fitted.offset, fitted.scale) == (fit(method, clean).offset, fit(method, clean).scale)
    mapped = fitted(image)[0]
    assert np.isfinite(mapped).all()
    assert mapped[-1, 5:8] == pytest.approx(mapped[:-1].max())
    assert mapped[-1, 8:] == pytest.approx(mapped[:-1].min())
    assert np.isnan(image[0, -1, 0]), "the input was changed"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_finite_becomes_zeros(method: Method, value: float) -> None:
    image = np.full((1, 8, 9), value, np.float32)
    normalization = Normalization(method=method, low=0.0, high=99.8)
    assert not fit_intensity(normalization, [image])(image).any()


def test_sparse_signal_falls_back_to_the_extremes() -> None:
    image = np.zeros((1, 100, 100), np.uint8)
    image[0, 50, 50] = 200
    mapped = fit("percentile", image)(image)
    assert (mapped.min(), mapped.max()) == (0, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["u8", "i8", "f8", "f4", "f2"])
def test_extreme_values_stay_finite(method: Method, dtype: str) -> None:
    limits = np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype)
    image = np.array([[limits.min, 0, 1, 2, limits.max]], dtype)
    assert np.isfinite(fit(method, image)(image)).all()


def test_denormal_spans_count_as_constant() -> None:
    image = np.array([[0.0, 5e-324]])
    assert not fit("minmax", image)(image).any()


@pytest.mark.parametrize("shape", [(1, 50), (1, 5, 10), (1, 1, 5, 2, 5)])
def test_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    image = np.arange(50, dtype=np.uint8).reshape(shape)
    mapped = fit("minmax", image)(image)
    np.testing.assert_allclose(mapped.ravel(), np.arange(50) / 49, rtol=1e-6)


def test_a_map_gives_the_same_for_parts_as_for_the_whole() -> None:
    image = make("f4")
    fitted = fit("percentile", image)
    np.testing.assert_array_equal(fitted(image[:, 2:4, 3:]), fitted(image)[:, 2:4, 3:])


def test_non_contiguous_blocks() -> None:
    image = make("u2")
    assert fit("percentile", image[:, ::2, ::-1]) == fit("percentile", image[:, ::2].copy())


def test_blocks_are_streamed() -> None:
    alive: list[int] = []

    def blocks() -> Iterator[NDArray[Any]]:
        for i in range(5):
            alive.append(i)
            yield np.full((1, 4, 4), i, np.uint8)

    assert fit_intensity(Normalization(method="minmax"), blocks()).high == (4.0,)
    assert alive == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", ["range", "none"])
def test_maps_without_statistics_read_one_block_of_integers(method: Method) -> None:
    def blocks() -> Iterator[NDArray[Any]]:
        yield np.zeros((2, 4, 4), np.uint16)
        pytest.fail("read a second block")

    assert fit_intensity(Normalization(method=method), blocks()).n_channels == 2


def test_refuses_no_blocks() -> None:
    with pytest.raises(ShapeError, match="no blocks"):
        fit_intensity(Normalization(), [])


def test_empty_blocks_are_harmless() -> None:
    image = make("u2")
    assert fit("percentile", image[:, :0], image) == fit("percentile", image)


def test_refuses_other_numbers_of_channels() -> None:
    image = make("u1")
    with pytest.raises(ShapeError, match="2 channels"):
        fit("minmax", image, image[:1])
    with pytest.raises(ShapeError, match="2 channels"):
        fit("minmax", image)(image[:1])
    with pytest.raises(ShapeError, match="has no channels"):
        fit("minmax", np.zeros((0, 4)))


def test_refuses_complex_numbers() -> None:
    with pytest.raises(ImageFileError, match=r"numpy\.abs"):
        fit("minmax", np.zeros((1, 4), complex))
    with pytest.raises(ImageFileError, match="complex128"):
        fit("minmax", make("u1"))(np.zeros((2, 4), complex))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "median"}, "percentile"),
        ({"low": 5, "high": 5}, "low smaller"),
        ({"low": -1}, "between 0 and 100"),
        ({"high": 101}, "between 0 and 100"),
        ({"method": "range", "low": 0, "high": np.inf}, "finite"),
        ({"scope": "tile"}, "frame"),
        ({"clip": True}, "unknown option"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Normalization(**options)


def test_a_normalization_is_said_in_a_few_words() -> None:
    texts = {
        method: describe_intensities(Normalization(method=method, low=1, high=50))
        for method in METHODS
    }
    assert texts["percentile"] == "percentiles 1 and 50 to 0 and 1, of the whole image"
    assert texts["range"] == "fixed range 1 and 50 to 0 and 1"
    assert texts["none"] == "unchanged"


def test_channels_together_share_their_statistics() -> None:
    first = np.arange(60.0).reshape(3, 4, 5)
    image = np.stack([first, 100 + 5 * first])
    for method in ("percentile", "zscore", "minmax"):
        fitted = fit_intensity(Normalization(method=method, channels="together"), cut(image, 3))
        alone = fit(method, image.reshape(1, -1))
        np.testing.assert_allclose(fitted.offset, alone.offset * 2, rtol=1e-12)
        np.testing.assert_allclose(fitted.scale, alone.scale * 2, rtol=1e-12)


def test_eps_is_added_to_the_spread() -> None:
    image = np.random.default_rng(0).normal(5, 1e-3, (1, 30, 40))
    spread = np.percentile(image, 99.8) - np.percentile(image, 1)
    for method, expected in [
        ("zscore", (image - image.mean()) / (image.std() + 0.01)),
        ("minmax", (image - image.min()) / (np.ptp(image) + 0.01)),
        ("percentile", (image - np.percentile(image, 1)) / (spread + 0.01)),
    ]:
        mapped = fit_intensity(Normalization(method=method, eps=0.01), [image])(image)
        np.testing.assert_allclose(mapped, expected, rtol=1e-4, atol=1e-6)


def test_equal_percentiles_are_divided_by_eps() -> None:
    image = np.zeros((1, 100, 100), np.uint8)
    image[0, 50, 50] = 200
    mapped = fit_intensity(Normalization(eps=0.5), [image])(image)
    assert (mapped.min(), mapped.max()) == (0, 400)


def test_together_is_said() -> None:
    text = describe_intensities(Normalization(method="zscore", channels="together"))
    assert text == "mean 0, variance 1, of the whole image, all channels together"
