"""What each axis means: guesses that are honest, checks that explain."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetari.core.axes import LETTERS, guess_axes, parse_axes
from unetari.errors import AxesError

NAPARI_2D = ("axis -2", "axis -1")
NAPARI_3D = ("axis -3", *NAPARI_2D)
NAPARI_4D = ("axis -4", *NAPARI_3D)


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ("YX", (5, 6), "YX"),
        ("zyx", (4, 5, 6), "ZYX"),
        (" t, c, z, y, x ", (1, 2, 3, 4, 5), "TCZYX"),
        ("YXC", (5, 6, 2), "YXC"),
        ("YXS", (5, 6, 3), "YXS"),
        ("ZYXS", (4, 5, 6, 4), "ZYXS"),
        ("ZTYX", (4, 3, 5, 6), "ZTYX"),
    ],
)
def test_accepts(axes: str, shape: tuple[int, ...], expected: str) -> None:
    assert parse_axes(axes, shape) == expected


@pytest.mark.parametrize(
    ("axes", "shape", "parts"),
    [
        ("QYX", (4, 5, 6), ("'Q'", "T time", "Z depth")),
        ("ZZYX", (3, 4, 5, 6), ("ZZYX", "twice")),
        ("YX", (4, 5, 6), ("2 axes", "has 3", "4 x 5 x 6", "'ZYX'")),
        ("", (4, 5), ("0 axes", "has 2", "'YX'")),
        ("ZX", (4, 5), ("lacks Y or X",)),
        ("CZ", (4, 5), ("lacks Y or X",)),
        ("XYZ", (4, 5, 6), ("out of order", "transpose")),
        ("YZX", (4, 5, 6), ("out of order",)),
        ("SYX", (3, 5, 6), ("last axis",)),
        ("YXS", (5, 6, 2), ("2 samples", "C instead")),
        ("CYXS", (2, 5, 6, 3), ("both C and S",)),
    ],
)
def test_refuses_with_reason(axes: str, shape: tuple[int, ...], parts: tuple[str, ...]) -> None:
    with pytest.raises(AxesError) as caught:
        parse_axes(axes, shape)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "labels", "units", "expected"),
    [
        ((60, 512, 512), ("z", "y", "x"), (), "ZYX"),
        ((60, 512, 512), ("t", "y", "x"), (), "TYX"),
        ((60, 512, 512), ("Time (s)", "Row", "Column"), (), "TYX"),
        ((60, 2, 512, 512), ("z", "channel", "row", "col"), (), "ZCYX"),
        ((60, 5, 512, 512), ("time", "depth", "y", "x"), (), "TZYX"),
        ((512, 512, 7), ("y", "x", "ch"), (), "YXC"),
        ((60, 512, 512), NAPARI_3D, ("second", "micrometer", "micrometer"), "TYX"),
        ((60, 512, 512), (), ("s", "um", "um"), "TYX"),
        ((9, 3, 512, 512), NAPARI_4D, ("minutes", "µm", "µm", "µm"), "TZYX"),
        ((512, 512), NAPARI_2D, (), "YX"),
    ],
)
def test_labels_and_units_are_believed(
    shape: tuple[int, ...], labels: tuple[str, ...], units: tuple[str, ...], expected: str
) -> None:
    guess = guess_axes(shape, axis_labels=labels, units=units)
    assert guess.axes == expected
    assert guess.sure


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((60, 512, 512), "ZYX"),
        ((1, 512, 512), "ZYX"),
        ((10, 60, 512, 512), "TZYX"),
        ((3, 512, 512), "CYX"),
        ((2, 60, 512, 512), "CZYX"),
        ((60, 2, 512, 512), "ZCYX"),
        ((5, 60, 2, 512, 512), "TZCYX"),
        ((5, 2, 60, 512, 512), "TCZYX"),
        ((9, 8, 7, 512, 512), "TCZYX"),
        ((512, 512, 3), "YXC"),
        ((3, 8, 8), "ZYX"),
    ],
)
@pytest.mark.parametrize("labelled", [False, True])
def test_sizes_alone_are_never_sure(shape: tuple[int, ...], expected: str, labelled: bool) -> None:
    # napari labels axes "axis -3" by default, and gives all the unit pixel.
    labels = [f"axis {i - len(shape)}" for i in range(len(shape))] if labelled else []
    guess = guess_axes(shape, axis_labels=labels, units=["pixel"] * len(labels))
    assert guess.axes == expected
    assert not guess.sure


def test_short_axis_is_named_as_the_reason() -> None:
    assert "C because that axis is so much shorter" in guess_axes((3, 512, 512)).reason


def test_one_unit_for_all_axes_says_nothing() -> None:
    guess = guess_axes((10, 60, 512, 512), units=["micrometer"] * 4)
    assert guess.axes == "TZYX"
    assert not guess.sure


def test_a_3d_network_needs_depth_more_than_channels() -> None:
    assert guess_axes((3, 512, 512), dim=3).axes == "ZYX"
    assert guess_axes((3, 512, 512), dim=2).axes == "CYX"
    assert guess_axes((60, 512, 512), dim=2).axes == "ZYX"


def test_a_unit_of_length_is_no_channel() -> None:
    guess = guess_axes((9, 3, 512, 512), units=("pixel", "um", "um", "um"))
    assert guess.axes == "TZYX"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((64, 64, 3), "YXS"), ((20, 64, 64, 4), "ZYXS"), ((5, 20, 64, 64, 3), "TZYXS")],
)
def test_rgb(shape: tuple[int, ...], expected: str) -> None:
    guess = guess_axes(shape, rgb=True, axis_labels=NAPARI_4D[-len(shape) + 1 :])
    assert guess.axes == expected
    assert "RGB" in guess.reason


def test_rgb_with_labels_for_the_other_axes() -> None:
    guess = guess_axes((20, 64, 64, 3), rgb=True, axis_labels=("t", "y", "x"))
    assert (guess.axes, guess.sure) == ("TYXS", True)


def test_samples_may_be_labelled_instead_of_flagged() -> None:
    assert guess_axes((64, 64, 3), axis_labels=("y", "x", "s")).axes == "YXS"


@pytest.mark.parametrize("labels", [("x", "y", "z"), ("z", "z", "x"), ("z", "y", "t")])
def test_unusable_labels_are_ignored_and_said(labels: tuple[str, ...]) -> None:
    guess = guess_axes((60, 512, 512), axis_labels=labels)
    assert guess.axes == "ZYX"
    assert not guess.sure
    assert "ignored" in guess.reason


def test_wrong_number_of_labels_and_units_is_harmless() -> None:
    guess = guess_axes((60, 512, 512), axis_labels=("t",), units=("s",))
    assert guess.axes == "ZYX"


@pytest.mark.parametrize(
    ("shape", "rgb", "fix"),
    [
        ((), False, "Height and width"),
        ((7,), False, "Height and width"),
        ((7, 3), True, "Height and width"),
        ((1,) * 6, False, "Select or drop axes"),
        ((2, 2, 2, 2, 2, 3), True, "Select or drop axes"),
    ],
)
def test_refuses_too_few_or_many_axes(shape: tuple[int, ...], rgb: bool, fix: str) -> None:
    with pytest.raises(AxesError, match=fix):
        guess_axes(shape, rgb=rgb)


ALL_LABELS = st.sampled_from(
    ["", "axis -1", "t", "c", "z", "y", "x", "s", "time", "channel", "Depth", "row", "foo"]
)
ALL_UNITS = st.sampled_from(["pixel", "um", "s", "", "second", "furlong"])


@given(
    shape=st.lists(st.integers(0, 600), min_size=2, max_size=5),
    labels=st.lists(ALL_LABELS, max_size=6),
    units=st.lists(ALL_UNITS, max_size=6),
    dim=st.sampled_from([None, 2, 3]),
)
@settings(max_examples=150, deadline=None)
def test_every_guess_can_be_read(
    shape: list[int], labels: list[str], units: list[str], dim: int | None
) -> None:
    guess = guess_axes(shape, axis_labels=labels, units=units, dim=dim)
    assert parse_axes(guess.axes, shape) == guess.axes
    assert guess.reason.startswith(f"Read as {guess.axes}: ")
    assert guess.reason.endswith(".")
    assert guess_axes(shape, axis_labels=labels, units=units, dim=dim) == guess


@pytest.mark.parametrize("n_axes", [2, 3, 4, 5])
def test_every_readable_order_can_be_labelled(n_axes: int) -> None:
    readable = 0
    for letters in permutations(LETTERS.replace("S", ""), n_axes):
        axes = "".join(letters)
        try:
            parse_axes(axes, (32,) * n_axes)
        except AxesError:
            continue
        readable += 1
        guess = guess_axes((32,) * n_axes, axis_labels=letters)
        assert (guess.axes, guess.sure) == (axes, True)
    assert readable
