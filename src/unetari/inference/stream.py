"""`Stream`: one pass of a `LeanUNet`, fed with an image row by row.

"Rows" are what lies along the first spatial axis: rows of an image, planes of a
volume. Every convolution keeps the few rows that it needs once more, and the
skip connections wait in queues until the decoder gets there. Nothing is computed
twice, whatever the pieces in which the image comes; a piece as large as the image
is the ordinary pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from unetari.core.sizes import axis_levels, valid_output_size
from unetari.core.stencils import AxisLevel, DecoderPlan, plan_decoder
from unetari.errors import ShapeError
from unetari.inference.layer import Layer

if TYPE_CHECKING:
    from unetari.inference.lean import LeanBlock, LeanUNet


class Stream:
    """Takes the rows of one image, from the first to the last, and gives those of the scores.

    Parameters
    ----------
    network : LeanUNet
        The network. With instance or group normalization that is not frozen, the
        whole image has to come in one piece.
    sizes : sequence of int
        Size of the image, ([Z,] Y, X).
    part : sequence of slice, optional
        The wanted part of the output, ([Z,] Y, X), start and stop given. Default:
        everything.
    """

    def __init__(
        self, network: LeanUNet, sizes: Sequence[int], part: Sequence[slice] | None = None
    ) -> None:
        self._network = network
        self._sizes, self._seen = tuple(sizes), 0
        config, axes = network.config, range(-network.config.dim, 0)
        outputs = zip(sizes, axes, strict=True)
        wanted = [slice(0, valid_output_size(size, config, axis)) for size, axis in outputs]
        self._crop = None
        if part is not None and network.tiles_exactly:
            wanted = list(part)
        elif part is not None:
            self._crop = part
        plans = [
            plan_decoder(axis_levels(config, axis), size, cut, valid=config.conv_mode == "valid")
            for axis, size, cut in zip(axes, sizes, wanted, strict=True)
        ]
        self._limits: list[int] = []
        self._levels: list[_Level] = []
        rows = sizes[0]
        for depth in range(config.n_blocks):
            level = _Level(network, depth, rows, plans)
            self._levels.append(level)
            rows = level.pooled_rows

    def push(self, x: Tensor) -> Iterator[Tensor]:
        """Take the next rows, (N, C, [Z,] Y, X), and return the scores that follow from them.

        The last rows bring all that is still missing. It is computed in pieces that are no
        larger than the first one that was pushed.

        Returns
        -------
        iterator of Tensor
            Logits, (N, classes, [Z,] Y, X), of the rows after those given before; they are
            computed as they are asked for, all of them before the next rows are pushed.

        Raises
        ------
        ShapeError
            If the rows are not those that come next in an image of these sizes.
        """
        self._check(x)
        if not self._limits:
            self._limits = self._limit(x.shape[2])
        return self._decode(len(self._levels) - 1, self._encode(x))

    def _check(self, x: Tensor) -> None:
        rows, *others = x.shape[2:]
        self._seen += rows
        if self._seen > self._sizes[0] or tuple(others) != self._sizes[1:]:
            raise ShapeError(
                f"A pass over {self._sizes} voxels got rows of {tuple(x.shape[2:])}, {self._seen} "
                "in all. Push the rows of one image, each once and in full width."
            )
        if not self._network.tiles_exactly and rows != self._sizes[0]:
            raise ShapeError(
                f"{rows} of {self._sizes[0]} rows are not enough: this network's normalization "
                "sees the whole image. Push all rows at once."
            )

    def _limit(self, rows: int) -> list[int]:
        """Return how many rows every level decodes at once."""
        limits = [rows]
        for level in self._levels[:-1]:
            limits.append(-(-limits[-1] // level.pool))
        return limits

    def _encode(self, x: Tensor) -> Tensor | None:
        x = self._network.arrange(x)
        for level in self._levels:
            encoded = level.encode(x)
            if encoded is None:
                return None
            x = encoded
        return x

    def _decode(self, depth: int, x: Tensor | None) -> Iterator[Tensor]:
        """Go from rows of a level up to the scores."""
        while x is not None and depth > 0:
            limit = self._limits[depth]
            if x.shape[2] > limit:
                for start in range(0, x.shape[2], limit):
                    yield from self._decode(depth, x[:, :, start : start + limit])
                return
            depth -= 1
            level = self._levels[depth]
            level.receive(x)
            del x  # so that it is gone when the largest arrays are made
            x = level.decode()
        if x is not None:
            scores = self._network.final.convolve(x)
            yield scores if self._crop is None else crop(scores, self._crop)


class _Level:
    """What one level of the network has in hand."""

    def __init__(
        self, network: LeanUNet, depth: int, rows: int, plans: Sequence[DecoderPlan]
    ) -> None:
        def window(layer: Layer, radius: int, rows: int) -> _Window:
            padded = network.config.conv_mode == "same"
            return _Window(layer, radius // 2, padded, rows, network.allocate)

        level = axis_levels(network.config, -network.config.dim)[depth]
        self._block = block = cast("LeanBlock", network.blocks[depth])
        self._first = window(block.first, level.encoder, rows)
        self._second = window(block.second, level.encoder, self._first.gives)
        self.pooled_rows = self._second.gives // level.pool
        self._left: Tensor | None = None
        self._queue: deque[Tensor] = deque()
        self.pool = level.pool
        self._is_deepest = depth == len(plans[0].steps)
        if self._is_deepest:
            self._skip = _Cut([plan.deepest for plan in plans])
            return
        steps = [plan.steps[depth] for plan in plans]
        self._skip = _Cut([step.skip for step in steps])
        self._rise = _Rise(level, plans[0].kept(depth + 1))
        self._up = _Cut([step.up for step in steps])
        self._third = window(block.third, level.decoder, _length(steps[0].skip))
        self._fourth = window(block.fourth, level.decoder, self._third.gives)
        self._result = _Cut([step.result for step in steps])

    def encode(self, x: Tensor) -> Tensor | None:
        """Compute the encoder's block; keep what the decoder needs, and return the pooled rest."""
        found = self._second.follow(self._first.copy(x), self._first.layer)
        if found is None:
            return None
        found = self._second.layer.finish(found)
        kept = self._skip(found)
        if self._is_deepest:
            return kept
        if kept is not None and not self._block.raised.halts:
            # A view would keep all of the array alive.
            self._queue.append(kept if kept.shape == found.shape else kept.clone())
        return self._pooled(found)

    def _pooled(self, x: Tensor) -> Tensor | None:
        if self._left is not None:
            x = torch.cat((self._left, x), dim=2)
        n = x.shape[2] // self.pool * self.pool
        self._left = x[:, :, n:].clone() if n < x.shape[2] else None
        return self._block.pool(x[:, :, :n]) if n else None

    def receive(self, x: Tensor) -> None:
        """Take rows of what the next level gives."""
        self._rise.push(x)

    def decode(self) -> Tensor | None:
        """Join what was received with what was kept, and compute the decoder's block."""
        taken = self._rise.take()
        if taken is None:
            return None
        x, new = taken
        del taken
        part = self._up.next(_length(new))
        if part is None:
            return None
        part = slice(new.start + part.start, new.start + part.stop)
        raised = crop(self._block.rise(x), (part, *self._up.others))
        del x
        if self._block.raised.gathers(raised):
            return None
        joined = self._join(_length(part))
        self._block.raised.finish(raised, joined[:, : self._block.channels])
        del raised, joined
        found = self._fourth.follow(self._third.convolve(), self._third.layer)
        return None if found is None else self._result(self._fourth.layer.finish(found))

    def _join(self, n: int) -> Tensor:
        """Return an array for n rows, whose latter channels are those that have waited longest."""
        channels, like = self._block.channels, self._queue[0]
        joined = self._third.room((like.shape[0], 2 * channels, n, *like.shape[3:]), like)
        at = 0
        while at < n:
            rows = self._queue.popleft()
            m = min(rows.shape[2], n - at)
            joined[:, channels:, at : at + m] = rows[:, :, :m]
            at += m
            if m < rows.shape[2]:
                self._queue.appendleft(rows[:, :, m:])
        return joined


