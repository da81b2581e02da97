"""`Transfer`: arrays on their way to a device and back, while the device computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetari.core.normalization import IntensityMap

_ASYNCHRONOUS = ("cuda",)
"""Devices that compute on by themselves."""
_PIECE = 2**26
"""Bytes that are copied at once through page-locked memory."""


class Arrival(NamedTuple):
    """An array that was sent to a device, and may still be on its way."""

    values: Tensor
    """The array; for `Transfer.receive`."""
    event: Any
    """What the device reaches once it is there; None if it is."""


class Transfer:
    """Copies to and from a device; on CUDA, while the device computes.

    There, arrays go in pieces through two page-locked buffers per direction, in streams of
    their own. Other devices copy when they are asked to, in the thread that computes.

    Parameters
    ----------
    device : torch.device
        The device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_asynchronous = device.type in _ASYNCHRONOUS
        """Whether the device computes on by itself, and results can wait to be fetched."""
        self._there = _Way(device) if self.is_asynchronous else None
        self._back = _Way(device) if self.is_asynchronous else None
        self._constants: tuple[IntensityMap, _Constants] | None = None
        self._before: Any = None

    def send(self, block: NDArray[Any], intensity: IntensityMap | None = None) -> Arrival:
        """Send an array to the device, from any one thread.

        Parameters
        ----------
        block : ndarray, (N, C, [Z,] Y, X)
            Intensities, as they are or normalized.
        intensity : IntensityMap, optional
            Applied on the device, to intensities of at most 16 bits (`maps_on_device`).

        Returns
        -------
        Arrival
            With float32, if intensities are normalized or mapped.
        """
        host = torch.from_numpy(np.require(block, requirements=("C", "W")))
        if self._there is None:
            return Arrival(host if intensity is None else self._map(host, intensity), None)
        with self._there.stream():
            values = torch.empty_like(host, device=self.device)
            self._there.copy(host, values)
            if intensity is not None:
                values = self._map(values, intensity)
            return Arrival(values, self._there.record())

    def receive(self, arrival: Arrival) -> Tensor:
        """Return what was sent, for what is computed from now on in this thread.

        The device is at most one array behind: its work on the last but one is done.
        """
        if arrival.event is None:
            return arrival.values.to(self.device)
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(arrival.event)
        arrival.values.record_stream(stream)  # not to be reused before it is done with
        event = stream.record_event()
        if self._before is not None:
            self._before.synchronize()
        self._before = event
        return arrival.values

    def fetch(self, values: Tensor) -> Callable[[], NDArray[Any]]:
        """Return what waits for a result, and copies it back."""
        if self._back is None:
            array = values.cpu().numpy()
            return lambda: array
        way, given = self._back, values.contiguous()
        done = torch.cuda.current_stream(self.device).record_event()

        def wait() -> NDArray[Any]:
            host = torch.empty(given.shape, dtype=given.dtype, device="cpu")
            done.synchronize()
            with way.stream():
                way.copy(given, host)
            return host.numpy()

        return wait

    def _map(self, values: Tensor, intensity: IntensityMap) -> Tensor:
        """Do on the device what the map does with at most 16 bits."""
        if self._constants is None or self._constants[0] != intensity:
            channels = (1, -1, *[1] * (values.ndim - 2))
            self._constants = intensity, _Constants(
                *(
                    torch.tensor(numbers, dtype=torch.float32).view(channels).to(values.device)
                    for numbers in (
                        intensity.offset, intensity.scale, intensity.low, intensity.high,
                    )
                )
            )  # fmt: skip
        offset, scale, low, high = self._constants[1]
        mapped = values.to(torch.float32)
        if values.dtype.is_floating_point:
            mapped = torch.where(mapped.isposinf(), high, mapped)
            mapped = torch.where(mapped.isfinite(), mapped, low)
        return mapped.sub_(offset).mul_(scale)


class _Constants(NamedTuple):
    """An intensity map on a device."""

    offset: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor


class _Way:
    """A stream that copies through two page-locked buffers in turn."""

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: list[Tensor] = []

    def stream(self) -> AbstractContextManager[Any]:
        """Have what follows happen in this stream."""
        return torch.cuda.stream(self._stream)

    def record(self) -> Any:
        """Return an event that is reached after what was begun so far."""
        return self._stream.record_event()

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy between the host and the device; what is on the host can be used afterwards."""
        pieces = zip(_pieces(source), _pieces(target), strict=True)
        to_host = target.device.type == "cpu"
        waiting: list[tuple[Any, Tensor, Tensor]] = []
        for number, (given, wanted) in enumerate(pieces):
            if len(waiting) == 2:
                _finish(*waiting.pop(0))
            buffer = self._buffer(number % 2, given.numel())
            if not to_host:
                buffer.copy_(given)
            (buffer if to_host else wanted).copy_(given if to_host else buffer, non_blocking=True)
            waiting.append((self.record(), buffer, wanted if to_host else buffer))
        for item in waiting:
            _finish(*item)

    def _buffer(self, number: int, size: int) -> Tensor:
        while len(self._buffers) <= number:
            self._buffers.append(_make_buffer())
        return self._buffers[number][:size]


def _finish(event: Any, buffer: Tensor, wanted: Tensor) -> None:
    """Wait for a piece, and take it out of its buffer if it is to go further."""
    event.synchronize()
    if wanted is not buffer:
        wanted.copy_(buffer)


def _make_buffer() -> Tensor:
    """Return page-locked memory, or any if the system grants none: slower, and no less right."""
    with torch.inference_mode(mode=False):  # what is made in it cannot be changed outside of it
        try:
            return torch.empty(_PIECE, dtype=torch.uint8, device="cpu", pin_memory=True)
        except RuntimeError:
            return torch.empty(_PIECE, dtype=torch.uint8, device="cpu")


def _pieces(array: Tensor) -> Iterator[Tensor]:
    """Yield the bytes of an array, as many at once as a buffer takes."""
    flat = array.as_strided((array.numel(),), (1,))  # a single value may have any stride
    pieces: tuple[Tensor, ...] = flat.view(torch.uint8).split(_PIECE)  # type: ignore[no-untyped-call]
    return iter(pieces)


def maps_on_device(dtype: np.dtype[Any], device: torch.device) -> bool:
    """Whether intensities are sent as they are, and normalized on the device.

    float32 holds what has at most 16 bits; for anything wider the host computes in float64.
    A CPU normalizes in the thread that reads, and Metal does not know all of these types.
    """
    return device.type == "cuda" and dtype.itemsize <= 2 and dtype.isnative
