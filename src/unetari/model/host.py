"""How much memory of this machine is free."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil


def free_host_memory() -> int:
    """Return the bytes that are free, within the limits of the container or job (cgroups)."""
    available: int = psutil.virtual_memory().available
    return min([available, *_cgroup_memory()])


def _cgroup_memory() -> Iterator[int]:
    """Yield the bytes left under each memory limit that Linux puts on this process."""
    if not sys.platform.startswith("linux"):
        return
    for folder, limit_name, usage_name in _cgroup_folders():
        limit = _read_number(folder / limit_name)
        usage = _read_number(folder / usage_name)
        if limit is not None and usage is not None:
            yield max(0, limit - usage + _reclaimable(folder))


def _cgroup_folders() -> Iterator[tuple[Path, str, str]]:
    """Yield the groups that this process is in, with the names of their limit and usage files."""
    root = Path("/sys/fs/cgroup")
    for line in _read_lines(Path("/proc/self/cgroup")):
        _, controllers, own = line.split(":", 2)
        if not controllers:  # version 2
            base, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        parts = Path(own.lstrip("/")).parts
        for depth in range(len(parts) + 1):
            yield base.joinpath(*parts[:depth]), *names


def _reclaimable(folder: Path) -> int:
    """Return the bytes of cached files, which count as used and are given back on demand."""
    for line in _read_lines(folder / "memory.stat"):
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0


def _read_number(path: Path) -> int | None:
    text = "".join(_read_lines(path))
    return int(text) if text.isdecimal() else None  # "max": no limit


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []  # no such group or file on this system: no limit to respect
