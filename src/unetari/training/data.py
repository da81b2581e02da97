"""Image/label pairs: found in two folders, checked, normalized, cut into patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetari.core.normalization import fit_intensity
from unetari.core.source import ImageSource
from unetari.core.tiles import Span, mirror
from unetari.errors import ConfigError, ImageFileError, ShapeError
from unetari.storage.images import READERS, open_image
from unetari.training.options import TrainingOptions

SUFFIXES = (*READERS, ".zarr")
"""Image files that are looked for in a folder; others are ignored."""


@dataclass(frozen=True)
class Pair:
    """An image file and the file with its labels."""

    name: str
    """File name without suffix, the same for both."""
    image: Path
    labels: Path


@dataclass(frozen=True)
class TrainingSample:
    """A normalized image with its target, ready to cut patches from."""

    name: str
    image: NDArray[np.float32]
    """(C, [Z,] Y, X)."""
    labels: NDArray[np.uint16]
    """Classes, ([Z,] Y, X)."""

    @cached_property
    def foreground_size(self) -> int:
        """Number of foreground voxels."""
        return int(np.count_nonzero(self.labels))

    @cached_property
    def foreground(self) -> NDArray[np.intp]:
        """Positions of foreground voxels, (n, axes); a regular selection if there are many."""
        flat = np.flatnonzero(self.labels)
        step = max(1, flat.size // 4096)
        return np.stack(np.unravel_index(flat[::step], self.labels.shape), axis=1)


def find_pairs(images: str | Path, labels: str | Path) -> tuple[Pair, ...]:
    """Pair the files of two folders by their names without suffix.

    Parameters
    ----------
    images, labels : str or Path
        Folders. Files of other kinds than images are ignored.

    Returns
    -------
    tuple of Pair
        In the order of their names.

    Raises
    ------
    ImageFileError
        If a folder is missing or empty, a name occurs twice in a folder, or
        a file has no partner.
    """
    image_files, label_files = _by_stem(Path(images)), _by_stem(Path(labels))
    lonely = sorted(image_files.keys() ^ label_files.keys())
    if lonely:
        there, missing = (images, labels) if lonely[0] in image_files else (labels, images)
        raise ImageFileError(
            f"{lonely[0]!r} is in {there} and has no partner in {missing} ({len(lonely)} such "
            f"names). Each image needs a label file of the same name; move the others away."
        )
    return tuple(Pair(name, image_files[name], label_files[name]) for name in sorted(image_files))


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ImageFileError(f"{folder} is no folder. Give a folder of image files.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise ImageFileError(
                f"{found[path.stem].name} and {path.name} in {folder} differ in their suffix "
                "only. Pairs are made by name: rename or move one."
            )
        found[path.stem] = path
    if not found:
        raise ImageFileError(f"{folder} holds no images ({', '.join(SUFFIXES)}).")
    return found


def split_pairs(
    pairs: Sequence[Pair], options: TrainingOptions
) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Divide pairs into those to train on and those to validate on.

    Raises
    ------
    ConfigError
        If a held-out or excluded name matches no pair, or nothing is left on
        one of the two sides.
    """
    excluded = _matching(pairs, options.exclude, "exclude")
    kept = [pair for pair in pairs if pair not in excluded]
    if isinstance(options.validation, float):
        count = max(1, round(options.validation * len(kept)))
        order = np.random.default_rng(options.seed).permutation(len(kept))
        held_out = {kept[index] for index in order[:count]}
    else:
        held_out = _matching(pairs, options.validation, "validation")
    training = tuple(pair for pair in kept if pair not in held_out)
    validation = tuple(pair for pair in kept if pair in held_out)
    if not training or not validation:
        raise ConfigError(
            f"{len(training)} pairs to train on and {len(validation)} to validate on: at least "
            f"one of each is needed. Add pairs, or change validation={options.validation!r}."
        )
    return training, validation


def _matching(pairs: Sequence[Pair], patterns: Sequence[str], option: str) -> set[Pair]:
    found: set[Pair] = set()
    for pattern in patterns:
        matches = {pair for pair in pairs if fnmatchcase(pair.name, pattern)}
        if not matches:
            raise ConfigError(
                f"{option}: {pattern!r} matches none of the {len(pairs)} pairs. Names are file "
                "names without suffix; * and ? are wildcards."
            )
        found |= matches
    return found


