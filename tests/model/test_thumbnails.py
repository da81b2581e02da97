"""Small pictures of predictions and covers."""

from __future__ import annotations

from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from unetari.core.source import ImageSource
from unetari.model.thumbnails import MOST_PIXELS, draw_prediction, shrink_picture


@pytest.mark.parametrize(
    ("axes", "shape", "region"),
    [
        ("YX", (600, 900), (slice(None), slice(None))),
        ("YX", (600, 900), (slice(100, 160), slice(200, 300))),
        ("TCZYX", (2, 3, 5, 40, 60), (slice(1, 2), slice(0, 4), slice(8, 40), slice(3, 4))),
        ("YXS", (33, 44, 3), (slice(0, 33), slice(0, 44))),
    ],
)
def test_the_middle_of_a_prediction_is_drawn(
    axes: str, shape: tuple[int, ...], region: tuple[slice, ...]
) -> None:
    image = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    source = ImageSource(image, axes)
    sizes = [len(range(*s.indices(n))) for s, n in zip(region, source.label_shape, strict=True)]
    picture = iio.imread(draw_prediction(source, region, np.ones(sizes, np.uint8)))
    assert picture.shape[2] == 3
    assert max(picture.shape) <= MOST_PIXELS
    assert (picture[..., 0].astype(int) > picture[..., 2]).all()  # orange everywhere
    plain = iio.imread(draw_prediction(source, region, np.zeros(sizes, np.uint8)))
    assert (plain[..., 0] == plain[..., 2]).all()


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_constant_and_broken_images_do_no_harm(value: float) -> None:
    source = ImageSource(np.full((20, 20), value, np.float32), "YX")
    labels = np.zeros((20, 20), np.uint8)
    assert draw_prediction(source, (slice(0, 20), slice(0, 20)), labels)


@pytest.mark.parametrize(
    ("shape", "small"),
    [
        ((300, 1000), (37, 125)),
        ((3, 5000), (1, 125)),
        ((5000, 30), (125, 1)),
        ((1, 129), (1, 64)),
        ((20, 100), (20, 100)),
    ],
)
def test_covers_become_small(shape: tuple[int, int], small: tuple[int, int]) -> None:
    content: bytes = iio.imwrite("<bytes>", np.zeros((*shape, 3), np.uint8), extension=".png")
    assert iio.imread(shrink_picture(content)).shape == (*small, 3)


def bomb() -> Any:
    return iio.imwrite("<bytes>", np.zeros((9000, 9000), np.uint8), extension=".png")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nno", b"GIF89a"])
def test_what_is_no_picture_is_none(content: bytes) -> None:
    assert shrink_picture(content) == b""


def test_a_huge_cover_is_not_decoded() -> None:
    assert shrink_picture(bomb()) == b""
