"""Devices: which exist, which one to use, how much memory is free."""

from __future__ import annotations

import psutil
import torch

from unetari.errors import DeviceError
from unetari.model.host import free_host_memory


def available_devices() -> tuple[str, ...]:
    """Return the devices of this machine, the fastest first.

    Returns
    -------
    tuple of str
        Such as ("cuda:0", "cuda:1", "cpu"), ("mps", "cpu") or ("cpu",).
    """
    count = torch.cuda.device_count()  # as the driver says, which may be too old for torch
    usable = count if count and torch.cuda.is_available() else 0
    devices = [f"cuda:{index}" for index in range(usable)]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return (*devices, "cpu")


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called `name`.

    Parameters
    ----------
    name : str or torch.device
        "auto" for the first of `available_devices`, or one of them; "cuda"
        is the first of the CUDA devices.

    Returns
    -------
    torch.device

    Raises
    ------
    DeviceError
        If this machine has no such device.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    choices = available_devices()
    wanted = str(name).strip().lower()
    if wanted == "auto":
        return torch.device(choices[0])
    if wanted == "cuda":
        wanted = "cuda:0"
    if wanted not in choices:
        raise DeviceError(
            f"device={str(name)!r} does not exist on this machine. "
            f"Choose one of: auto, {', '.join(choices)}."
        )
    return torch.device(wanted)


def free_memory(device: str | torch.device) -> int:
    """Return how much memory is free on a device.

    Parameters
    ----------
    device : str or torch.device
        A device of this machine.

    Returns
    -------
    int
        Bytes. On the CPU, limits of the container or job (cgroups) count; on
        other devices, memory that torch has reserved and does not use counts as free.
    """
    device = resolve_device(device)
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        # The GPU shares the memory of the machine, up to a limit of its own.
        used = torch.mps.current_allocated_memory()
        kept = torch.mps.driver_allocated_memory() - used
        available: int = psutil.virtual_memory().available
        return max(0, min(available + kept, torch.mps.recommended_max_memory() - used))
    return free_host_memory()
