"""Does the image fit? Reports are right, say why, and offer fixes that work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetari.core.config import UNetConfig
from unetari.core.shapes import Fix, ShapeReport, check_shape
from unetari.core.sizes import Reach
from unetari.core.source import ImageSource
from unetari.errors import AxesError, ShapeError


def kinds(report: ShapeReport) -> list[tuple[str, int | None]]:
    return [(fix.kind, fix.value) for fix in report.fixes]


def test_a_fitting_image_needs_nothing() -> None:
    report = check_shape(UNetConfig(), (512, 512))
    assert report.fits
    assert report.can_predict
    assert (report.problems, report.notes, report.fixes) == ((), (), ())
    assert report.sentences() == ["Y and X: 512 px fits as it is, being a multiple of 8."]


def test_an_axis_report_has_all_the_numbers() -> None:
    (y, x) = check_shape(UNetConfig(), (510, 1920)).axes
    assert (y.axis, y.size, y.multiple, y.levels) == ("Y", 510, 8, (510, 255))
    assert (y.max_level, y.max_blocks, y.smaller, y.larger) == (1, 2, 504, 512)
    assert (y.pad, y.output_size, y.fits, y.thin) == (2, 510, False, False)
    assert (x.max_level, x.max_blocks, x.smaller, x.larger) == (7, 8, 1920, 1920)
    assert (x.pad, x.fits) == (0, True)


def test_an_odd_size_is_a_note_with_fixes() -> None:
    report = check_shape(UNetConfig(), (510, 512))
    assert report.can_predict
    assert not report.fits
    assert report.notes == (
        "Y: 510 px is not a multiple of 8: prediction pads to 512, mirrored, and crops the result.",
    )
    assert kinds(report) == [("pad", 2), ("n_blocks", 2)]


def test_no_impossible_number_of_blocks_is_proposed_for_odd_sizes() -> None:
    report = check_shape(UNetConfig(), (511, 512))
    assert kinds(report) == [("pad", 1)]
    assert not any("blocks" in sentence for sentence in report.sentences())


def test_one_block_takes_every_size() -> None:
    report = check_shape(UNetConfig(n_blocks=1), (7, 1))
    assert report.fits
    assert not report.notes


def test_rgb_into_a_network_with_one_channel() -> None:
    report = check_shape(UNetConfig(), (512, 512, 3), "YXS")
    assert not report.can_predict
    assert "3 channels, and the network takes 1" in report.problems[0]
    assert kinds(report) == [
        ("channel", 0),
        ("channel", 1),
        ("channel", 2),
        ("grey", None),
        ("in_channels", 3),
    ]


@pytest.mark.parametrize(
    ("axes", "dtype", "offered"),
    [
        ("YXS", np.uint16, True),
        ("YXC", np.uint8, True),
        ("YXC", np.uint16, False),
        ("CYX", np.uint8, False),
        ("CYX", np.float32, False),
    ],
)
def test_only_what_may_be_rgb_is_offered_as_grey(axes: str, dtype: type, offered: bool) -> None:
    shape = [3 if letter in "CS" else 64 for letter in axes]
    report = check_shape(UNetConfig(), ImageSource(np.zeros(shape, dtype), axes))
    assert (("grey", None) in kinds(report)) is offered
    assert ("grey" in report.problems[0]) is offered


def test_two_channels_cannot_be_grey() -> None:
    report = check_shape(UNetConfig(), (2, 512, 512), "CYX")
    assert kinds(report) == [("channel", 0), ("channel", 1), ("in_channels", 2)]


def test_one_channel_into_a_network_with_three() -> None:
    report = check_shape(UNetConfig(in_channels=3), (512, 512))
    assert "1 channel, and the network takes 3" in report.problems[0]
    assert kinds(report) == [("in_channels", 1)]


def test_a_selected_channel_can_be_given_back() -> None:
    source = ImageSource(np.zeros((3, 64, 64), np.uint8), "CYX", channel=1)
    assert check_shape(UNetConfig(), source).fits
    report = check_shape(UNetConfig(in_channels=3), source)
    assert kinds(report) == [("channel", None), ("in_channels", 1)]


def test_channel_fixes_solve_the_problem() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    for fix in check_shape(UNetConfig(), image.shape, "YXS").fixes:
        grey = fix.kind == "grey"
        channel = fix.value if fix.kind == "channel" else None
        wanted = fix.value if fix.kind == "in_channels" else 1
        config = UNetConfig(in_channels=wanted)
        source = ImageSource(image, "YXS", channel=channel, grey=grey)
        assert check_shape(config, source).can_predict


def test_a_3d_network_without_z() -> None:
    report = check_shape(UNetConfig(dim=3), (20, 512, 512), "TYX")
    assert not report.can_predict
    assert "no Z axis (T 20, Y 512, X 512)" in report.problems[0]
    assert kinds(report) == [("slice_by_slice", None)]
    assert [axis.axis for axis in report.axes] == ["Y", "X"]


@pytest.mark.parametrize(
    ("shape", "axes"), [((0, 5), "YX"), ((0, 5, 5), "TYX"), ((0, 5, 5), "CYX")]
)
def test_an_empty_axis_blocks(shape: tuple[int, ...], axes: str) -> None:
    report = check_shape(UNetConfig(), shape, axes)
    assert not report.can_predict
    assert report.problems == (f"Axis {axes[0]} is empty (size 0). Load an image with data.",)


@pytest.mark.parametrize(("depth", "thin"), [(1, True), (5, True), (8, True), (9, False)])
def test_thin_means_one_voxel_on_the_deepest_level(depth: int, thin: bool) -> None:
    report = check_shape(UNetConfig(dim=3), (depth, 64, 64), "ZYX")
    assert report.axes[0].thin is thin
    assert report.can_predict
    assert (("slice_by_slice", None) in kinds(report)) is thin
    assert any("thin" in note for note in report.notes) is thin


def test_the_fewer_blocks_proposed_for_a_thin_volume_suffice() -> None:
    config = UNetConfig(dim=3)
    blocks = [fix.value for fix in check_shape(config, (5, 64, 64)).fixes if fix.kind == "n_blocks"]
    assert blocks == [3]
    assert not check_shape(config.replace(n_blocks=3), (5, 64, 64)).axes[0].thin


def test_a_thin_plane_is_not_told_to_go_2d() -> None:
    report = check_shape(UNetConfig(), (8, 8))
    assert kinds(report) == [("n_blocks", 3)]
    assert "2D network" not in " ".join(report.sentences())


def test_what_is_looped_over_is_said() -> None:
    assert any(
        "300 planes (T 10, Z 30)" in fact
        for fact in check_shape(UNetConfig(), (10, 30, 64, 64), "TZYX").facts
    )
    assert any(
        "10 volumes (T 10)" in fact
        for fact in check_shape(UNetConfig(dim=3), (10, 32, 64, 64), "TZYX").facts
    )
    assert not any("planes" in fact for fact in check_shape(UNetConfig(), (64, 64)).facts)


def test_valid_convolution_reports_a_plain_pass() -> None:
    config = UNetConfig(n_blocks=5, conv_mode="valid")
    (y, x) = check_shape(config, (572, 512)).axes
    assert (y.fits, y.output_size, y.smaller, y.larger) == (True, 388, 572, 572)
    assert (x.fits, x.output_size, x.smaller, x.larger) == (False, 508 - 184, 508, 524)
    assert y.pad == 572 + 192 - 572
    report = check_shape(config, (572, 512))
    assert report.can_predict
    assert "loses 92 px on each side" in report.notes[0]
    assert report.notes[1].startswith("X: 512 px")


def test_valid_convolution_on_a_tiny_image() -> None:
    report = check_shape(UNetConfig(n_blocks=5, conv_mode="valid"), (20, 20))
    assert report.can_predict
    assert report.axes[0].smaller is None
    assert report.axes[0].output_size == 0
    assert report.axes[0].thin


CONFIGS = st.builds(
    lambda dim, n_blocks, conv_mode, channels: UNetConfig(
        dim=dim, n_blocks=n_blocks, conv_mode=conv_mode, in_channels=channels, start_filters=1
    ),
    st.sampled_from([2, 3]),
    st.integers(1, 6),
    st.sampled_from(["same", "valid"]),
    st.integers(1, 4),
)


@given(
    config=CONFIGS,
    axes=st.sampled_from(["YX", "ZYX", "CYX", "TCZYX", "YXS", "YXC"]),
    sizes=st.lists(st.integers(0, 700), min_size=5, max_size=5),
)
@settings(max_examples=150, deadline=None)
def test_every_report_is_consistent(config: UNetConfig, axes: str, sizes: list[int]) -> None:
    shape = [3 if letter == "S" else size for letter, size in zip(axes, sizes, strict=False)]
    report = check_shape(config, shape, axes)
    rule = Reach.of(config).rule
    for axis in report.axes:
        assert axis.fits == rule.allows(axis.size) == (axis.larger == axis.size)
        assert (axis.smaller or 0) <= axis.size <= axis.larger
        assert axis.levels[0] == axis.size
        assert axis.max_level == len(axis.levels) - 1
        assert rule.allows(axis.size + axis.pad)
        assert axis.size + axis.pad - 2 * rule.loss >= axis.size
    sentences = report.sentences()
    assert sentences
    assert all(sentence.endswith(".") for sentence in sentences)
    assert bool(report.fixes) or report.fits or 0 in shape or config.conv_mode == "valid"
    assert len(set(report.fixes)) == len(report.fixes)
    for fix in report.fixes:
        check_fix(config, report, fix)


def check_fix(config: UNetConfig, report: ShapeReport, fix: Fix) -> None:
    assert fix.text[0].isupper()
    if fix.kind == "pad":
        assert fix.value
        assert any(axis.pad == fix.value and not axis.fits for axis in report.axes)
    if fix.kind == "n_blocks":
        assert fix.value is not None
        assert 1 <= fix.value < config.n_blocks


def test_axes_are_guessed_or_given() -> None:
    config = UNetConfig(dim=3)
    assert [axis.axis for axis in check_shape(config, (3, 64, 64)).axes] == ["Z", "Y", "X"]
    source = ImageSource(np.zeros((3, 64, 64), np.uint8), "ZYX")
    assert check_shape(UNetConfig(in_channels=3), source, "CYX").can_predict
    with pytest.raises(AxesError, match="2 axes, and the image has 3"):
        check_shape(config, (3, 64, 64), "YX")


def test_a_report_reads_no_voxel() -> None:
    class Untouchable:
        shape = (30, 10**6, 10**6)
        dtype = np.dtype(np.uint16)

        def __getitem__(self, key: object) -> object:
            raise RuntimeError(f"read {key}")

    assert check_shape(UNetConfig(), ImageSource(Untouchable(), "ZYX")).can_predict


@pytest.mark.parametrize("shape", [(64, -3), (64, 64.5), ("64", 64), (False, 64)])
def test_shapes_that_are_no_whole_numbers_are_refused(shape: Any) -> None:
    with pytest.raises(ShapeError, match="must have a whole number per axis"):
        check_shape(UNetConfig(), shape)
