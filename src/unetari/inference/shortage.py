"""Memory that does not suffice, in the words of every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from unetari.errors import OutOfMemoryError

Result = TypeVar("Result")

_PHRASES = (
    "can't allocate memory",
    "not enough memory",
    "backend out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "STATUS_ALLOC_FAILED",  # of cuBLAS, and of cuDNN until 8
    "ALLOCATION_FAILED",  # of cuDNN from 9 on
    "Invalid buffer size",  # of Metal, for a single array
)


def attempt(compute: Callable[[], Result], describe: Callable[[], str]) -> Result:
    """Compute something; if memory runs short, raise an error that says what did not fit.

    Raises
    ------
    OutOfMemoryError
        With the text of `describe`.
    """
    try:
        return compute()
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if not any(phrase in str(error) for phrase in _PHRASES):
            raise
    # Not in an except clause, whose frames keep the tensors alive.
    raise OutOfMemoryError(describe())