def load_samples(pair: Pair, options: TrainingOptions) -> list[TrainingSample]:
    """Read a pair, check that it fits, and normalize the image.

    Returns
    -------
    list of TrainingSample
        One per network input: the planes of a stack for a 2D network, the
        volumes of a time series for a 3D one.

    Raises
    ------
    ShapeError
        If the image and its labels differ in size, or do not fit the network.
    ImageFileError
        If a file cannot be read, or the labels are empty or no classes.
    AxesError
        If the axes do not suit the network.
    """
    source = open_image(pair.image, options.axes).source(options.channel, options.grey)
    labels = np.asarray(open_image(pair.labels).data)
    _check(source, labels, pair, options)
    labels = _classes(labels, pair, options)
    dim, normalization = options.network.dim, options.normalization
    frames = list(source.frames(dim))
    whole = tuple(slice(0, size) for size in source.spatial_shape(dim))
    fitted = fit_intensity(normalization, source.iter_blocks(dim))
    samples = []
    for frame in frames:
        if normalization.scope == "frame":
            fitted = fit_intensity(normalization, source.iter_blocks(dim, frame))
        index = tuple(frame.get(letter, slice(None)) for letter in source.label_axes)
        where = "".join(f" {letter}{number}" for letter, number in frame.items())
        image = fitted(source.read(frame, whole))
        samples.append(
            TrainingSample(pair.name + where, image, np.ascontiguousarray(labels[index]))
        )
    return samples


def _check(source: ImageSource, labels: NDArray[Any], pair: Pair, options: TrainingOptions) -> None:
    wanted = options.network.in_channels
    if source.n_channels != wanted:
        raise ShapeError(
            f"{pair.image} has {source.n_channels} channels ({source.describe()}), and the network "
            f"takes {wanted}. Set in_channels={source.n_channels}, or choose a channel, or "
            "grey=true for RGB."
        )
    if labels.shape != source.label_shape:
        raise ShapeError(
            f"{pair.labels} has shape {labels.shape}, and {pair.image.name} "
            f"({source.describe()}) needs labels of shape {source.label_shape}. Labels have the "
            "image's axes without its channels."
        )
    if labels.dtype.kind not in "iu":
        raise ImageFileError(
            f"{pair.labels} has values of type {labels.dtype}. Labels are whole numbers; save "
            "them as an integer image."
        )


def _classes(labels: NDArray[Any], pair: Pair, options: TrainingOptions) -> NDArray[np.uint16]:
    if not labels.any():
        raise ImageFileError(
            f"{pair.labels} is empty: no voxel is labelled. Annotate it, or exclude {pair.name!r}."
        )
    if options.target == "foreground":
        return (labels > 0).astype(np.uint16)
    highest = int(labels.max())
    if labels.min() < 0 or highest >= options.network.n_classes:
        raise ImageFileError(
            f"{pair.labels} has labels from {labels.min()} to {highest}, and the network has the "
            f"classes 0 to {options.network.n_classes - 1}. Set out_channels={highest + 1}, or "
            "target='foreground' if these are instances."
        )
    return labels.astype(np.uint16)


def draw_window(
    sample: TrainingSample,
    patch: Sequence[int],
    window: Sequence[int],
    rng: np.random.Generator,
    *,
    foreground: float,
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Cut a random window around a patch out of a sample.

    The patch lies inside the sample wherever it fits; the window around it
    (larger, for augmentation by rotation) and what a small sample lacks are
    mirrored at the border.

    Parameters
    ----------
    sample : TrainingSample
        The image and its labels.
    patch, window : sequence of int
        Sizes, ([z,] y, x); the window is at least as large as the patch.
    rng : numpy.random.Generator
        Source of the position.
    foreground : float
        Probability of a patch that is drawn around a foreground voxel. The voxel may lie
        anywhere in the patch: were it the centre, the network would learn that centres of
        patches are foreground, which it knows by the zero padding, and which is wrong elsewhere.

    Returns
    -------
    image : (C, [Z,] Y, X) float32
    labels : ([Z,] Y, X) uint16
    """
    shape = np.array(sample.labels.shape)
    if rng.random() < foreground and len(sample.foreground):
        voxel = sample.foreground[rng.integers(len(sample.foreground))]
        centre = voxel + np.array(patch) // 2 - rng.integers(0, patch)
    else:
        centre = rng.integers(0, shape)
    half = np.array(patch) // 2
    # Where the patch is larger than the sample, the two share their centre.
    low, high = np.minimum(half, shape // 2), np.maximum(shape - half, shape // 2)
    start = np.clip(centre, low, high) - np.array(window) // 2
    index = [
        mirror(Span(int(first), int(first) + size), int(length))
        for first, size, length in zip(start, window, shape, strict=True)
    ]
    grid = np.ix_(*index)
    return np.stack([channel[grid] for channel in sample.image]), sample.labels[grid]
