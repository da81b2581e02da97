"""`Scaling`: the grid on which a network sees an image, and the way back from it.

A network finds objects of the size it was trained on. An image of another voxel
size is rescaled for it: `factor` rescaled voxels stand for one voxel of the image.
Both grids begin at the same corner, and voxel i of the rescaled one lies at
``(i + 0.5) / factor - 0.5`` in the image, where voxel 0 lies at 0::

    image        |     0     |     1     |     2     |     3     |
    factor 2     |  0  |  1  |  2  |  3  |  4  |  5  |  6  |  7  |
    factor 0.5   |           0           |           1           |

Every voxel of the image belongs to the nearest rescaled one, and is written by the
tile that writes that one, so that tiles partition the image, too. One axis is solved
on its own; boxes are the product of the axes. This is arithmetic; nothing reads voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetari.core.tiles import Span
from unetari.errors import ShapeError

RIM = 1
"""Rescaled voxels around what a tile writes that interpolation on the way back needs."""

_LARGEST = 20.0
_CUT = 4.0
"""Standard deviations at which the smoothing filter ends; SciPy's default."""


@dataclass(frozen=True)
class AxisScaling:
    """One axis of an image and of its rescaled grid."""

    size: int
    """Voxels of the image."""
    factor: float
    """Rescaled voxels per voxel of the image."""

    @property
    def rescaled_size(self) -> int:
        """Voxels of the rescaled grid: size * factor, rounded, and at least 1."""
        return max(1, math.floor(self.size * self.factor + 0.5))

    @property
    def sigma(self) -> float:
        """Standard deviation, in voxels of the image, of the Gaussian that smooths it first.

        As in scikit-image: what a coarser grid cannot show would come out as noise.
        """
        return max(0.0, (1 / self.factor - 1) / 2)

    @property
    def radius(self) -> int:
        """Voxels of the image per side that the smoothing sees."""
        return int(_CUT * self.sigma + 0.5)

    def in_image(self, span: Span) -> NDArray[np.float64]:
        """Return where rescaled voxels lie in the image."""
        return (np.arange(span.start, span.stop, dtype=np.float64) + 0.5) / self.factor - 0.5

    def in_rescaled(self, span: Span) -> NDArray[np.float64]:
        """Return where voxels of the image lie in the rescaled grid."""
        return (np.arange(span.start, span.stop, dtype=np.float64) + 0.5) * self.factor - 0.5

    def context(self, span: Span) -> Span:
        """Return what rescaled voxels are made of; it may reach past the image."""
        positions = self.in_image(span)
        first, last = math.floor(positions[0]), math.floor(positions[-1]) + 1
        return Span(first - self.radius, last + 1 + self.radius)

    def seen(self, region: Span) -> Span:
        """Return the rescaled voxels that the voxels of a region belong to."""
        first, last = self._nearest()[[region.start, region.stop - 1]]
        return Span(int(first), int(last) + 1)

    def around(self, inner: Span) -> Span:
        """Return rescaled voxels with their rim, as far as the image reaches."""
        return Span(max(0, inner.start - RIM), min(self.rescaled_size, inner.stop + RIM))

    def written(self, inner: Span) -> Span:
        """Return the voxels of the image that belong to rescaled ones; empty if there are none."""
        start, stop = np.searchsorted(self._nearest(), inner)
        return Span(int(start), int(stop))

    def _nearest(self) -> NDArray[np.float64]:
        """Return the rescaled voxel that each voxel of the image belongs to."""
        nearest = np.floor(self.in_rescaled(Span(0, self.size)) + 0.5)
        return nearest.clip(0, self.rescaled_size - 1)


@dataclass(frozen=True)
class Scaling:
    """How an image is rescaled for a network, one factor per spatial axis.

    Examples
    --------
    >>> scaling = Scaling.of((30, 512, 511), (1.0, 2.0, 0.5))
    >>> scaling.rescaled_shape
    (30, 1024, 256)
    """

    axes: tuple[AxisScaling, ...]
    """([Z,] Y, X)."""

    @classmethod
    def of(cls, shape: Sequence[int], factors: Sequence[float] | None) -> Scaling | None:
        """Return the scaling of an image; None if nothing is rescaled.

        Parameters
        ----------
        shape : sequence of int
            Size of the image in voxels, ([Z,] Y, X).
        factors : sequence of float, optional
            Rescaled voxels per voxel of the image, ([Z,] Y, X).

        Raises
        ------
        ShapeError
            If there is not one factor per axis, or one is no number from 1/20 to 20.
        """
        if factors is None:
            return None
        checked = check_factors(factors, len(shape))
        if all(factor == 1 for factor in checked):
            return None
        return cls(tuple(map(AxisScaling, shape, checked)))

    @property
    def factors(self) -> tuple[float, ...]:
        """Rescaled voxels per voxel of the image, per axis."""
        return tuple(axis.factor for axis in self.axes)

    @property
    def rescaled_shape(self) -> tuple[int, ...]:
        """Size of the image as the network sees it."""
        return tuple(axis.rescaled_size for axis in self.axes)

    def context(self, box: Sequence[Span]) -> tuple[Span, ...]:
        """Return the part of the image that a rescaled box is made of."""
        return tuple(axis.context(span) for axis, span in zip(self.axes, box, strict=True))

    def seen(self, region: Sequence[Span]) -> tuple[Span, ...]:
        """Return the part of the rescaled grid that a region of the image belongs to."""
        return tuple(axis.seen(span) for axis, span in zip(self.axes, region, strict=True))

    def around(self, inner: Sequence[Span]) -> tuple[Span, ...]:
        """Return a box of the rescaled grid with its rim."""
        return tuple(axis.around(span) for axis, span in zip(self.axes, inner, strict=True))

    def written(self, inner: Sequence[Span]) -> tuple[Span, ...]:
        """Return the part of the image that belongs to a box of the rescaled grid."""
        return tuple(axis.written(span) for axis, span in zip(self.axes, inner, strict=True))


def check_factors(factors: Sequence[Any] | NDArray[Any], dim: int) -> tuple[float, ...]:
    """Return factors as numbers.

    Raises
    ------
    ShapeError
        If there is not one factor per axis, or one is no number from 1/20 to 20.
    """
    names = ", ".join("ZYX"[-dim:])
    if isinstance(factors, str) or not isinstance(factors, Sequence | np.ndarray):
        raise ShapeError(
            f"scale={factors!r} must be a sequence of {dim} factors, one per axis: {names}."
        )
    if len(factors) != dim:
        raise ShapeError(
            f"scale={tuple(factors)} has {len(factors)} factors, and the network sees {dim} axes. "
            f"Give one per axis: {names}."
        )
    for factor in factors:
        if not _is_allowed(factor):
            raise ShapeError(
                f"scale={tuple(factors)} holds {factor!r}, and a factor is a number from "
                f"{1 / _LARGEST:g} to {_LARGEST:g}: rescaled voxels per voxel of the image. Check "
                "the voxel sizes and their units, or bin the image first."
            )
    return tuple(float(factor) for factor in factors)


def _is_allowed(factor: Any) -> bool:
    if isinstance(factor, bool) or not isinstance(factor, int | float | np.integer | np.floating):
        return False
    return 1 / _LARGEST <= float(factor) <= _LARGEST  # NaN is neither
