"""Intensity normalization: part of the model, the same whatever the tiling."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from unetari.core.config import FrozenModel
from unetari.core.dtypes import check_dtype
from unetari.core.statistics import ChannelStatistics
from unetari.errors import ShapeError

Method = Literal["percentile", "zscore", "minmax", "range", "none"]
Scope = Literal["image", "frame"]
Channels = Literal["each", "together"]
METHODS: dict[Method, str] = {
    "percentile": "percentiles to 0 and 1",
    "zscore": "mean 0, variance 1",
    "minmax": "extremes to 0 and 1",
    "range": "fixed range to 0 and 1",
    "none": "unchanged",
}
"""Text of each method."""
SCOPES: dict[Scope, str] = {"image": "the whole image", "frame": "each plane or volume"}
"""Text of each scope."""
WITH_STATISTICS: tuple[Method, ...] = ("percentile", "zscore", "minmax")
"""The methods that have a scope."""


class Normalization(FrozenModel):
    """How intensities are mapped before they reach the network.

    Statistics are taken per channel or of all channels together, over the whole
    image or over each frame (the plane or volume that one forward pass sees),
    never over a tile, so that tiling cannot change them.
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
    channels: Channels = "each"
    """Statistics of each channel, or of all channels together."""
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Added to the spread (standard deviation, or upper less lower value) that values are
    divided by."""

    @model_validator(mode="after")
    def _check_limits(self) -> Normalization:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"low={self.low} and high={self.high}: both must be finite, and low smaller "
                "than high."
            )
        if self.method == "percentile" and not (self.low >= 0 and self.high <= 100):
            raise ValueError(
                f"low={self.low}, high={self.high}: percentiles lie between 0 and 100."
            )
        return self


def describe_intensities(normalization: Normalization) -> str:
    """Say in a few words how intensities are mapped.

    Examples
    --------
    >>> describe_intensities(Normalization(scope="frame"))
    'percentiles 1 and 99.8 to 0 and 1, of each plane or volume'
    """
    text = METHODS[normalization.method]
    if normalization.method in ("percentile", "range"):
        text = text.replace(" to", f" {normalization.low:g} and {normalization.high:g} to", 1)
    if normalization.method in WITH_STATISTICS:
        text += f", of {SCOPES[normalization.scope]}"
        text += ", all channels together" if normalization.channels == "together" else ""
    return text


@dataclass(frozen=True)
class IntensityMap:
    """A fitted normalization: value -> (value - offset) * scale, per channel.

    Values that are not finite are replaced first: NaN and -inf by `low`, +inf
    by `high`. Nothing is clipped otherwise, so with percentiles the brightest
    voxels come out above 1. A scale of 0 makes a channel all zeros.

    Examples
    --------
    >>> IntensityMap(offset=(10.0,), scale=(0.5,), low=(10.0,), high=(14.0,))(
    ...     np.array([[10, 11, 14]], np.uint8)
    ... )
    array([[0. , 0.5, 2. ]], dtype=float32)
    """

    offset: tuple[float, ...]
    """What is subtracted, per channel."""
    scale: tuple[float, ...]
    """What the difference is multiplied with, per channel."""
    low: tuple[float, ...]
    """Lowest finite value per channel."""
    high: tuple[float, ...]
    """Highest finite value per channel."""

    @property
    def n_channels(self) -> int:
        """Number of channels the map was fitted to."""
        return len(self.offset)

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        """Map a block of the image.

        Parameters
        ----------
        block : ndarray
            Raw intensities, (C, ...), real numbers of any type. Left unchanged.

        Returns
        -------
        ndarray
            New array of the same shape, float32, without NaN or inf.

        Raises
        ------
        ShapeError
            If the number of channels is not the one the map was fitted to.
        ImageFileError
            If the values are not real numbers.
        """
        block = np.asarray(block)
        _check_block(block, self.n_channels)
        out = np.empty(block.shape, np.float32)
        for channel in range(self.n_channels):
            out[channel] = self._map(block[channel], channel)
        return out

    def _map(self, values: NDArray[Any], channel: int) -> NDArray[Any]:
        scale = self.scale[channel]
        if scale == 0:
            return np.zeros(values.shape, np.float32)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            low, high = self.low[channel], self.high[channel]
            values = np.nan_to_num(values, nan=low, neginf=low, posinf=high)
        if values.dtype.itemsize <= 2:
            # float32 holds these exactly; wider types would lose digits under a large offset.
            narrow: NDArray[np.float32] = np.subtract(
                values, np.float32(self.offset[channel]), dtype=np.float32
            )
            narrow *= np.float32(scale)
            return narrow
        with np.errstate(over="ignore"):
            wide = np.subtract(values, self.offset[channel], dtype=np.float64) * scale
        limit = float(np.finfo(np.float32).max)
        clipped: NDArray[np.float64] = np.clip(wide, -limit, limit, out=wide)
        return clipped


def fit_intensity(normalization: Normalization, blocks: Iterable[NDArray[Any]]) -> IntensityMap:
    """Take the statistics of an image, or of a frame, and return its map.

    Parameters
    ----------
    normalization : Normalization
        The method. Its `scope` is the caller's affair: pass the blocks of the
        whole image, or those of one frame.
    blocks : iterable of ndarray
        Raw intensities, (C, ...) each, streamed: one block is held at a time.
        Neither their shapes nor their order change the result (percentiles and
        extremes exactly, mean and variance to rounding).

    Returns
    -------
    IntensityMap
        One offset and scale per channel.

    Raises
    ------
    ShapeError
        If there are no blocks, or their numbers of channels differ.
    ImageFileError
        If the values are not real numbers.

    Notes
    -----
    * Values that are not finite are left out of the statistics, and mapped as
      `IntensityMap` says. A channel without any finite value becomes all zeros.
    * With statistics (percentile, zscore, minmax) a constant channel becomes
      all zeros. "range" and "none" map a constant like any other value.
    * If the two percentiles coincide but the channel is not constant (a few
      bright spots on an empty background), the extremes take their place, unless
      there is an eps to divide by.
    * Percentiles are exact for up to 2**20 distinct values per channel, which
      covers every 8 and 16 bit image; beyond that they keep five digits.
    * "range" and "none" need no statistics; of an integer image they read the
      first block only, to learn the number of channels.

    Examples
    --------
    >>> fit_intensity(Normalization(method="minmax"), [np.array([[2, 4, 6]], np.uint8)])
    IntensityMap(offset=(2.0,), scale=(0.25,), low=(2.0,), high=(6.0,))
    """
    channels: list[ChannelStatistics] = []
    for block in blocks:
        block = np.asarray(block)
        channels = channels or _start(normalization, block)
        _check_block(block, len(channels))
        for statistics, values in zip(channels, block, strict=True):
            statistics.add(values)
        if normalization.method in ("range", "none") and block.dtype.kind != "f":
            break
    if not channels:
        raise ShapeError(
            "There are no blocks to take statistics of. Is an axis of the image empty?"
        )
    lines = [_line(normalization, statistics) for statistics in channels]
    return IntensityMap(
        offset=tuple(offset for offset, _ in lines),
        scale=tuple(scale for _, scale in lines),
        low=tuple(0.0 if c.is_empty else c.low for c in channels),
        high=tuple(0.0 if c.is_empty else c.high for c in channels),
    )


def _start(normalization: Normalization, block: NDArray[Any]) -> list[ChannelStatistics]:
    if block.ndim == 0 or block.shape[0] == 0:
        raise ShapeError(f"A block of shape {block.shape} has no channels; the rule is (C, ...).")
    count = block.shape[0]
    if normalization.channels == "together":
        return [_collector(normalization)] * count  # one object, which sees every channel
    return [_collector(normalization) for _ in range(count)]


def _collector(normalization: Normalization) -> ChannelStatistics:
    return ChannelStatistics(
        moments=normalization.method == "zscore",
        percentiles=normalization.method == "percentile",
    )


def _check_block(block: NDArray[Any], n_channels: int) -> None:
    check_dtype(block.dtype)
    if block.ndim == 0 or block.shape[0] != n_channels:
        raise ShapeError(
            f"A block of shape {block.shape} does not have {n_channels} channels first; the "
            "rule is (C, ...), with the same C everywhere."
        )


def _line(normalization: Normalization, statistics: ChannelStatistics) -> tuple[float, float]:
    """Return offset and scale of one channel."""
    if normalization.method == "none":
        return 0.0, 1.0
    if normalization.method == "range":
        return normalization.low, 1 / (normalization.high - normalization.low)
    if statistics.is_empty or statistics.low == statistics.high:
        return (0.0 if statistics.is_empty else statistics.low), 0.0
    if normalization.method == "zscore":
        return statistics.mean, _inverse(statistics.std + normalization.eps)
    low, high = statistics.low, statistics.high
    if normalization.method == "percentile":
        lower = statistics.percentile(normalization.low)
        upper = statistics.percentile(normalization.high)
        if lower < upper or normalization.eps:
            low, high = lower, upper
    return low, _inverse(high - low + normalization.eps)


def _inverse(span: float) -> float:
    """Return 1 / span, or 0 (a constant channel) where float64 cannot express it."""
    scale = 1 / span if span > 0 else 0.0
    return scale if math.isfinite(scale) else 0.0
