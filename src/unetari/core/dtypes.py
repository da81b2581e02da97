"""Which kinds of numbers an image may hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from unetari.errors import ImageFileError


def check_dtype(dtype: DTypeLike) -> None:
    """Refuse everything but real numbers.

    Raises
    ------
    ImageFileError
        For complex numbers, objects, text, dates and records.

    Examples
    --------
    >>> check_dtype("uint16")
    >>> check_dtype("complex64")
    Traceback (most recent call last):
    ...
    unetari.errors.ImageFileError: The image holds complex64, ... Take the magnitude (numpy.abs) ...
    """
    kind = np.dtype(dtype).kind
    if kind in "buif":
        return
    fix = (
        "Take the magnitude (numpy.abs) or the real part first."
        if kind == "c"
        else "Convert it to one of these first."
    )
    raise ImageFileError(
        f"The image holds {np.dtype(dtype)}, and unetari takes booleans, integers and floats. {fix}"
    )
