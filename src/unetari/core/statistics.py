"""Statistics of one channel from a single pass, the same for any chunking.

Memory stays bounded: values are taken in pieces, and what is kept of them is
their extremes, their moments, and a histogram with at most `MAX_BINS` bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE = 2**21
"""Values looked at together: bounds the temporary float64 copies to 16 MiB."""

MAX_BINS = 2**20
"""Distinct values a histogram keeps before it joins neighbours."""


class ChannelStatistics:
    """Extremes, and on request moments and percentiles, of finite values.

    Parameters
    ----------
    moments : bool
        Collect mean and standard deviation.
    percentiles : bool
        Collect a histogram for percentiles.

    Examples
    --------
    >>> statistics = ChannelStatistics(percentiles=True)
    >>> statistics.add(np.array([1.0, 2.0, 3.0, np.nan]))
    >>> statistics.low, statistics.high, statistics.percentile(50)
    (1.0, 3.0, 2.0)
    """

    def __init__(self, *, moments: bool = False, percentiles: bool = False) -> None:
        self.low = math.inf
        self.high = -math.inf
        self._moments = _Moments() if moments else None
        self._histogram = _Histogram() if percentiles else None

    @property
    def is_empty(self) -> bool:
        """Whether no finite value has been seen."""
        return self.low > self.high

    @property
    def mean(self) -> float:
        """Mean of the finite values."""
        return self._moments.mean if self._moments else math.nan

    @property
    def std(self) -> float:
        """Standard deviation of the finite values (population)."""
        return self._moments.std if self._moments else math.nan

    def percentile(self, percent: float) -> float:
        """Percentile with linear interpolation, as `numpy.percentile` has it."""
        if self._histogram is None:
            return math.nan
        # The middle of a joined bin may lie outside what was seen.
        return min(max(self._histogram.percentile(percent), self.low), self.high)

    def add(self, values: NDArray[Any]) -> None:
        """Take in more values (any shape, real numbers)."""
        for piece in _pieces(values):
            finite = _finite(piece)
            if finite.size:
                self._add(finite)

    def _add(self, values: NDArray[Any]) -> None:
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        if self._moments is not None:
            self._moments.add(values)
        if self._histogram is not None:
            self._histogram.add(values)


def _pieces(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    flat = values.reshape(-1)
    for start in range(0, flat.size, PIECE):
        yield flat[start : start + PIECE]


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    """Return the finite values in native byte order, in a type of at most 64 bits."""
    dtype = values.dtype.newbyteorder("=")
    if dtype.kind == "f":
        values = values[np.isfinite(values)]
        dtype = np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    return values.astype(dtype, copy=False)


class _Moments:
    """Mean and variance by the pairwise update of Chan, Golub and LeVeque (1983)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, values: NDArray[Any]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            wide = values.astype(np.float64)
            mean = float(wide.mean())
            squares = float(np.square(wide - mean).sum())
        total = self.count + wide.size
        shift = mean - self.mean
        self.mean += shift * (wide.size / total)
        self._squares += squares + shift * shift * (self.count * (wide.size / total))
        self.count = total

    @property
    def std(self) -> float:
        return math.sqrt(self._squares / self.count) if self.count else math.nan


class _Histogram:
    """Counts of values; exact up to `MAX_BINS` distinct ones.

    Values become unsigned integers in the same order (floats through their
    bits). With more than `MAX_BINS` distinct values the lowest bits are dropped,
    as few as needed. How many that is depends on the set of values alone, so
    neither chunking nor order changes a percentile. The error is at most half a
    bin: some 1e-6 of the span of integers, some 1e-5 of the value of floats.
    """

    def __init__(self) -> None:
        self._dtype = np.dtype(np.uint8)
        self._shift = 0
        self._keys: NDArray[Any] = np.empty(0, np.uint8)
        self._counts: NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        self._dtype = values.dtype
        keys, counts = _count(_to_keys(values) >> self._shift)
        keys, counts = self._join(keys, counts)
        keys = np.concatenate((self._keys.astype(keys.dtype), keys))
        counts = np.concatenate((self._counts, counts))
        self._keys, self._counts = self._join(*_merge(keys, counts))

    def _join(
        self, keys: NDArray[Any], counts: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Drop low bits, here and in what is stored, until the keys are few enough."""
        while keys.size > MAX_BINS:
            self._shift += 1
            keys, counts = _merge(keys >> 1, counts)
            self._keys, self._counts = _merge(self._keys >> 1, self._counts)
        return keys, counts

    def percentile(self, percent: float) -> float:
        ends = np.cumsum(self._counts)
        position = percent / 100 * (int(ends[-1]) - 1)
        below = math.floor(position)
        ranks = np.array([below, math.ceil(position)])
        at = self._keys[np.searchsorted(ends, ranks, side="right")]
        lower, upper = _from_keys(at, self._shift, self._dtype).astype(np.float64).tolist()
        fraction = position - below
        return float(lower * (1 - fraction) + upper * fraction)


def _count(keys: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the distinct keys, ascending, and how often each occurs."""
    if keys.dtype.itemsize <= 2:
        counts = np.bincount(keys)
        distinct = np.flatnonzero(counts)
        return distinct.astype(keys.dtype), counts[distinct].astype(np.int64)
    keys = np.sort(keys)
    starts = _run_starts(keys)
    return keys[starts], np.diff(starts, append=keys.size).astype(np.int64)


def _merge(keys: NDArray[Any], counts: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Sort the keys and add up the counts of equal ones."""
    if keys.size == 0:
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = _run_starts(keys)
    return keys[starts], np.add.reduceat(counts[order], starts)


def _run_starts(ordered: NDArray[Any]) -> NDArray[np.intp]:
    return np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))


def _sign_bit(dtype: np.dtype[Any]) -> np.unsignedinteger[Any]:
    unsigned = np.dtype(f"u{dtype.itemsize}")
    bit: np.unsignedinteger[Any] = unsigned.type(1 << (8 * dtype.itemsize - 1))
    return bit


def _to_keys(values: NDArray[Any]) -> NDArray[Any]:
    """Map values to unsigned integers of the same size and order."""
    keys = values
    if values.dtype.kind == "i":
        sign = _sign_bit(values.dtype)
        keys = values.view(sign.dtype) ^ sign
    elif values.dtype.kind == "f":
        sign = _sign_bit(values.dtype)
        bits = (values + values.dtype.type(0)).view(sign.dtype)  # + 0 turns -0 into +0
        keys = np.where(bits & sign, ~bits, bits | sign)
    return keys


def _from_keys(keys: NDArray[Any], shift: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Undo `_to_keys`; keys that lost bits stand for the middle of their bin."""
    values = keys
    if shift:
        values = (keys << shift) | (keys.dtype.type(1) << keys.dtype.type(shift - 1))
    if dtype.kind == "i":
        values = (values ^ _sign_bit(dtype)).view(dtype)
    elif dtype.kind == "f":
        sign = _sign_bit(dtype)
        values = np.where(values & sign, values ^ sign, ~values).view(dtype)
    return values
