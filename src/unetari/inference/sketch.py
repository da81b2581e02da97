"""A pass of a `LeanUNet` with arrays that have a shape and no values, to see what is alive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from unetari.core.config import UNetConfig
from unetari.core.network import reach_of
from unetari.core.sizes import axis_levels
from unetari.inference.stream import Stream
from unetari.inference.winograd import count_extra

if TYPE_CHECKING:
    from torch import Tensor

    from unetari.inference.lean import LeanUNet


class Ledger:
    """Counts the values of all arrays that are alive."""

    def __init__(self) -> None:
        self._now = 0
        self.most = 0
        """The largest count so far."""
        self.largest = 0
        """The values of the largest array."""

    def add(self, values: int) -> None:
        """Count the values of a new array, or those of one that is no more, less than 0."""
        self._now += values
        self.most = max(self.most, self._now)
        self.largest = max(self.largest, values)

    def note(self, values: int) -> None:
        """Count values that are alive for a moment."""
        self.most = max(self.most, self._now + values)


class _Storage:
    """What an array and its views have in common; alive as long as one of them."""

    def __init__(self, ledger: Ledger, values: int) -> None:
        self.ledger, self._values = ledger, values
        ledger.add(values)

    def __del__(self) -> None:
        self.ledger.add(-self._values)


class Shape:
    """An array without values, (N, C, [Z,] Y, X); it does what a `Stream` does with arrays.

    It is counted if it has a ledger.
    """

    def __init__(self, shape: Sequence[int], ledger: Ledger | None = None) -> None:
        self.shape = tuple(shape)
        self._storage = None if ledger is None else _Storage(ledger, prod(self.shape))

    def like(self, shape: Sequence[int]) -> Shape:
        """Return a new array of another shape, counted if this one is."""
        return Shape(shape, None if self._storage is None else self._storage.ledger)

    def clone(self) -> Shape:
        """Return a new array of the same shape."""
        return self.like(self.shape)

    def copy_(self, other: Shape) -> Shape:
        """Take the values of another array."""
        del other
        return self

    def __getitem__(self, index: Any) -> Shape:
        index = index if isinstance(index, tuple) else (index,)
        if index[0] is Ellipsis:
            index = (slice(None),) * (len(self.shape) - len(index) + 1) + index[1:]
        cuts = (*index, *[slice(None)] * (len(self.shape) - len(index)))
        view = Shape.__new__(Shape)
        view.shape = tuple(
            len(range(*cut.indices(n))) for n, cut in zip(self.shape, cuts, strict=True)
        )
        view._storage = self._storage
        return view

    def __setitem__(self, index: Any, value: Any) -> None:
        pass

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        if function is not torch.cat:
            return NotImplemented
        axis, first = kwargs["dim"], args[0][0]
        joined = list(first.shape)
        joined[axis] = sum(part.shape[axis] for part in args[0])
        return first.like(joined)


class Sketch:
    """What a `Stream` needs to know of a `LeanUNet`, of which there are only the options."""

    def __init__(
        self, config: UNetConfig, ledger: Ledger, *, frozen: bool = False, on_cpu: bool = False
    ) -> None:
        self.config = config
        self.tiles_exactly = frozen or config.tiles_exactly
        self._ledger = ledger
        self.blocks = [
            _Block(config, level, ledger, frozen, on_cpu) for level in range(config.n_blocks)
        ]

    def arrange(self, x: Shape) -> Shape:
        """Bring an image into the network's memory format."""
        return x

    def allocate(self, shape: Sequence[int], like: Shape) -> Shape:
        """Return a new array."""
        del like
        return Shape(shape, self._ledger)

    @property
    def final(self) -> Sketch:
        """The last layer."""
        return self

    def convolve(self, x: Shape) -> Shape:
        """Return the scores, which are not counted."""
        return Shape((x.shape[0], self.config.out_channels, *x.shape[2:]))


