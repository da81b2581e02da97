"""Measure one axis of a network: the period, the sizes, and how far a cut is felt.

docs/probing.md explains the method and its limits.
"""

from __future__ import annotations

from dataclasses import replace
from math import lcm, nan

import torch
from torch import Tensor

from unetari.core.sizes import Reach, SizeRule, round_up
from unetari.core.tiles import Span
from unetari.errors import NetworkError
from unetari.model.margins import find_margin
from unetari.model.strips import LOUD, PATCH, TOLERANCE, Strip, rounding, swing, tolerated

_SHIFTS_TO = 64
_SHIFTS = sorted(range(1, _SHIFTS_TO + 1), key=lambda shift: (shift // (shift & -shift), shift))
"""In voxels. By odd part, then ascending: the first that passes is then the smallest that does."""

_STEPS_TO = 128


def measure_axis(strip: Strip) -> tuple[Reach, list[str]]:
    """Measure the reach of one axis.

    Parameters
    ----------
    strip : Strip
        The axis.

    Returns
    -------
    reach : Reach
        Sizes and surroundings.
    reasons : list of str
        Why tiles cannot give what a whole pass gives, a sentence each.

    Raises
    ------
    NetworkError
        If the output does not lie on the image, or is the same for every image.
    """
    _check_resolution(strip)
    period, size = _find_period(strip)
    reach = _find_sizes(strip, size, period or 1)
    margin, reasons = find_margin(strip, reach, moves=period is not None)
    if period is None:
        reasons.append(
            f"No shift of the image by up to {_SHIFTS_TO} voxels along {strip.name} shifts the "
            "output alike (position embeddings and align_corners do that, for instance)."
        )
    if reach.loss:
        reach = replace(reach, trim=margin)
    else:
        reach = replace(reach, halo=round_up(margin, reach.multiple))
    if reach.largest is not None and reach.largest < reach.smallest_tile:
        reasons.append(
            f"The only size it takes along {strip.name}, {reach.largest}, is too small for tiles, "
            f"which would need {reach.smallest_tile}."
        )
    return reach, reasons


# --- the period: which shifts of the image shift the output -----------------------------------


def _find_period(strip: Strip) -> tuple[int | None, int]:
    """Return the smallest shift that the output follows, and the size that showed it."""
    sizes = list(strip.lengths(64, 512))
    for size in sizes:
        patches = _Patches(strip, size)
        if patches.are_felt_everywhere and size != sizes[-1]:
            continue
        for shift in _SHIFTS:
            if shift <= patches.room and patches.follow(shift):
                return shift, size
    return None, sizes[-1]


class _Patches:
    """Images that are zero but for a patch in the middle, and the responses to them.

    When the patch moves, statistics over the whole image stay the same: what
    is found holds for instance normalization and attention, too.
    """

    def __init__(self, strip: Strip, size: int) -> None:
        self._strip = strip
        self._size = size
        self._width = max(1, min(PATCH, size // 8))
        self.room = _outputs(strip, size) // 8
        """Largest shift that keeps clear of the ends."""
        middle = _outputs(strip, size) // 2
        self._window = Span(middle - self.room, middle + self.room)
        self._patches = [strip.noise(self._width, 0), strip.noise(self._width, 1, LOUD)]
        self._responses = [self._run(patch) for patch in self._patches]
        self._spread = self._spread_of_nan()
        self.are_felt_everywhere = bool(self._spread.any(dim=0).all())
        if not any(swing(response) > rounding(response) for response in self._responses):
            raise NetworkError(
                "The network gives the same output whatever the image is, so nothing can be "
                "measured. Check its weights and the values that it expects."
            )

    def follow(self, shift: int) -> bool:
        """Whether the output moves by `shift` when the patch does."""
        window, moved = self._window.slice, self._window.shifted(shift).slice
        shares = (TOLERANCE / 10, TOLERANCE)  # what is loud leaves more rounding
        for patch, response, share in zip(self._patches, self._responses, shares, strict=True):
            error = (self._run(patch, shift)[:, moved] - response[:, window]).abs().max()
            if not error <= tolerated(response[:, window], share):
                return False
        return torch.equal(self._spread_of_nan(shift)[:, shift:], self._spread[:, :-shift])

    def _run(self, patch: Tensor, shift: int = 0) -> Tensor:
        return self._strip.run(self._image(patch, shift))

    def _spread_of_nan(self, shift: int = 0) -> Tensor:
        """Show the way through all layers, those that add little included."""
        patch = torch.full_like(self._patches[0][..., :1], nan)
        return self._strip.run_plainly(self._image(patch, shift)).isnan()

    def _image(self, patch: Tensor, shift: int) -> Tensor:
        image = self._strip.zeros(self._size)
        start = (self._size - self._width) // 2 + shift
        image[..., start : start + patch.shape[-1]] = patch
        return image


def _outputs(strip: Strip, size: int) -> int:
    """Size of the output for a size that is taken."""
    return size - (strip.lost(size) or 0)


# --- the sizes ----------------------------------------------------------------------------------


def _check_resolution(strip: Strip) -> None:
    first, second = strip.usual, strip.above(strip.usual + 64)
    found = _outputs(strip, first)
    if second is not None:
        factor = (_outputs(strip, second) - found) / (second - first)
    else:
        factor = found / first if found > first or first % found == 0 else 1.0
    if not 0.75 < factor < 1.25:
        raise NetworkError(
            f"The output has {factor:.3g} voxels per voxel of the image along {strip.name}: size "
            f"{first} gives {found}. Scores for every voxel are needed; add a layer that resizes "
            "them."
        )


def _find_sizes(strip: Strip, size: int, period: int) -> Reach:
    """Return the rule that sizes follow, as a reach without margins."""
    start, lost = _best_size(strip, size, period)
    if lost < 0 or lost % 2:  # an output that is larger has nothing to lie on
        raise NetworkError(
            f"Along {strip.name} size {start} gives {start - lost}, a change that is not the same "
            "on both sides: where the output lies on the image is not known. Pad or crop inside "
            "the network."
        )
    multiple = _find_multiple(strip, start, period, lost)
    if multiple is None:
        return Reach(SizeRule(period, start, lost // 2), 0, largest=start)
    sizes = range(start % multiple or multiple, start + 1, multiple)
    smallest = next(size for size in sizes if strip.lost(size) == lost)
    return Reach(SizeRule(multiple, smallest, lost // 2), 0)


def _find_multiple(strip: Strip, start: int, period: int, lost: int) -> int | None:
    """Return the steps in which sizes are taken, None if there is only one size."""
    first = None
    for step in (period * times for times in (1, 2, 3, 4, 6, 8, 16, 32)):
        if step <= _STEPS_TO and _takes(strip, start, step, lost):
            # Networks that pad to a multiple inside do so at some sizes, and not at others.
            if _ends_alike(strip, start, step):
                return step
            first = first or step
    others = range(period, _STEPS_TO + 1, period)
    return first or next((step for step in others if _takes(strip, start, step, lost)), None)


def _takes(strip: Strip, start: int, step: int, lost: int) -> bool:
    return strip.lost(start + step) == lost == strip.lost(start + 2 * step)


def _ends_alike(strip: Strip, start: int, step: int) -> bool:
    """Whether an image gives the same at its end when some of its beginning is cut off."""
    image = strip.noise(start + step)
    whole, cut = strip.run(image), strip.run(image[..., step:])
    tail = slice(-max(1, start // 8), None)
    error = (whole[:, tail] - cut[:, tail]).abs().max()
    return bool(error <= tolerated(whole))


def _best_size(strip: Strip, size: int, period: int) -> tuple[int, int]:
    """Return the size, near the one given, that loses the fewest voxels, and how many."""
    even = round_up(size, lcm(period, 64))
    if strip.lost(even) == 0:
        return even, 0
    # Networks that take every size round down when they pool, and lose more at most sizes.
    near = {s: strip.lost(s) for s in range(size, size + period)}
    losses = {s: lost for s, lost in near.items() if lost is not None}
    best = min(losses, key=lambda s: (losses[s], s % period))
    return best, losses[best]
