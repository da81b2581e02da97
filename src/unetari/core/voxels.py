"""Voxel sizes: whether those of an image suit a model, and how to rescale the image if not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from unetari.core.scaling import check_factors
from unetari.core.spec import ModelSpec
from unetari.errors import ShapeError

TOLERANCE = 1.25
"""Factor between the voxel sizes of model and image that is not worth a word."""

_EQUAL = 0.02
"""Relative difference that is rounding of the sizes; resampling would only blur."""

_ASK = {
    2: "such as scale=(0.5, 0.5), or --scale 0.5x0.5",
    3: "such as scale=(1, 2, 2), or --scale 1x2x2",
}
"""Examples by dimensions."""


def rescale_factors(sizes: Mapping[str, float], spec: ModelSpec) -> tuple[float, ...]:
    """Return the factors that bring an image to the voxel size a model was trained on.

    Parameters
    ----------
    sizes : mapping of str to float
        The image's voxel size in micrometre by axis letter; unknown ones left out.
    spec : ModelSpec
        The model's card.

    Returns
    -------
    tuple of float
        For `scale` of `predict`, ([Z,] Y, X): voxel size of the image over that of
        the model; exactly 1 where they agree within 2 %.

    Raises
    ------
    ShapeError
        If one of the sizes is unknown, or a factor is beyond 1/20 to 20.

    Examples
    --------
    >>> from unetari.core.config import UNetConfig
    >>> spec = ModelSpec(config=UNetConfig(dim=2), voxel_size=(0.5, 0.5))
    >>> rescale_factors({"Y": 0.25, "X": 0.25}, spec)
    (0.5, 0.5)
    """
    dim = spec.config.dim
    if not spec.voxel_size:
        raise ShapeError(
            "The model does not say at which voxel size it was trained, so there is nothing to "
            f"rescale to. Give the factors yourself, {_ASK[dim]}."
        )
    unknown = [axis for axis in "ZYX"[-dim:] if not _is_size(sizes.get(axis))]
    if unknown:
        known = ", ".join(f"{axis} {size:.4g}" for axis, size in sizes.items()) or "none"
        raise ShapeError(
            f"The image's voxel size in micrometre is unknown along {', '.join(unknown)} (known: "
            f"{known}), and rescaling needs it along every axis that the network sees. Set it in "
            f"the image, or give the factors yourself, {_ASK[dim]}."
        )
    pairs = zip("ZYX"[-dim:], spec.voxel_size, strict=True)
    ratios = [sizes[axis] / trained for axis, trained in pairs]
    return check_factors([1.0 if abs(r - 1) < _EQUAL else r for r in ratios], dim)


def _is_size(size: float | None) -> bool:
    return size is not None and math.isfinite(size) and size > 0


def compare_voxel_sizes(sizes: Mapping[str, float], spec: ModelSpec) -> str:
    """Say if a model was trained on voxels of a quite different size.

    Parameters
    ----------
    sizes : mapping of str to float
        The image's voxel size in micrometre by axis letter; unknown ones left out.
    spec : ModelSpec
        The model's card.

    Returns
    -------
    str
        A sentence per factor, and advice; empty if the sizes agree within 25 %, or are unknown.

    Examples
    --------
    >>> from unetari.core.config import UNetConfig
    >>> spec = ModelSpec(config=UNetConfig(dim=2), voxel_size=(0.5, 0.5))
    >>> print(compare_voxel_sizes({"Y": 0.25, "X": 0.25}, spec))
    Y, X: the model was trained at 0.5 µm per voxel, and this image has 0.25 µm, so that
    everything looks 2 times larger to it. Rescale the image if the result is poor.
    """
    groups: dict[str, list[tuple[str, float, float]]] = {}
    for axis, trained in zip("ZYX"[-spec.config.dim :], spec.voxel_size, strict=False):
        size = sizes.get(axis, trained)
        if _is_size(size) and max(size, trained) / min(size, trained) > TOLERANCE:
            groups.setdefault(_describe_factor(size / trained), []).append((axis, trained, size))
    if not groups:
        return ""
    sentences = [_describe(factor, *zip(*axes, strict=True)) for factor, axes in groups.items()]
    return " ".join([*sentences, "Rescale the image if the result is poor."])


def _describe_factor(factor: float) -> str:
    return f"{factor:.2g} times smaller" if factor > 1 else f"{1 / factor:.2g} times larger"


def _describe(
    factor: str, axes: Sequence[str], trained: Sequence[float], found: Sequence[float]
) -> str:
    return (
        f"{', '.join(axes)}: the model was trained at {_join(trained)} µm per voxel, and this "
        f"image has {_join(found)} µm, so that everything looks {factor} to it."
    )


def _join(sizes: Sequence[float]) -> str:
    texts = [f"{size:.3g}" for size in sizes]
    return texts[0] if len(set(texts)) == 1 else " x ".join(texts)
