"""Memory that one tile frees is kept for the next.

Large arrays come from the system, which hands out zeroed pages one by one, and go
back to it when they are freed: a network that runs tile by tile spends up to half of
its time there. On Linux, `keep_freed_memory` asks glibc to keep the pages, and
unetari asks torch for huge ones (in `unetari.model`). Elsewhere nothing is done, nor where
MALLOC_..._ or GLIBC_TUNABLES in the environment say how memory is to be handled.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# From malloc.h; the names are glibc's.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_MIB = 2**20
_WHILE_RUNNING = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * _MIB}
# glibc starts lower and learns from what a program frees, which it does no longer once
# something was set; these are the values that it learns at most.
_AFTERWARDS = {
    _M_MMAP_MAX: 65536,
    _M_MMAP_THRESHOLD: 32 * _MIB,
    _M_TRIM_THRESHOLD: 64 * _MIB,
    _M_TOP_PAD: _MIB // 8,
}
_lock = threading.Lock()
_running = 0


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory while a run lasts, and give it back to the system after the last one."""
    global _running  # noqa: PLW0603 -- the setting is one of the process
    with _lock:
        _running += 1
        if _running == 1:
            _set(_WHILE_RUNNING)
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                _set(_AFTERWARDS)
                _trim()


def keeps_freed_memory() -> bool:
    """Whether freed memory is kept on this system."""
    return _glibc() is not None


def _set(options: dict[int, int]) -> None:
    libc = _glibc()
    if libc is not None:
        for option, value in options.items():
            libc.mallopt(option, value)


def _trim() -> None:
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _is_tuned() -> bool:
    """Whether somebody set the allocator for this process: glibc cannot tell how."""
    names = [name for name in os.environ if name.startswith("MALLOC_") and name.endswith("_")]
    return bool(names) or "GLIBC_TUNABLES" in os.environ


@cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library, None where it is not glibc or not ours to set."""
    if not sys.platform.startswith("linux") or _is_tuned():
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version") else None
