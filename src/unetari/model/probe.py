"""What a network does with sizes and surroundings, measured: for networks nobody described.

docs/probing.md explains the method and its limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unetari.core.network import ForeignConfig
from unetari.core.sizes import Reach
from unetari.core.tiles import Span, TilePlan, mirror, plan_tiles
from unetari.errors import ShapeError
from unetari.model.measure import measure_axis
from unetari.model.notes import Detail
from unetari.model.strips import MAX_VOXELS, TOLERANCE, Blackbox, Strip, find_shape


@dataclass(frozen=True)
class Difference:
    """What tiles change, measured on a random image."""

    largest: float
    """Largest absolute difference between the scores of tiles and of one whole pass."""
    spread: float
    """Largest less smallest score, to judge the difference by."""
    changed_labels: float
    """Share of the voxels whose label differs."""

    @property
    def is_rounding(self) -> bool:
        """Whether the difference is at most 1e-4 of the spread."""
        return self.largest <= TOLERANCE * self.spread


@dataclass(frozen=True)
class Probe:
    """What was measured of a network."""

    reaches: tuple[Reach, ...]
    """Sizes and surroundings per axis, ([z,] y, x)."""
    out_channels: int
    """Number of channels of the output."""
    difference: Difference | None
    """The largest difference on any axis; None if the sizes allow no comparison."""
    reasons: tuple[str, ...]
    """Why tiles cannot give what a whole pass gives, a sentence each."""

    @property
    def exact(self) -> bool:
        """Whether tiles give what a whole pass gives, to rounding."""
        return not self.reasons and self.difference is not None

    def sentences(self) -> list[str]:
        """Describe the result for a report."""
        return [*_facts(self), *self.reasons]


def probe_network(
    forward: Callable[[Tensor], Tensor],
    *,
    dim: int,
    in_channels: int,
    seed: int = 0,
    example_shape: Sequence[int] | None = None,
    max_voxels: int = MAX_VOXELS,
) -> Probe:
    """Measure which sizes a network takes and how far its output depends on its input.

    Each axis is measured on its own, with images that are long on this axis
    and as small as the network allows on the others. A 3D U-Net with 4 blocks
    and 16 filters takes about ten seconds on one core (with instance
    normalization thirty), 2D networks one to six; 3D networks with valid
    convolution, whose images cannot be small, take minutes. oneDNN is switched
    off for some passes, in the whole process.

    Parameters
    ----------
    forward : callable
        Takes float32 (1, C, [Z,] Y, X) on the CPU and gives scores, (1, classes,
        [Z,] Y, X). It may raise any exception for sizes it does not take.
    dim : int
        Number of spatial axes, 2 or 3.
    in_channels : int
        Number of channels of the input.
    seed : int
        Of the random images.
    example_shape : sequence of int, optional
        A size, ([Z,] Y, X), that the network is known to take. Networks of one
        unusual size need it.
    max_voxels : int
        Largest image to try, in voxels, which bounds memory and time.

    Returns
    -------
    Probe
        Sizes, surroundings, and how much tiles and a whole pass differ.

    Raises
    ------
    NetworkError
        If no size is taken, the output is no tensor of scores, is not finite,
        changes from run to run, is the same for every image, has another
        resolution than the image, or loses more voxels on one side.
    Cancelled
        If `forward` raises it.

    Examples
    --------
    >>> probe = probe_network(torch.nn.Conv2d(1, 2, 5, padding=2), dim=2, in_channels=1)
    >>> probe.exact, [reach.halo for reach in probe.reaches]
    (True, [2, 2])
    """
    network = Blackbox(forward, dim, in_channels, seed, max_voxels)
    shape = find_shape(network, example_shape)
    network.check_repeatable(shape)
    strips = [Strip(network, shape, axis) for axis in range(dim)]
    measured = [measure_axis(strip) for strip in strips]
    reaches = _accept_together(network, shape, [reach for reach, _ in measured])
    reasons = [reason for _, given in measured for reason in given]
    found = [_compare(network, strip.shape, reaches, axis) for axis, strip in enumerate(strips)]
    differences = [difference for difference in found if difference is not None]
    if not reasons and not all(difference.is_rounding for difference in differences):
        reasons.append(
            "The results of tiles and of a whole pass differ, for a reason that was not found."
        )
    worst = max(differences, key=lambda d: d.largest, default=None)
    complete = len(differences) == dim
    return Probe(reaches, network.out_channels, worst if complete else None, tuple(reasons))


def _accept_together(
    network: Blackbox, shape: tuple[int, ...], reaches: Sequence[Reach]
) -> tuple[Reach, ...]:
    """Return the reaches with smallest sizes that the network takes on all axes at once."""
    if network.scores(network.noise([reach.rule.smallest for reach in reaches])) is not None:
        return tuple(reaches)
    return tuple(
        replace(reach, rule=replace(reach.rule, smallest=reach.rule.above(size)))
        for reach, size in zip(reaches, shape, strict=True)
    )


def _compare(
    network: Blackbox, shape: tuple[int, ...], reaches: tuple[Reach, ...], axis: int
) -> Difference | None:
    """Compare tiles with a whole pass, on an image that is long on one axis."""
    config = ForeignConfig(
        architecture="measured",
        dim=2 if network.dim == 2 else 3,
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        reach=reaches,
        classes="exclusive",
        output="logits",
    )
    reach = reaches[axis]
    tile = reach.rule.above(reach.smallest_tile + 2 * reach.multiple)
    sizes = [r.rule.above(size) - 2 * r.loss for r, size in zip(reaches, shape, strict=True)]
    sizes[axis] = 2 * tile + 3 * reach.multiple + 1
    largest = [r.rule.above(size + 2 * r.margin) for r, size in zip(reaches, sizes, strict=True)]
    largest[axis] = tile
    region = [Span(0, size) for size in sizes]
    if reach.largest is not None:  # a whole pass is impossible: compare with tiles elsewhere
        region[axis] = Span(reach.halo + 2 * reach.multiple, sizes[axis])
    try:
        tiles = plan_tiles(sizes, config, tile_shape=largest)
        whole = plan_tiles(sizes, config, region=region)
    except ShapeError:
        return None
    image = network.noise(sizes, 7)[0]
    expected, found = _predict(network, whole, image), _predict(network, tiles, image)
    if expected is None or found is None:
        return None
    found = found[(slice(None), *(span.slice for span in region))]
    return Difference(
        largest=float((found - expected).abs().max()),
        spread=float(expected.max() - expected.min()),
        changed_labels=float((_labels(found) != _labels(expected)).float().mean()),
    )


def _predict(network: Blackbox, plan: TilePlan, image: Tensor) -> Tensor | None:
    """Return the scores of the plan's region, None if the network does not take its tiles."""
    result = torch.empty((network.out_channels, *(span.size for span in plan.region)))
    for tile in plan:
        block = image
        for axis, (span, size) in enumerate(zip(tile.outer, plan.shape, strict=True), start=1):
            block = block.index_select(axis, torch.from_numpy(mirror(span, size)))
        scores = network.scores(block[None])
        if scores is None:
            return None
        origin = [span.start for span in plan.region]
        inner = [span.shifted(-o).slice for span, o in zip(tile.inner, origin, strict=True)]
        local = [span.slice for span in tile.local]
        result[(slice(None), *inner)] = scores[(slice(None), *local)]
    return result


