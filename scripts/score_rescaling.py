"""Score a 3D model on held-out volumes whose voxels were made larger and smaller.

    python scripts/score_rescaling.py nuclei-3d recipes/nuclei-3d.toml --images I --labels L

prints the pooled IoU on the volumes as they are, and for voxels twice and half
as large along each axis: of the model as it is, and with rescaling.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from unetari import load_model, predict
from unetari.storage.images import open_image
from unetari.training.data import find_pairs, split_pairs
from unetari.training.options import load_options
from unetari.training.scores import Overlap, overlap


def coarser(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the means of 2 x 2 x 2 voxels; an odd border is continued."""
    z, y, x = (-(-size // 2) for size in values.shape)
    padded = np.pad(values, [(0, size % 2) for size in values.shape], mode="edge")
    return np.asarray(padded.reshape(z, 2, y, 2, x, 2).mean((1, 3, 5)))


def finer(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return twice as many voxels along each axis, by linear interpolation."""
    fine = zoom(values.astype(np.float32), 2, order=1, grid_mode=True, mode="nearest")
    return np.asarray(fine)


def versions(
    image: NDArray[Any], truth: NDArray[np.bool_]
) -> Iterator[tuple[str, float, NDArray[Any], NDArray[np.bool_]]]:
    """Yield a name, the factor that undoes the change, image and truth."""
    yield "as they are", 1.0, image, truth
    yield "twice as large", 2.0, np.rint(coarser(image)).astype(image.dtype), coarser(truth) >= 0.5
    fine_truth = truth.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    yield "half as large", 0.5, np.rint(finer(image)).astype(image.dtype), fine_truth


def score(options: argparse.Namespace) -> dict[tuple[str, str], Overlap]:
    """Segment every version of every held-out volume."""
    model = load_model(options.model)
    totals: dict[tuple[str, str], Overlap] = {}
    pairs = find_pairs(options.images, options.labels)
    for pair in split_pairs(pairs, load_options(options.recipe))[1]:
        image = np.asarray(open_image(pair.image).data)
        truth = np.asarray(open_image(pair.labels).data) > 0
        for name, factor, seen, expected in versions(image, truth):
            ways = {"plain": None, "rescaled": (factor,) * 3} if factor != 1 else {"plain": None}
            for how, scale in ways.items():
                found = predict(seen, model, axes="ZYX", scale=scale).labels > 0
                result = overlap(found, expected)
                key = (name, how)
                totals[key] = totals[key] + result if key in totals else result
    return totals


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or file of the model")
    parser.add_argument("recipe", type=Path, help="TOML file with the training options")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    for (name, how), total in score(parser.parse_args()).items():
        sys.stdout.write(f"{total.iou:.3f}  voxels {name}, {how}\n")


if __name__ == "__main__":
    main()
