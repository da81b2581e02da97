"""Which parts of an image stand for all of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from unetari.core.network import NetworkConfig, reach_of
from unetari.core.tiles import Span

_SIZE = {2: 256, 3: 64}
_PER_AXIS = {2: 3, 3: 2}


def sample_boxes(shape: Sequence[int], config: NetworkConfig) -> list[tuple[Span, ...]]:
    """Return boxes of one size, spread over an image: up to 9 in 2D and 8 in 3D.

    They depend on nothing but the image's shape, and so do the statistics: neither on
    tiles nor on the region.

    Parameters
    ----------
    shape : sequence of int
        Size of the image, ([Z,] Y, X).
    config : UNetConfig or ForeignConfig
        The network, which takes their size.

    Returns
    -------
    list of tuple of Span
        They may reach past a small image, which is mirrored there.

    Examples
    --------
    >>> from unetari.core.config import UNetConfig
    >>> [box[1] for box in sample_boxes((200, 1000), UNetConfig())]
    [Span(start=0, stop=256), Span(start=372, stop=628), Span(start=744, stop=1000)]
    """
    axes = []
    for size, reach in zip(shape, reach_of(config), strict=True):
        length = reach.rule.above(min(size, _SIZE[config.dim]))
        last = max(0, size - length)
        starts = np.linspace(0, last, _PER_AXIS[config.dim]).round().astype(int)
        axes.append([Span(start, start + length) for start in dict.fromkeys(starts.tolist())])
    return list(product(*axes))