def _labels(scores: Tensor) -> Tensor:
    # Whether one channel holds logits or probabilities is not known here.
    return scores.argmax(dim=0) if len(scores) > 1 else scores > scores.mean()


def _facts(probe: Probe) -> Iterator[str]:
    reaches = probe.reaches
    yield Detail(f"The size multiple was measured: {_per_axis([r.multiple for r in reaches])}.")
    fixed = [r.largest for r in reaches]
    if any(fixed):
        sizes = [size or "any" for size in fixed]
        yield Detail(f"Only one size is taken: {_per_axis(sizes)}.")
    else:
        smallest = _per_axis([r.rule.smallest for r in reaches])
        yield Detail(f"The smallest size was measured: {smallest}.")
    if any(r.loss for r in reaches):
        lost = _per_axis([r.loss for r in reaches])
        yield Detail(f"The voxels that the output loses per side were measured: {lost}.")
    margins = _per_axis([r.margin for r in reaches])
    yield Detail(
        f"The voxels per side that tiles read beyond what they write were measured: {margins}."
    )
    if probe.difference is None:
        yield "Tiles and a whole pass could not be compared."
    else:
        found = probe.difference
        text = (
            f"Tiles and a whole pass of random images differ by at most {found.largest:.2g}, where "
            f"scores span {found.spread:.2g}, and in {found.changed_labels:.3%} of the labels."
        )
        yield Detail(text) if probe.exact else text


def _per_axis(values: Sequence[object]) -> str:
    names = "ZYX"[-len(values) :]
    if len(set(values)) == 1:
        return str(values[0])
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
