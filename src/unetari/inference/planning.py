"""How an image is divided, and what statistics that hold for all of it are taken from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

from unetari.core.blending import patch_of, plan_blended
from unetari.core.config import UNetConfig
from unetari.core.network import NetworkConfig, NormStatistics, reach_of
from unetari.core.samples import sample_boxes
from unetari.core.scaling import RIM, Scaling
from unetari.core.source import ImageSource
from unetari.core.spec import ModelSpec
from unetari.core.tiles import Span, TilePlan, plan_tiles
from unetari.errors import OutOfMemoryError
from unetari.inference.memory import choose_pass, choose_tiling, most_values

Item = TypeVar("Item")
FIXED = ("sampled", "whole")
"""Statistics of normalization that do not depend on tiles."""


class View(NamedTuple):
    """An image as the network sees it."""

    shape: tuple[int, ...]
    """Its size, ([Z,] Y, X)."""
    region: tuple[Span, ...]
    """The part that is predicted."""
    scaling: Scaling | None
    """How it is rescaled."""


def see(
    source: ImageSource, bounds: Mapping[str, Span], dim: int, scale: Sequence[float] | None
) -> View:
    """Return what the network sees of an image, given what to predict of each axis."""
    shape = source.spatial_shape(dim)
    region = tuple(bounds[axis] for axis in source.spatial_axes(dim))
    scaling = Scaling.of(shape, scale)
    if scaling is None:
        return View(shape, region, None)
    return View(scaling.rescaled_shape, scaling.seen(region), scaling)


def divide(
    view: View,
    spec: ModelSpec,
    statistics: NormStatistics,
    *,
    tile_shape: Sequence[int] | None,
    budget: float,
    device_type: str,
) -> tuple[TilePlan, int]:
    """Return the tiles, and the rows that the network gets at once."""
    shape, region, scaling = view
    config, rim = spec.config, 0 if scaling is None else RIM
    if statistics == "blended":
        size = patch_of(spec) if tile_shape is None else tile_shape
        plan = plan_blended(shape, config, tile_shape=size, region=region, rim=rim)
        return plan, plan.tile_shape[0]
    tiling = choose_tiling(
        shape,
        config,
        region=region,
        tile_shape=tile_shape,
        budget=budget,
        on_cpu=device_type == "cpu",
        most=most_values(device_type),
        frozen=statistics in FIXED,
        scaling=scaling,
    )
    plan = plan_tiles(shape, config, tile_shape=tiling.tile_shape, region=region, rim=rim)
    return plan, min(tiling.strip, plan.tile_shape[0])


def statistics_boxes(
    shape: Sequence[int], config: NetworkConfig, statistics: NormStatistics
) -> Sequence[tuple[Span, ...]]:
    """Return what the statistics that hold for all tiles are taken from."""
    if statistics == "sampled":
        return sample_boxes(shape, config)
    (whole,) = plan_tiles(shape, config)
    return (whole.outer,)


def plan_statistics(
    shape: Sequence[int],
    config: NetworkConfig,
    statistics: NormStatistics,
    *,
    budget: float,
    device_type: str,
) -> int:
    """Return how many rows pass through the network at once to find statistics; 0 if none do."""
    if statistics not in FIXED:
        return 0
    boxes = statistics_boxes(shape, config, statistics)
    single, unet = plan_box(boxes[0], config), cast("UNetConfig", config)
    strip = choose_pass(
        single,
        unet,
        budget / len(boxes),
        on_cpu=device_type == "cpu",
        most=most_values(device_type),
    )
    if strip is not None:
        return strip
    if statistics == "sampled":
        return reach_of(config)[0].multiple
    sizes = " x ".join(map(str, single.tile_shape))
    raise OutOfMemoryError(
        f'norm_statistics="whole" passes all of the image, {sizes} voxels, through the network, '
        "which in the thinnest strips still needs more than the "
        f"{budget / 2**20:.1f} MiB that the run may use. Allow more, or choose "
        'norm_statistics="sampled", which shows no borders either, "blended" or "tile".'
    )


def plan_box(box: Sequence[Span], config: NetworkConfig) -> TilePlan:
    """Return a box as a single tile."""
    return plan_tiles([span.size for span in box], config)


def split_evenly(items: Sequence[Item], most: int) -> Iterator[Sequence[Item]]:
    """Yield as few parts as possible, as even as possible, in order."""
    count = -(-len(items) // most)
    for number in range(count):
        yield items[len(items) * number // count : len(items) * (number + 1) // count]