def _length(part: slice) -> int:
    return int(part.stop - part.start)


class _Window:
    """The rows that a convolution works on: some were kept, some have just come.

    Parameters
    ----------
    layer : Layer
        The convolution.
    radius : int
        Its radius along rows.
    padded : bool
        Whether it sees zeros beyond the first and the last row.
    total : int
        Number of rows that will come.
    allocate : callable
        Makes a new array of a shape, on the device and of the dtype of another one.
    """

    def __init__(
        self,
        layer: Layer,
        radius: int,
        padded: bool,
        total: int,
        allocate: Callable[[Sequence[int], Tensor], Tensor],
    ) -> None:
        self.layer = layer
        self._allocate = allocate
        self.gives = total if padded else total - 2 * radius
        self._radius = radius
        self._border = radius if padded else 0
        self._total = total
        self._seen = 0
        self._rows: Tensor | None = None
        """What was kept; between `room` and `convolve`, what the convolution will see."""
        self._is_whole = False

    def copy(self, x: Tensor) -> Tensor | None:
        """Convolve rows that are finished."""
        if x.shape[2] == self._total:
            self._take_whole(x)
        else:
            self.room(x.shape, x).copy_(x)
        return self.convolve()

    def follow(self, x: Tensor | None, layer: Layer) -> Tensor | None:
        """Finish the rows that another layer gave, and convolve them."""
        if x is None:
            return None
        if x.shape[2] == self._total:
            self._take_whole(layer.finish(x))
        else:
            layer.finish(x, self.room(x.shape, x))
        del x
        return self.convolve()

    def _take_whole(self, x: Tensor) -> None:
        self._rows, self._is_whole, self._seen = x, True, x.shape[2]

    def room(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return an array for new rows, (N, C, [Z,] Y, X), to be filled before `convolve`."""
        batch, channels, n, *sizes = shape
        is_first, is_last = self._seen == 0, self._seen + n == self._total
        if is_first and is_last:
            rows = self._allocate((batch, channels, n, *sizes), like)
            self._take_whole(rows)
            return rows
        self._seen += n
        kept, self._rows = self._rows, None
        before = self._border if kept is None else kept.shape[2]
        after = self._border if is_last else 0
        rows = self._allocate((batch, channels, before + n + after, *sizes), like)
        rows[:, :, :before] = 0 if kept is None else kept
        rows[:, :, before + n :] = 0
        self._rows = rows
        return rows[:, :, before : before + n]

    def convolve(self) -> Tensor | None:
        """Convolve what there is, and keep what is needed once more.

        None if there is too little, or if statistics are all that is wanted of it.
        """
        rows, width = cast("Tensor", self._rows), 2 * self._radius
        if self._is_whole:
            self._rows = None
            found: Tensor = self.layer(rows)
        elif rows.shape[2] <= width:
            return None
        else:
            self._rows = rows[:, :, -width:].clone() if width else None
            found = self.layer(rows, rows_padded=False)
        return None if self.layer.gathers(found) else found


class _Rise:
    """Which rows of the next level can be raised to this one's resolution.

    Parameters
    ----------
    level : AxisLevel
        How upsampling works.
    total : int
        Number of rows that will come.
    """

    def __init__(self, level: AxisLevel, total: int) -> None:
        stencil = ((0, 0), (0, 0)) if level.pool == 1 else level.stencil
        self._before = -min(low for low, _ in stencil)
        self._after = max(high for _, high in stencil)
        self._pool = level.pool
        self._total = total
        self._seen = self._done = 0
        self._rows: Tensor | None = None

    def push(self, x: Tensor) -> None:
        """Take rows."""
        self._seen += x.shape[2]
        self._rows = x if self._rows is None else torch.cat((self._rows, x), dim=2)

    def take(self) -> tuple[Tensor, slice] | None:
        """Return rows to be raised, and which of the raised rows are new and right, if any are."""
        rows, self._rows = cast("Tensor", self._rows), None
        n = rows.shape[2]
        first = self._seen - n
        ready = self._seen if self._seen == self._total else self._seen - self._after
        keep = max(0, ready - self._before - first)
        if keep < n:
            self._rows = rows[:, :, keep:].clone()
        if ready <= self._done:
            return None
        new = slice(self._pool * (self._done - first), self._pool * (ready - first))
        self._done = ready
        return rows, new


class _Cut:
    """A box that is cut out of rows as they come."""

    def __init__(self, box: Sequence[slice]) -> None:
        self._rows, *others = box
        self.others = others
        """The slices of the axes that follow."""
        self._seen = 0

    def next(self, n: int) -> slice | None:
        """Return which of the next n rows belong to the box; None if none does."""
        start = max(self._rows.start - self._seen, 0)
        stop = min(self._rows.stop - self._seen, n)
        self._seen += n
        return slice(start, stop) if start < stop else None

    def __call__(self, x: Tensor) -> Tensor | None:
        """Cut the next rows, (N, C, [Z,] Y, X)."""
        rows = self.next(x.shape[2])
        return None if rows is None else crop(x, (rows, *self.others))


def crop(x: Tensor, part: Sequence[slice]) -> Tensor:
    """Return a part of an array, one slice per spatial axis."""
    return x[(slice(None), slice(None), *part)]
