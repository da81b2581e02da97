"""Measure how far a cut through the image is felt in a network's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import nan
from typing import NamedTuple

from torch import Tensor

from unetari.core.sizes import Reach, round_down, round_up
from unetari.core.tiles import Span
from unetari.errors import NetworkError
from unetari.model.strips import LOUD, PATCH, Strip, tolerated

_LENGTHS = (128, 256, 512, 1024, 2048)  # of outputs
_ENOUGH = 512  # voxels that depend on each other: no end will come, and attention grows squared


class _Margin(NamedTuple):
    """Outputs that depend on what lies beyond a cut."""

    after: int
    """Counted from the cut at which a tile begins."""
    before: int
    """Counted back from the cut at which a tile ends."""


def find_margin(strip: Strip, reach: Reach, *, moves: bool) -> tuple[int, list[str]]:
    """Return the outputs beside a cut that depend on what lies beyond, and why that is not all."""
    size = reach.rule.smallest
    local: int | None = None
    settled: _Margin | None = None
    for size in _sizes(strip, reach):
        half = _half(reach, size)
        most = half // 2 if reach.largest is None else half - reach.multiple
        changed = _margin_of_change(strip, reach, size)
        widest = _Margin(*map(max, changed, _margin_of_nan(strip, reach, size)))
        previous = settled
        settled = widest if max(widest) <= most else None
        # The longer image shows what a dilated convolution fetches from afar.
        if settled is not None and settled == previous:
            break
        local = max(changed) if max(changed) <= most else None
        if min(changed) < half:
            continue
        if moves and 8 * round_up(PATCH, reach.multiple) <= size:
            patch = max(_margin_of_patch(strip, reach, size))
            if 8 * (patch + reach.multiple) <= size:
                local = patch
                break
        elif size >= _ENOUGH:
            break
    if settled is not None:
        return _symmetric(settled, strip, reach), []
    guess = 0 if reach.largest is None else size // 4
    return guess if local is None else local, [_depends_on_all(strip, size, local)]


def _depends_on_all(strip: Strip, size: int, local: int | None) -> str:
    beyond = "" if local is None else f", beyond {local} voxels through statistics alone"
    return (
        f"Along {strip.name} the output depends on everything within {size} voxels{beyond} "
        "(instance and group normalization, global pooling, and attention do that)."
    )


def _symmetric(margin: _Margin, strip: Strip, reach: Reach) -> int:
    shift = (margin.after - margin.before) / 2
    if reach.loss and abs(shift) > reach.multiple / 2:
        raise NetworkError(
            f"Along {strip.name} the output loses {2 * reach.loss} voxels, and not the same number "
            f"on both sides: it lies off the image's middle, by {abs(shift):g} voxels or so. Pad "
            "or crop inside the network."
        )
    return max(margin)


def _sizes(strip: Strip, reach: Reach) -> Iterator[int]:
    """Yield sizes to measure with, each twice as long as the one before."""
    if reach.largest is not None:
        yield reach.largest
        return
    sizes = (reach.rule.above(length + 2 * reach.loss) for length in _LENGTHS)
    yield from (size for size in sizes if strip.lost(size) == 2 * reach.loss)


def _half(reach: Reach, size: int) -> int:
    """Where to cut: on the grid, with as many outputs beyond as before."""
    return round_down((size - 2 * reach.loss) // 2, reach.multiple)


def _margin_of_change(strip: Strip, reach: Reach, size: int) -> _Margin:
    """Replace one half of an image by other noise, and see how far the other half changes."""
    image = strip.noise(size)
    before = strip.run(image)

    def changes(part: Span, loudness: float) -> Tensor:
        other = image.clone()
        other[..., part.slice] = strip.noise(part.size, 2, loudness)
        return (strip.run(other) - before).abs() > 10 * strip.network.jitter

    margins = (
        _margin(reach, size, partial(changes, loudness=loudness)) for loudness in (1.0, LOUD)
    )
    return _Margin(*map(max, *margins))


def _margin_of_nan(strip: Strip, reach: Reach, size: int) -> _Margin:
    """Replace one half of an image by NaN, and see how far it spreads."""
    image = strip.noise(size)

    def changes(part: Span) -> Tensor:
        other = image.clone()
        other[..., part.slice] = nan
        return strip.run_plainly(other).isnan()

    return _margin(reach, size, changes)


def _margin(reach: Reach, size: int, changes: Callable[[Span], Tensor]) -> _Margin:
    """Return how many outputs beside a cut change with what lies beyond.

    The cuts lie where tiles begin and end, and all outputs beside them are
    looked at, so that the worst position within the multiple counts.
    """
    half = _half(reach, size)
    end = size - half  # as far from the next multiple as every size is
    after = _ends(changes(Span(0, half)))[1] - half
    before = end - 2 * reach.loss - _ends(changes(Span(end, size)))[0]
    return _Margin(max(after, 0), max(before, 0))


def _margin_of_patch(strip: Strip, reach: Reach, size: int) -> _Margin:
    """Move a patch by one multiple: statistics stay, and what changes lies near the patch."""
    step = reach.multiple
    start = round_down(size // 2, step)
    patch = strip.noise(round_up(PATCH, step))
    images = [strip.zeros(size) for _ in range(2)]
    for image, first in zip(images, (start, start + step), strict=True):
        image[..., first : first + patch.shape[-1]] = patch
    response, moved = (strip.run(image) for image in images)
    difference = (moved - response).abs()
    low, high = _ends(difference > tolerated(response))
    after = high - (start + step + patch.shape[-1])
    # With sizes that are no multiples, the cut at a tile's end lies up to one multiple earlier.
    before = start + reach.rule.smallest % step - 2 * reach.loss - low
    return _Margin(max(after, 0), max(before, 0))


def _ends(changed: Tensor) -> tuple[int, int]:
    """Return the first output that changed, and the one behind the last."""
    where = changed.any(dim=0).nonzero()
    return (int(where[0]), int(where[-1]) + 1) if len(where) else (changed.shape[1], 0)
