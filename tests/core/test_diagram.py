from __future__ import annotations

import re
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unetari import UNetConfig, draw_svg, plan_tiles
from unetari.core.diagram import _PALETTES, Diagram, Rect, lay_out
from unetari.core.diagram_words import Line, Run
from unetari.core.levels import find_levels
from unetari.core.sizes import Reach, valid_output_size
from unetari.errors import ConfigError, ShapeError

SVG = "{http://www.w3.org/2000/svg}"
Case = tuple[UNetConfig, tuple[int, ...] | None]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Networks of all kinds, up to 10 blocks and 65536 filters, with and without an image."""
    n_blocks = draw(st.integers(1, 10))
    dim = draw(st.sampled_from((2, 3)))
    start = draw(st.sampled_from((1, 24, 32, 65536 >> (n_blocks - 1))))
    config = UNetConfig(
        dim=dim,
        n_blocks=n_blocks,
        start_filters=min(start, 65536 >> (n_blocks - 1), 4096),
        in_channels=draw(st.sampled_from((1, 3, 4096))),
        out_channels=draw(st.sampled_from((1, 2, 65535))),
        activation=draw(st.sampled_from(("relu", "leaky", "elu"))),
        normalization=draw(st.sampled_from(("none", "batch", "instance", "group1"))),
        conv_mode=draw(st.sampled_from(("same", "valid"))),
        up_mode=draw(st.sampled_from(("transposed", "nearest", "bilinear")[: 4 - dim + 1])),
    )
    size = st.one_of(st.integers(1, 200), st.integers(1, 999_999), st.just(512))
    shape = draw(st.none() | st.tuples(*[size] * dim))
    return config, shape


def overlap(one: Rect, other: Rect) -> bool:
    return (
        one.left < other.right
        and other.left < one.right
        and one.top < other.bottom
        and other.top < one.bottom
    )


def contains(outer: Rect, inner: Rect) -> bool:
    return (
        outer.left <= inner.left
        and inner.right <= outer.right
        and outer.top <= inner.top
        and inner.bottom <= outer.bottom
    )


def arrow_rects(diagram: Diagram) -> list[Rect]:
    return [
        Rect(
            min(a.start[0], a.end[0]) - 4 * (a.start[0] == a.end[0]),
            min(a.start[1], a.end[1]) - 1 * (a.start[1] == a.end[1]),
            max(a.start[0], a.end[0]) + 4 * (a.start[0] == a.end[0]),
            max(a.start[1], a.end[1]) + 1 * (a.start[1] == a.end[1]),
        )
        for a in diagram.arrows
    ]


def red(svg: str) -> list[str]:
    """Words in red, in the order of the document."""
    return [
        "".join(span.itertext())
        for span in ElementTree.fromstring(svg).iter(f"{SVG}tspan")
        if span.get("class") == "unetari-alert"
    ]


def words(config: UNetConfig, shape: tuple[int, ...] | None = None) -> list[str]:
    """Lines of text, with a plain x as the sign of multiplication."""
    lines = (text.line.text for text in lay_out(config, shape).texts)
    return [line.replace("\N{MULTIPLICATION SIGN}", "x") for line in lines]


# The picture as a whole


@given(case=cases())
@settings(max_examples=60)
@example(case=(UNetConfig(n_blocks=1), None))
@example(case=(UNetConfig(n_blocks=1, dim=3, conv_mode="valid"), (1, 999_999, 999_999)))
@example(case=(UNetConfig(n_blocks=8, start_filters=512, dim=3), (999_999, 999_999, 999_999)))
def test_nothing_overlaps_or_is_cut(case: Case) -> None:
    diagram = lay_out(*case)
    canvas = Rect(0, 0, diagram.width, diagram.height)
    boxes = [box.rect for box in diagram.boxes]
    texts = [text.rect for text in diagram.texts]
    arrows = arrow_rects(diagram)
    for rect in (*boxes, *texts, *arrows):
        assert contains(canvas, rect)
        assert rect.left < rect.right
        assert rect.top < rect.bottom
    for one, other in combinations(texts, 2):
        assert not overlap(one, other)
    for one, other in combinations(boxes, 2):
        assert not overlap(one, other)
    for text in texts:
        assert all(contains(box, text) or not overlap(box, text) for box in boxes)
        assert not any(overlap(arrow, text) for arrow in arrows)
    for arrow in arrows:
        assert not any(overlap(arrow, box) for box in boxes)


@given(case=cases(), theme=st.sampled_from(("light", "dark", "auto")))
@settings(max_examples=30)
def test_the_document_is_well_formed_and_complete(case: Case, theme: str) -> None:
    root = ElementTree.fromstring(draw_svg(*case, theme))  # type: ignore[arg-type]
    diagram = lay_out(*case)
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title") == diagram.title
    drawn = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert drawn == [text.line.text for text in diagram.texts]
    assert len(list(root.iter(f"{SVG}rect"))) == len(diagram.boxes) + 1
    assert len(list(root.iter(f"{SVG}polygon"))) == len(diagram.arrows)


@given(case=cases())
@settings(max_examples=30)
def test_there_is_one_box_per_block_and_at_most_one_line_of_legend(case: Case) -> None:
    config, _ = case
    diagram = lay_out(*case)
    roles = [box.role for box in diagram.boxes]
    assert roles.count("encoder") == roles.count("decoder") == config.n_blocks - 1
    assert roles.count("deepest") == 1
    deepest = next(box.rect for box in diagram.boxes if box.role == "deepest")
    assert len([text for text in diagram.texts if text.rect.top > deepest.bottom]) <= 1
    assert [arrow.role for arrow in diagram.arrows].count("skip") == config.n_blocks - 1


# What goes odd


@given(size=st.integers(1, 5000), n_blocks=st.integers(1, 8))
@settings(max_examples=80)
@example(size=572, n_blocks=5)
def test_a_size_is_wrong_exactly_where_it_is_odd_first(size: int, n_blocks: int) -> None:
    levels = find_levels(UNetConfig(n_blocks=n_blocks), (size, 2048))
    halvings = (size & -size).bit_length() - 1
    expected = ["odd" if level == halvings < n_blocks - 1 else "" for level in range(n_blocks)]
    assert [level.wrong[0] for level in levels] == expected
    assert not any(level.wrong[1] for level in levels)
    seen = [level.plain[0] for level in levels if level.plain[0] is not None]
    assert seen == [size >> level for level in range(min(n_blocks, halvings + 1))]


@given(case=cases())
@settings(max_examples=60)
def test_red_is_there_exactly_if_an_axis_does_not_fit(case: Case) -> None:
    config, shape = case
    rule = Reach.of(config).rule
    misfits = [size for size in shape or () if not rule.allows(size)]
    levels = find_levels(config, shape) if shape else ()
    numbers = [
        str(size)
        for level in levels
        for size, wrong in zip(level.plain, level.wrong, strict=True)
        if wrong
    ]
    assert len(numbers) == len(misfits)
    words_in_red = red(draw_svg(config, shape))
    assert [word for word in words_in_red if word.isdecimal()] == numbers
    assert ("Red" in words_in_red) == bool(misfits)


@given(case=cases())
@settings(max_examples=40)
def test_prediction_never_goes_odd(case: Case) -> None:
    config, shape = case
    if shape is None:
        return
    levels = find_levels(config, shape)
    outer = plan_tiles(shape, config).tile_shape
    assert levels[0].decoder == tuple(valid_output_size(size, config) for size in outer)
    assert all(have >= need for have, need in zip(levels[0].decoder, shape, strict=True))
    for level in levels[:-1]:
        assert all(size % 2 == 0 for size in level.encoder)
    assert levels[-1].encoder == levels[-1].decoder


def test_each_axis_goes_red_on_its_own_level() -> None:
    config = UNetConfig(dim=3, n_blocks=4)
    assert [level.plain for level in find_levels(config, (51, 132, 134))] == [
        (51, 132, 134),
        (None, 66, 67),
        (None, 33, None),
        (None, None, None),
    ]
    svg = draw_svg(config, (51, 132, 134), "dark")
    assert red(svg) == ["51", "Z odd", "67", "X odd", "33", "Y odd", "Red"]
    assert "padded 7 x 17 x 17" in words(config, (51, 132, 134))
    assert [a.role for a in lay_out(config, (51, 132, 134)).arrows].count("alert") == 3


def test_odd_on_the_deepest_level_is_no_problem() -> None:
    svg = draw_svg(UNetConfig(n_blocks=3), (20, 28))
    assert red(svg) == []
    assert "5 x 7" in words(UNetConfig(n_blocks=3), (20, 28))
    assert "padded" not in svg


def test_valid_convolution_is_that_of_the_original_article() -> None:
    config = UNetConfig(n_blocks=5, start_filters=64, conv_mode="valid")
    levels = find_levels(config, (572, 572))
    assert [level.plain[0] for level in levels] == [568, 280, 136, 64, 28]
    assert not any(any(level.wrong) for level in levels)
    crops = [text for text in words(config) if text.startswith("crop ")]
    assert crops == ["crop 88", "crop 40", "crop 16", "crop 4"]


@given(n_blocks=st.integers(2, 8), extra=st.integers(0, 3))
@settings(max_examples=20)
def test_the_crop_is_half_of_what_the_encoder_has_more(n_blocks: int, extra: int) -> None:
    config = UNetConfig(n_blocks=n_blocks, conv_mode="valid")
    size = Reach.of(config).rule.smallest + extra * Reach.of(config).multiple
    levels = find_levels(config, (size, size))
    crops = [(above.encoder[0] - 2 * below.decoder[0]) // 2 for above, below in pairwise(levels)]
    assert [f"crop {crop}" for crop in crops] == [
        text for text in words(config, (size, size)) if text.startswith("crop ")
    ]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((18, 24), []),
        ((3, 24), ["0", "Y too small"]),  # nothing is left of it
        ((12, 24), ["0", "Y too small"]),  # nothing is left of it one level below
        ((16, 24), ["2", "Y too small"]),  # nothing would be left of it on the way up
        ((24, 25), ["21", "X odd"]),
        ((3, 25), ["0", "21", "Y, X odd or too small"]),
    ],
)
def test_valid_convolution_says_what_is_too_small(
    shape: tuple[int, ...], expected: list[str]
) -> None:
    found = red(draw_svg(UNetConfig(n_blocks=2, conv_mode="valid"), shape))
    assert [words for words in found if words != "Red"] == expected


# What it says


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["2 x conv 3x3", "ReLU, batch norm", "max pool 2x2", "transposed conv 2x2", "skip"]),
        ({"dim": 3}, ["2 x conv 3x3x3", "max pool 2x2x2", "transposed conv 2x2x2"]),
        ({"activation": "leaky", "normalization": "group8"}, ["leaky ReLU, group norm (8)"]),
        ({"activation": "elu", "normalization": "none"}, ["ELU"]),
        ({"up_mode": "bicubic"}, ["bicubic x2", "conv 1x1, 256 → 128"]),
        ({"dim": 3, "up_mode": "trilinear"}, ["trilinear x2", "conv 1x1x1, 64 → 32"]),
        ({"conv_mode": "valid"}, ["2 x conv 3x3, valid", "per side"]),
        ({"in_channels": 3, "out_channels": 5}, ["Image, 3 channels", "Labels, 5 classes"]),
        ({"out_channels": 1}, ["Labels, 2 classes", "conv 1x1, 32 → 1"]),
        ({}, ["1 → 32 channels", "32 → 64 channels", "128 → 256 channels", "64 → 32 channels"]),
    ],
)
def test_blocks_and_arrows_say_what_they_do(
    options: dict[str, object], expected: list[str]
) -> None:
    assert set(expected) <= set(words(UNetConfig(**options)))


def test_without_an_image_there_are_no_sizes() -> None:
    assert not [text for text in words(UNetConfig()) if re.fullmatch(r"\d+ x \d+", text)]


def test_text_is_escaped() -> None:
    from unetari.core.diagram import Text, _write_text

    line = Line((Run("a < b & <script>"),))
    element = ElementTree.fromstring(_write_text(Text(line, 0, 0), _PALETTES["light"]))
    assert "".join(element.itertext()) == "a < b & <script>"


# Colours


def luminance(color: str) -> float:
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_every_ground(theme: str) -> None:
    colors = _PALETTES[theme]
    for ground in ("background", "image", "encoder", "deepest", "decoder", "labels"):
        for ink in ("text", "muted", "alert"):
            assert contrast(colors[ink][0], colors[ground][0]) >= 4.5, (ink, ground)
    for box in ("image", "encoder", "deepest", "decoder", "labels"):
        assert contrast(colors[box][1], colors["background"][0]) >= 3
    for arrow in ("flow", "skip", "alert"):
        assert contrast(colors[arrow][0], colors["background"][0]) >= 3


def test_automatic_colours_are_light_with_dark_rules() -> None:
    automatic = draw_svg(UNetConfig(), (510, 690))
    light = draw_svg(UNetConfig(), (510, 690), "light")
    assert re.sub(r"<style>.*</style>\n", "", automatic) == light
    classes = set(re.findall(r'class="([\w-]+)"', light))
    rules = re.search(r"prefers-color-scheme: dark\) \{(.*)\}</style>", automatic)
    assert rules is not None
    assert {f"unetari-{role}" for role in _PALETTES["dark"]} >= classes
    for role, (fill, *_) in _PALETTES["dark"].items():
        assert f".unetari-{role}{{fill:{fill}" in rules[1]


def test_explicit_colours_need_no_style_sheet() -> None:
    # Qt's renderer knows SVG Tiny 1.2 only.
    for theme in ("light", "dark"):
        svg = draw_svg(UNetConfig(), (510, 690), theme)
        assert "<style" not in svg
        assert _PALETTES[theme]["alert"][0] in svg


# Errors


def test_an_unknown_theme_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"theme='pink' is unknown.*light, dark, auto"):
        draw_svg(UNetConfig(), theme="pink")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(512,), (3, 512, 512), (0, 512)])
def test_a_shape_that_is_none_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        draw_svg(UNetConfig(), shape)
