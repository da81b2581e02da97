"""One palette for layers, small pictures and covers."""

from __future__ import annotations

import io

import imageio.v3 as iio
import numpy as np
import pytest

from unetari.core.source import ImageSource
from unetari.model.formats.bioimageio.cover import draw_cover
from unetari.model.overlay import label_color
from unetari.model.thumbnails import draw_prediction
from unetari.viewer.results import class_colors


@pytest.mark.parametrize("label", [1, 4, 5, 7, 8, 30])
def test_a_label_has_one_colour_everywhere(label: int) -> None:
    image, labels = np.zeros((16, 16), np.uint8), np.full((16, 16), label, np.uint8)
    whole = (slice(0, 16), slice(0, 16))
    small = iio.imread(io.BytesIO(draw_prediction(ImageSource(image, "YX"), whole, labels)))
    cover = iio.imread(io.BytesIO(draw_cover(image[None], labels)))
    expected = 127.5 * np.array(label_color(label))  # half of it, on black
    np.testing.assert_allclose(small[8, 8], expected, atol=0.6)
    np.testing.assert_allclose(cover[128, 384], expected, atol=0.6)
    assert class_colors(label + 1)[label] == (*label_color(label), 1.0)


def test_the_cover_of_valid_convolution_shows_its_middle_in_colour() -> None:
    picture = iio.imread(draw_cover(np.zeros((1, 16, 16)), np.ones((8, 8), np.uint8)))
    colored = picture[:, 256:, 0] != picture[:, 256:, 2]
    assert colored[64:192, 64:192].all()
    assert colored.sum() == 128 * 128
