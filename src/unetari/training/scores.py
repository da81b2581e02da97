"""Pooled intersection over union: the score that training keeps the best of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Overlap:
    """Voxels counted per class, over any number of images.

    Pooled means counted over all images together: a large image weighs more
    than a small one, and an empty one costs what is wrongly found in it.
    """

    intersection: NDArray[np.int64]
    """Voxels of a class in both, per class."""
    union: NDArray[np.int64]
    """Voxels of a class in at least one, per class."""

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.intersection + other.intersection, self.union + other.union)

    @property
    def iou(self) -> float:
        """Mean over the classes above 0 of intersection / union; absent classes are left out."""
        present = self.union[1:] > 0
        if not present.any():
            return 1.0
        return float((self.intersection[1:][present] / self.union[1:][present]).mean())


def overlap(labels: NDArray[Any], truth: NDArray[Any], n_classes: int = 2) -> Overlap:
    """Count the voxels in which two label images agree.

    Parameters
    ----------
    labels, truth : ndarray of int
        Of the same shape, with classes from 0 to n_classes - 1.
    n_classes : int
        Number of classes, background included.

    Examples
    --------
    >>> overlap(np.array([0, 1, 1, 1]), np.array([1, 1, 1, 0])).iou
    0.5
    """
    pairs = truth.astype(np.intp).ravel() * n_classes + labels.ravel()
    table = np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)
    intersection = np.diagonal(table).copy()
    return Overlap(intersection, table.sum(axis=0) + table.sum(axis=1) - intersection)
