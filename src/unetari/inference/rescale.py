"""Resampling of blocks: the image as the network sees it, and its output back on the image.

Both ways interpolate linearly between voxel centres, at positions that are computed
from the grid of the whole image, so that no result depends on how it was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from unetari.core.scaling import Scaling
from unetari.core.tiles import Span

Read = Callable[[Sequence[Span]], NDArray[np.float32]]
"""Gives a box of the image, (C, [Z,] Y, X), mirrored where it reaches past it."""

MOST_VOXELS = 2**23
"""Voxels of the image that are read at once; a coarse grid needs many for each of its own."""


def rescale(read: Read, scaling: Scaling, box: Sequence[Span]) -> NDArray[np.float32]:
    """Compute a box of the rescaled image.

    At most `MOST_VOXELS` of the image are read at once, as far as that is possible.

    Parameters
    ----------
    read : callable
        Gives a box of the image, float32, (C, [Z,] Y, X).
    scaling : Scaling
        The two grids.
    box : sequence of Span
        Of the rescaled grid, within its bounds.

    Returns
    -------
    ndarray of float32
        (C, [Z,] Y, X), of the shape of the box. Along axes that shrink the image
        is smoothed first.
    """
    context = scaling.context(box)
    longest = max(range(len(box)), key=lambda axis: context[axis].size)
    span = box[longest]
    if prod(part.size for part in context) > MOST_VOXELS and span.size > 1:
        middle = (span.start + span.stop) // 2
        halves = (Span(span.start, middle), Span(middle, span.stop))
        parts = [
            rescale(read, scaling, [*box[:longest], half, *box[longest + 1 :]]) for half in halves
        ]
        return np.concatenate(parts, axis=1 + longest)
    block = read(context)
    for axis, (grid, span, around) in enumerate(zip(scaling.axes, box, context, strict=True), 1):
        if grid.sigma:
            block = gaussian_filter1d(block, grid.sigma, axis=axis, radius=grid.radius)
        positions = grid.in_image(span) - around.start
        block = _interpolate(torch.from_numpy(block), axis, positions).numpy()
    return block


def restore(
    output: Tensor, scaling: Scaling, box: Sequence[Span], written: Sequence[Span]
) -> Tensor:
    """Bring what a network gave back onto the grid of the image.

    Parameters
    ----------
    output : Tensor, (classes, [Z,] Y, X)
        What the network gave for a box of the rescaled grid.
    scaling : Scaling
        The two grids.
    box : sequence of Span
        The box: what `written` belongs to, and `RIM` more where the image goes on.
    written : sequence of Span
        Part of the image.

    Returns
    -------
    Tensor, (classes, [Z,] Y, X)
        Of the shape of `written`. Beyond the outermost voxels of the rescaled
        image the output is continued as it is there.
    """
    # The last axis first, while there is little: reading across rows is slow.
    for axis in reversed(range(len(box))):
        positions = scaling.axes[axis].in_rescaled(written[axis]) - box[axis].start
        output = _interpolate(output, 1 + axis, positions)
    return output


def _interpolate(values: Tensor, axis: int, positions: NDArray[np.float64]) -> Tensor:
    """Return the values at positions between the voxels of one axis."""
    last = values.shape[axis] - 1
    positions = positions.clip(0, last)
    low = np.floor(positions).astype(np.int64)
    weight = torch.from_numpy((positions - low).astype(np.float32)).to(values.device)
    shape = [-1 if at == axis else 1 for at in range(values.ndim)]
    before, after = (
        values.index_select(axis, torch.from_numpy(index).to(values.device))
        for index in (low, np.minimum(low + 1, last))
    )
    return torch.lerp(before, after, weight.reshape(shape))
