"""Inner boxes partition the region, outer boxes lie on the grid, tiles have one shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetari.core import tiles
from unetari.core.config import UP_MODES, UNetConfig
from unetari.core.network import ForeignConfig
from unetari.core.sizes import Reach, SizeRule
from unetari.core.tiles import Span, TilePlan, mirror, plan_tiles
from unetari.errors import ShapeError

CONFIGS = [
    UNetConfig(dim=dim, n_blocks=n_blocks, up_mode=up_mode, conv_mode=conv_mode, start_filters=2)
    for dim in (2, 3)
    for n_blocks in (1, 2, 4)
    for up_mode in UP_MODES[dim]
    for conv_mode in ("same", "valid")
]


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    config = draw(st.sampled_from(CONFIGS))
    sizes = st.integers(1, 300 if config.dim == 2 else 150)
    shape = draw(st.tuples(*[sizes] * config.dim))
    smallest = Reach.of(config).smallest_tile
    tile = draw(st.none() | st.tuples(*[st.integers(smallest, smallest + 90)] * config.dim))
    starts = [draw(st.integers(0, size - 1)) for size in shape]
    region = [
        Span(start, draw(st.integers(start + 1, size)))
        for start, size in zip(starts, shape, strict=True)
    ]
    return plan_tiles(shape, config, tile_shape=tile, region=draw(st.sampled_from([None, region])))


@settings(max_examples=150, deadline=None)
@given(plans())
def test_inner_boxes_partition_the_region(plan: TilePlan) -> None:
    written = np.zeros(plan.shape, np.uint8)
    for tile in plan:
        written[tuple(span.slice for span in tile.inner)] += 1
    expected = np.zeros(plan.shape, np.uint8)
    expected[tuple(span.slice for span in plan.region)] = 1
    np.testing.assert_array_equal(written, expected)


@settings(max_examples=150, deadline=None)
@given(plans())
def test_outer_boxes_share_one_shape_and_one_grid(plan: TilePlan) -> None:
    first = plan[0]
    for tile in plan:
        assert tile.shape == plan.tile_shape
        for span, reference in zip(tile.outer, first.outer, strict=True):
            assert (span.start - reference.start) % plan.multiple[0] == 0


@settings(max_examples=150, deadline=None)
@given(plans())
def test_halo_separates_what_is_read_from_what_is_written(plan: TilePlan) -> None:
    for tile in plan:
        for axis, (outer, inner) in enumerate(zip(tile.outer, tile.inner, strict=True)):
            reach = plan.reach[axis]
            end = reach.rule.above(plan.shape[axis])
            margin = reach.margin
            at_border = reach.loss == 0
            assert inner.start - outer.start >= margin or (at_border and outer.start == 0)
            assert outer.stop - inner.stop >= margin or (at_border and outer.stop == end)


def test_sequence_protocol_agrees_with_iteration() -> None:
    plan = plan_tiles((300, 500), UNetConfig(n_blocks=3), tile_shape=(128, 160))
    assert [plan[i] for i in range(len(plan))] == list(plan)
    assert plan[-1] == list(plan)[-1]
    with pytest.raises(IndexError, match="tile"):
        plan[len(plan)]


def test_neighbours_share_a_border() -> None:
    plan = plan_tiles((300, 500), UNetConfig(n_blocks=3), tile_shape=(128, 160))
    borders = list(plan.neighbours())
    rows, columns = plan.grid
    assert len(borders) == (rows - 1) * columns + rows * (columns - 1)
    for axis, before, after in borders:
        assert before.inner[axis].stop == after.inner[axis].start
        assert before.inner[1 - axis] == after.inner[1 - axis]


@pytest.mark.parametrize(
    ("n_blocks", "transposed", "linear"),
    [(1, 2, 2), (2, 8, 10), (3, 24, 28), (4, 48, 56), (5, 96, 112)],
)
def test_halo_of_the_derivation(n_blocks: int, transposed: int, linear: int) -> None:
    assert Reach.of(UNetConfig(n_blocks=n_blocks)).halo == transposed
    assert Reach.of(UNetConfig(n_blocks=n_blocks, up_mode="nearest")).halo == transposed
    assert Reach.of(UNetConfig(n_blocks=n_blocks, up_mode="bilinear")).halo == linear


def test_valid_convolution_takes_92_voxels_per_side_at_5_blocks() -> None:
    reach = Reach.of(UNetConfig(n_blocks=5, conv_mode="valid"))
    assert reach.loss == 92
    assert reach.rule.above(560) == 572


def test_whole_image_is_one_tile_by_default() -> None:
    plan = plan_tiles((510, 690), UNetConfig())
    assert len(plan) == 1
    assert plan.tile_shape == (512, 696)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_mirror_is_numpys_reflect(size: int) -> None:
    axis = np.arange(size)
    expected = np.pad(axis, 12, mode="reflect") if size > 1 else np.zeros(25, int)
    np.testing.assert_array_equal(mirror(Span(-12, size + 12), size), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (10, 0)}, "Axis 1 of the image is empty"),
        ({"shape": (10,)}, "has 1 axes, and the network is 2D"),
        ({"shape": (900, 900), "tile_shape": 256}, "sequence of 2 values"),
        ({"shape": (900, 900), "tile_shape": (256.0, 256.0)}, r"holds 256\.0, .* integers"),
        ({"shape": (900, 900), "tile_shape": (256, True)}, "holds True, .* integers"),
        ({"shape": (900, 900), "tile_shape": (64, 64)}, "Tile size 64 .* at least 104"),
        ({"shape": (100, 100), "region": [slice(0, 101), slice(0, 9)]}, "0:101 on axis 0"),
        ({"shape": (100, 100), "region": [slice(5, 5), slice(0, 9)]}, "non-empty"),
        ({"shape": (100, 100), "region": [slice(0, 50, 2), slice(0, 9)]}, "contiguous"),
    ],
)
def test_bad_input_names_value_and_rule(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        plan_tiles(config=UNetConfig(), **arguments)  # type: ignore[arg-type]


def test_integers_of_numpy_are_sizes() -> None:
    plan = plan_tiles((900, 900), UNetConfig(), tile_shape=tuple(np.array([256, 256])))
    assert plan == plan_tiles((900, 900), UNetConfig(), tile_shape=(256, 256))
    assert {type(size) for size in plan.tile_shape} == {int}


def test_networks_of_one_size_take_no_other_tile() -> None:
    rule = SizeRule(multiple=8, smallest=512, loss=0)
    reach = Reach(rule, halo=56, largest=512)
    network = ForeignConfig(
        architecture="a program",
        dim=2,
        in_channels=1,
        out_channels=2,
        reach=(reach, reach),
        classes="exclusive",
        output="logits",
    )
    with pytest.raises(ShapeError, match="takes images of 512 and no other size"):
        plan_tiles((600, 600), network, tile_shape=(256, 256))


@pytest.mark.parametrize("conv_mode", ["same", "valid"])
def test_planning_a_huge_image_makes_no_tiles(
    conv_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Span] = []
    tile = tiles.AxisTile

    def note(*, outer: Span, inner: Span, local: Span) -> tiles.AxisTile:
        made.append(outer)
        return tile(outer, inner, local)

    monkeypatch.setattr(tiles, "AxisTile", note)
    config = UNetConfig(conv_mode=conv_mode)
    plan = plan_tiles((200_000, 199_999), config, tile_shape=(256, 256))
    assert len(plan) > 10**6
    assert plan[-1].inner[1].stop == 199_999
    assert len(made) <= 10


def test_tiles_of_an_axis_are_a_sequence() -> None:
    plan = plan_tiles((300, 500), UNetConfig(n_blocks=3), tile_shape=(128, 160))
    columns = plan.axes[1]
    assert [columns[i] for i in range(len(columns))] == list(columns)
    assert columns[-1] == list(columns)[-1]
    assert columns[1:] == tuple(columns)[1:]
    with pytest.raises(IndexError):
        columns[len(columns)]
