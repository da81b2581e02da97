"""Voxel sizes: whether those of an image suit a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unetari.core.spec import ModelSpec

TOLERANCE = 1.25
"""Factor between the voxel sizes of model and image that is not worth a word."""


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
        A sentence per size, and advice; empty if the sizes agree within 25 %, or are unknown.

    Examples
    --------
    >>> from unetari.core.config import UNetConfig
    >>> spec = ModelSpec(config=UNetConfig(dim=2), voxel_size=(0.5, 0.5))
    >>> print(compare_voxel_sizes({"Y": 0.25, "X": 0.25}, spec))
    Y, X: the model was trained at 0.5 µm per voxel, and this image has 0.25 µm, so that
    everything looks 2 times larger to it. Rescale the image if the result is poor.
    """
    trained = dict(zip("ZYX"[-spec.config.dim :], spec.voxel_size, strict=False))
    groups: dict[tuple[float, float], list[str]] = {}
    for axis, size in trained.items():
        pair = (size, sizes.get(axis, size))
        if max(pair) / min(pair) > TOLERANCE:
            groups.setdefault(pair, []).append(axis)
    if not groups:
        return ""
    sentences = [_describe(axes, *pair) for pair, axes in groups.items()]
    return " ".join([*sentences, "Rescale the image if the result is poor."])


def _describe(axes: Sequence[str], trained: float, found: float) -> str:
    factor = found / trained
    seen = f"{factor:.2g} times smaller" if factor > 1 else f"{1 / factor:.2g} times larger"
    return (
        f"{', '.join(axes)}: the model was trained at {trained:.3g} µm per voxel, and this image "
        f"has {found:.3g} µm, so that everything looks {seen} to it."
    )