class _Block:
    """The layers of one level."""

    def __init__(
        self, config: UNetConfig, level: int, ledger: Ledger, frozen: bool, on_cpu: bool
    ) -> None:
        self.channels = config.filters[level]
        levels = [axis_levels(config, axis)[level] for axis in range(-config.dim, 0)]
        self._factors = [axis.pool for axis in levels]
        self._ledger = ledger
        self._narrows = config.up_mode != "transposed"
        radii = [axis.encoder // 2 for axis in levels]
        in_place = frozen or config.tiles_exactly
        self.first = _Layer(
            self.channels,
            radii,
            ledger,
            valid=config.conv_mode == "valid",
            in_place=in_place,
            divides=on_cpu and in_place,
        )
        self.second = self.third = self.fourth = self.raised = self.first

    def pool(self, x: Shape) -> Shape:
        """Pool."""
        sizes = [n // factor for n, factor in zip(x.shape[2:], self._factors, strict=True)]
        return Shape((*x.shape[:2], *sizes), self._ledger)

    def rise(self, x: Shape) -> Shape:
        """Bring the next level to this one's resolution."""
        sizes = [n * factor for n, factor in zip(x.shape[2:], self._factors, strict=True)]
        if self._narrows:
            x = Shape((x.shape[0], self.channels, *x.shape[2:]), self._ledger)
        return Shape((x.shape[0], self.channels, *sizes), self._ledger)


class _Layer:
    """A convolution and what follows it."""

    def __init__(
        self,
        channels: int,
        radii: Sequence[int],
        ledger: Ledger,
        *,
        valid: bool,
        in_place: bool,
        divides: bool,
    ) -> None:
        self._channels, self._radii, self._valid = channels, radii, valid
        self._in_place, self._divides, self._ledger = in_place, divides, ledger

    halts = False

    def gathers(self, x: Shape) -> bool:
        """Say that features are there for more than statistics."""
        del x
        return False

    def __call__(self, x: Shape, rows_padded: bool = True) -> Shape:
        shrinks = [self._valid or not rows_padded, *[self._valid] * (len(self._radii) - 1)]
        sizes = [
            n - 2 * radius * shrink
            for n, radius, shrink in zip(x.shape[2:], self._radii, shrinks, strict=True)
        ]
        found = Shape((x.shape[0], self._channels, *sizes), self._ledger)
        if self._divides:
            kernel = [2 * radius + 1 for radius in self._radii]
            pads = rows_padded and not self._valid
            self._ledger.note(count_extra(x.shape, found.shape, kernel, pads=pads))
        return found

    def finish(self, x: Shape, out: Shape | None = None) -> Shape:
        """Normalize; group and instance normalization do not work in place."""
        if not self._in_place:
            x = x.clone()
        return x if out is None else out


class Count(NamedTuple):
    """The values that a pass holds, besides image and scores."""

    alive: int
    """Most at any moment."""
    largest: int
    """Most of a single array."""
    outputs: int
    """Most voxels whose scores come out at once, of all images."""


def count_live(
    config: UNetConfig,
    sizes: Sequence[int],
    part: Sequence[slice],
    strip: int | None = None,
    *,
    frozen: bool = False,
    on_cpu: bool = False,
    batch: int = 1,
) -> Count:
    """Count the values that a pass of a `LeanUNet` holds at once, besides image and scores.

    Parameters
    ----------
    config : UNetConfig
        The network.
    sizes : sequence of int
        Size of the input, ([Z,] Y, X).
    part : sequence of slice
        The wanted part of the output, ([Z,] Y, X).
    strip : int, optional
        Rows that the network gets at once. Default: all.
    frozen : bool
        Whether statistics of normalization do not depend on the image.
    on_cpu : bool
        Whether a CPU computes it in float32: large convolutions take memory of their own then.
    batch : int
        Images that pass through the network together.

    Returns
    -------
    Count
    """
    rows, *others = sizes
    strip = rows if strip is None else strip
    # After some strips, everything repeats: a long axis is gone through as a shorter one.
    reach = reach_of(config)[0]
    enough = reach.rule.above(2 * reach.margin + 6 * strip)
    less = max(0, rows - enough) if strip < rows else 0
    first, *rest = part
    first = slice(first.start, max(first.stop - less, first.start + 1))
    bounds = tuple((cut.start, cut.stop) for cut in (first, *rest))
    return _count_live(config, (rows - less, *others), bounds, strip, frozen, on_cpu, batch)


@lru_cache(maxsize=256)
def _count_live(  # noqa: PLR0917 -- `lru_cache` tells keywords apart by their order
    config: UNetConfig,
    sizes: tuple[int, ...],
    part: tuple[tuple[int, int], ...],
    strip: int,
    frozen: bool,
    on_cpu: bool,
    batch: int,
) -> Count:
    ledger = Ledger()
    sketch = Sketch(config, ledger, frozen=frozen, on_cpu=on_cpu)
    stream = Stream(cast("LeanUNet", sketch), sizes, [slice(*bounds) for bounds in part])
    most = 0
    for start in range(0, sizes[0], strip):
        rows = min(strip, sizes[0] - start)
        image = Shape((batch, config.in_channels, rows, *sizes[1:]))
        for scores in stream.push(cast("Tensor", image)):
            most = max(most, batch * prod(scores.shape[2:]))
    return Count(ledger.most, ledger.largest, most)
