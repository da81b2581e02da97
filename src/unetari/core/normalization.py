"""Intensity normalization: part of the model, the same whatever the tiling."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from unetari.core.config import FrozenModel

Method = Literal["percentile", "zscore", "minmax", "range", "none"]
Scope = Literal["image", "frame"]


class Normalization(FrozenModel):
    """How intensities are mapped before they reach the network.

    Statistics are taken per channel, over the whole image or over each frame
    (the plane or volume that one forward pass sees), never over a tile, so
    that tiling cannot change them.
    """

    method: Method = "percentile"
    """percentile: [low, high] percentiles to [0, 1]; zscore: zero mean, unit variance;
    minmax: extremes to [0, 1]; range: the fixed [low, high] to [0, 1]; none: unchanged."""
    low: float = 1.0
    """Lower percentile, or lower end of the fixed range."""
    high: float = 99.8
    """Upper percentile, or upper end of the fixed range."""
    scope: Scope = "image"
    """Statistics over the whole image, or over each frame."""
    @model_validator(mode="after")
    def _check_limits(self) -> Normalization:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"low={self.low} and high={self.high}: both must be finite and low smaller than high."
            )
        if self.method == "percentile" and not (self.low >= 0 and self.high <= 100):
            raise ValueError(
                f"low={self.low}, high={self.high}: percentiles lie between 0 and 100."
            )
        return self
