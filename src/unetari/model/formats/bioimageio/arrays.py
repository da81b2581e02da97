"""Test tensors: the examples that come with a package, and whether the network gives them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as TorchTensor
from torch import nn

from unetari.core.normalization import Normalization, fit_intensity
from unetari.errors import ModelFileError
from unetari.model.formats.bioimageio.axes import Layout
from unetari.model.formats.bioimageio.description import File
from unetari.model.formats.bioimageio.package import Package
from unetari.model.formats.bioimageio.pointwise import from_package

MAX_BYTES = 2**30
"""Largest test tensor that is read."""
MAX_VOXELS = 2**21
"""Largest image that is computed when a package is opened."""
_ABSOLUTE, _RELATIVE = 1e-4, 1e-3  # the tolerances of bioimageio.core's own test are 1e-3 each


@dataclass(frozen=True)
class Example:
    """A test input and the output that the authors got for it."""

    image: NDArray[Any]
    """(C, [Z,] Y, X), as it comes from a microscope."""
    scores: NDArray[Any]
    """(classes, [Z,] Y, X), after postprocessing."""


def read_array(package: Package, file: File, limit: int = MAX_BYTES) -> NDArray[Any]:
    """Read a file in numpy's format, without pickles, and not larger than it is.

    Raises
    ------
    ModelFileError
        If it is another kind of file, or claims more values than it holds.
    """
    content = package.read(file.name, limit=limit, sha256=file.sha256)
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(stream)
        if dtype.kind not in "buif" or prod(shape) * dtype.itemsize != len(content) - stream.tell():
            raise ValueError(f"its header says {shape} of {dtype}, and the file does not hold that")
        values = np.frombuffer(content, dtype, offset=stream.tell())
        return values.reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # numpy's parser of headers fails in many ways
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"{file.name!r} is no array of numbers in numpy's format ({reason}). Download the "
            "package again."
        ) from error


def read_image(package: Package, file: File, layout: Layout, limit: int) -> NDArray[Any] | None:
    """Return the test image of a package, (C, [Z,] Y, X); None if it has other axes than stated."""
    return _ours(read_array(package, file, limit), layout)


def read_example(
    package: Package, files: tuple[File | None, File | None], given: Layout, made: Layout
) -> Example | str:
    """Read the test tensors of a package, or say why there are none."""
    for file in files:
        if file is None:
            return "it has no test tensors"
        if file.is_remote:
            return f"its test tensor lies on a server ({file.name[:200]}), and nothing is fetched"
    image, scores = (
        _ours(read_array(package, file), layout)
        for file, layout in zip(files, (given, made), strict=True)
        if file is not None
    )
    if image is None or scores is None:
        return "its test tensors have other axes than it says"
    if prod(image.shape[1:]) > MAX_VOXELS:
        size = " x ".join(map(str, image.shape[1:]))
        return f"its test image of {size} voxels is too large to be computed now"
    return Example(image, scores)


def _ours(array: NDArray[Any], layout: Layout) -> NDArray[Any] | None:
    """Return the first image of a tensor as (C, [Z,] Y, X)."""
    if array.ndim != len(layout.letters):
        return None
    ones = [array.shape[axis] for axis, letter in enumerate(layout.letters) if letter == "1"]
    if any(size != 1 for size in ones) or array.size == 0:
        return None
    widened = array if array.dtype.kind in "ui" and array.dtype.itemsize < 4 else None
    values = array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32)
    plain = from_package(torch.from_numpy(values), layout)[0].numpy()
    return plain if widened is None else plain.astype(array.dtype)


def largest_difference(
    example: Example, network: nn.Module, normalization: Normalization, finish: nn.Module
) -> tuple[float, bool]:
    """Compute an example in one pass.

    Parameters
    ----------
    example : Example
        The image and what should come out.
    network : nn.Module
        Takes (1, C, [Z,] Y, X), normalized.
    normalization : Normalization
        How intensities are mapped.
    finish : nn.Module
        The activation that the engine applies to logits.

    Returns
    -------
    difference : float
        Largest absolute difference; inf if the shapes differ.
    is_rounding : bool
        Whether every value is as close as rounding allows.

    Raises
    ------
    Exception
        Whatever the network raises.
    """
    intensity = fit_intensity(normalization, [example.image])
    with torch.no_grad():
        image = torch.from_numpy(intensity(example.image))[None]
        scores: TorchTensor = finish(network(image))[0]
    found, expected = scores.numpy().astype(np.float64), example.scores.astype(np.float64)
    if found.shape != expected.shape:
        return float("inf"), False
    error = np.abs(found - expected)
    close = error <= _ABSOLUTE + _RELATIVE * np.abs(expected)
    return float(error.max()), bool(close.all())
