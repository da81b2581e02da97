"""The grid that the network sees: same extent, whole partitions, only sensible factors."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetari.core.scaling import RIM, AxisScaling, Scaling, check_factors
from unetari.core.tiles import Span
from unetari.errors import ShapeError

sizes = st.integers(1, 60)
factors = st.floats(0.05, 20) | st.sampled_from([0.3, 0.5, 1.0, 1.5, 2.0, 3.0])


@given(sizes, factors)
def test_both_grids_cover_the_same_extent(size: int, factor: float) -> None:
    axis = AxisScaling(size, factor)
    assert abs(axis.rescaled_size - size * factor) <= 0.5 or axis.rescaled_size == 1
    # The lower edge of the first voxel, and centres one voxel apart.
    lower = axis.in_image(Span(0, 1))[0] - 0.5 / factor
    np.testing.assert_allclose(lower, -0.5, atol=1e-9)
    steps = np.diff(axis.in_image(Span(0, axis.rescaled_size + 1)))
    np.testing.assert_allclose(steps, 1 / factor, rtol=1e-6)


@given(sizes, factors)
def test_the_way_there_and_back_leads_to_the_same_place(size: int, factor: float) -> None:
    axis = AxisScaling(size, factor)
    here = Span(0, axis.rescaled_size)
    there_and_back = (axis.in_image(here) + 0.5) * factor - 0.5
    np.testing.assert_allclose(there_and_back, np.arange(axis.rescaled_size), atol=1e-6)


@settings(max_examples=200)
@given(sizes, factors, st.data())
def test_tiles_partition_the_image(size: int, factor: float, data: st.DataObject) -> None:
    axis = AxisScaling(size, factor)
    n = axis.rescaled_size
    cuts = sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=6))})
    spans = [axis.written(Span(a, b)) for a, b in pairwise(cuts)]
    written = [i for span in spans for i in range(span.start, span.stop)]
    assert written == list(range(size))


@given(sizes, factors, st.data())
def test_interpolation_stays_within_the_rim(size: int, factor: float, data: st.DataObject) -> None:
    axis = AxisScaling(size, factor)
    start = data.draw(st.integers(0, size - 1))
    region = Span(start, data.draw(st.integers(start + 1, size)))
    seen = axis.seen(region)
    assert axis.written(seen).start <= region.start
    assert axis.written(seen).stop >= region.stop
    positions = axis.in_rescaled(region).clip(0, axis.rescaled_size - 1)
    around = axis.around(seen)
    assert around.start <= math.floor(positions[0])
    assert math.ceil(positions[-1]) < around.stop
    assert around.size <= seen.size + 2 * RIM


@given(sizes, factors, st.data())
def test_the_context_holds_both_neighbours(size: int, factor: float, data: st.DataObject) -> None:
    axis = AxisScaling(size, factor)
    start = data.draw(st.integers(0, axis.rescaled_size - 1))
    span = Span(start, data.draw(st.integers(start + 1, axis.rescaled_size)))
    context, positions = axis.context(span), axis.in_image(span)
    assert context.start + axis.radius <= positions[0]
    assert positions[-1] < context.stop - 1 - axis.radius
    assert axis.radius == 0 or factor < 1


def test_sizes_of_a_volume() -> None:
    scaling = Scaling.of((1, 512, 511), (0.3, 2.0, 0.5))
    assert scaling is not None
    assert scaling.rescaled_shape == (1, 1024, 256)
    assert scaling.factors == (0.3, 2.0, 0.5)
    assert scaling.written((Span(0, 1), Span(2, 4), Span(1, 2))) == ((0, 1), (1, 2), (2, 4))
    # Twice as fine: a tile of a single rescaled voxel may write nothing.
    assert scaling.axes[1].written(Span(2, 3)).size == 0


def test_nothing_is_rescaled_by_one() -> None:
    assert Scaling.of((30, 40), None) is None
    assert Scaling.of((30, 40), (1, 1.0)) is None


@pytest.mark.parametrize(
    ("given_factors", "words"),
    [
        ((0, 1), "holds 0,"),
        ((-2, 1), "holds -2"),
        ((math.nan, 1), "holds nan"),
        ((math.inf, 1), "holds inf"),
        ((1e-6, 1), "0.05 to 20"),
        ((1e9, 1), "0.05 to 20"),
        (("2", 1), "holds '2'"),
        ((True, 1), "holds True"),
        ((None, 1), "holds None"),
        ((2,), "one per axis: Y, X"),
        ((1, 1, 1), "3 factors"),
        ("2x2", "must be a sequence of 2 factors"),
        (2.0, "must be a sequence of 2 factors"),
    ],
)
def test_other_factors_are_refused(given_factors: object, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        check_factors(given_factors, 2)  # type: ignore[arg-type]


def test_factors_of_numpy_become_plain_numbers() -> None:
    checked = check_factors(np.array([0.5, 2], np.float32), 2)
    assert checked == (0.5, 2.0)
    assert {type(factor) for factor in checked} == {float}
