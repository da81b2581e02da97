"""`Transfer`: arrays on their way to a device and back, while the device computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetari.core.normalization import IntensityMap


class Arrival(NamedTuple):
    """An array that was sent to a device, and may still be on its way."""

    values: Tensor
    """The array; for `Transfer.receive`."""
    event: Any
    """What the device reaches once it is there."""


class Transfer:
    """Copies to and from a device without keeping it from computing.

    On CUDA, arrays go through page-locked memory, which torch keeps and hands out again,
    and they come in a stream of their own. For other devices `torch.cpu` has the same
    names, behind which nothing happens.

    Parameters
    ----------
    device : torch.device
        The device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._is_cuda = device.type == "cuda"
        self._queues: Any = torch.cuda if self._is_cuda else torch.cpu
        self._stream = self._queues.Stream(*([device] if self._is_cuda else []))

    def send(self, block: NDArray[Any], intensity: IntensityMap | None = None) -> Arrival:
        """Send an array to the device, from any thread.

        Parameters
        ----------
        block : ndarray, (N, C, [Z,] Y, X)
            Intensities, as they are or normalized.
        intensity : IntensityMap, optional
            Applied on the device, to intensities of at most 16 bits (`maps_on_device`).

        Returns
        -------
        Arrival
            float32 on the device.
        """
        with self._queues.stream(self._stream):
            host = torch.from_numpy(np.require(block, requirements=("C", "W")))
            if self._is_cuda:
                host = host.pin_memory()
            values = host.to(self.device, non_blocking=self._is_cuda)
            if intensity is not None:
                values = _map(values, intensity)
            return Arrival(values, self._stream.record_event())

    def receive(self, arrival: Arrival) -> Tensor:
        """Return what was sent, for what is computed from now on in this thread."""
        stream = self._queues.current_stream(self.device)
        stream.wait_event(arrival.event)
        if self._is_cuda:
            arrival.values.record_stream(stream)  # not to be reused before it is done with
        return arrival.values

    def fetch(self, values: Tensor) -> Callable[[], NDArray[Any]]:
        """Begin to copy a result back; what is returned waits for it."""
        if not self._is_cuda:
            array = values.cpu().numpy()
            return lambda: array
        host = torch.empty_like(values, device="cpu", pin_memory=True)
        host.copy_(values, non_blocking=True)
        event = self._queues.current_stream(self.device).record_event()

        def wait() -> NDArray[Any]:
            event.synchronize()
            return host.numpy().copy()

        return wait


def maps_on_device(dtype: np.dtype[Any], device: torch.device) -> bool:
    """Whether intensities are sent as they are, and normalized on the device.

    float32 holds what has at most 16 bits; for anything wider the host computes in float64.
    A CPU normalizes in the thread that reads, and Metal does not know all of these types.
    """
    return device.type == "cuda" and dtype.itemsize <= 2 and dtype.isnative


def _map(values: Tensor, intensity: IntensityMap) -> Tensor:
    """Do on the device what the map does with at most 16 bits."""
    channels = (1, -1, *[1] * (values.ndim - 2))

    def per_channel(numbers: tuple[float, ...]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32, device=values.device).view(channels)

    low, high = per_channel(intensity.low), per_channel(intensity.high)
    mapped = values.to(torch.float32)
    if values.dtype.is_floating_point:
        mapped = torch.where(mapped.isnan(), low, mapped)
        mapped = torch.where(mapped.isposinf(), high, mapped)
        mapped = torch.where(mapped.isneginf(), low, mapped)
    mapped = mapped.sub(per_channel(intensity.offset))
    return mapped.mul_(per_channel(intensity.scale))
