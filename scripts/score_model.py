"""Score a model on the images that its recipe holds out of training.

    python scripts/score_model.py nuclei-2d recipes/nuclei-2d.toml --images I --labels L

prints, for each held-out image, the IoU of the model and of Otsu's threshold
(of the whole image), worst first, and both pooled over all images: the sum of
the intersections over the sum of the unions. With `--overlays` it also writes
a PNG per image: truth green, prediction red, where they agree yellow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from skimage.segmentation import find_boundaries

from unetari import load_model, predict
from unetari.storage.images import open_image
from unetari.training.data import find_pairs, split_pairs
from unetari.training.options import load_options
from unetari.training.scores import Overlap, overlap


class Case(NamedTuple):
    """A held-out image with its truth, its segmentation and its scores."""

    name: str
    image: NDArray[Any]
    truth: NDArray[np.bool_]
    found: NDArray[np.bool_]
    model: Overlap
    otsu: Overlap


def score(options: argparse.Namespace) -> Iterator[Case]:
    """Segment the held-out images one by one."""
    model = load_model(options.model)
    pairs = find_pairs(options.images, options.labels)
    for pair in split_pairs(pairs, load_options(options.recipe))[1]:
        source = open_image(pair.image).source()
        image = np.asarray(source.data)
        truth = np.asarray(open_image(pair.labels).data) > 0
        found = predict(source, model).labels > 0
        otsu = image > threshold_otsu(image)
        yield Case(pair.name, image, truth, found, overlap(found, truth), overlap(otsu, truth))


def draw(case: Case) -> NDArray[np.uint8]:
    """Return the image (the plane with most foreground) beside itself with outlines."""
    plane = int(case.truth.sum(axis=(1, 2)).argmax()) if case.truth.ndim == 3 else ...
    image, truth, found = case.image[plane], case.truth[plane], case.found[plane]
    low, high = np.percentile(image, [1, 99.8])
    grey = np.clip((image - low) / max(high - low, 1), 0, 1) ** 0.6
    plain = np.repeat((255 * grey).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
    outlined = plain.copy()
    inside = find_boundaries(truth, mode="inner"), find_boundaries(found, mode="inner")
    outlined[inside[0] | inside[1]] = 0
    outlined[inside[1], 0] = 255
    outlined[inside[0], 1] = 255
    return np.hstack([plain, outlined])


def main() -> None:
    """Print the scores, and write the overlays if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or file of the model")
    parser.add_argument("recipe", type=Path, help="TOML file with the training options")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--overlays", type=Path, help="folder to write PNG overlays to")
    options = parser.parse_args()
    cases = sorted(score(options), key=lambda case: case.model.iou)
    lines = [f"{case.model.iou:.3f}  {case.otsu.iou:.3f}  {case.name}" for case in cases]
    model = sum((case.model for case in cases[1:]), start=cases[0].model)
    otsu = sum((case.otsu for case in cases[1:]), start=cases[0].otsu)
    lines.append(f"{model.iou:.3f}  {otsu.iou:.3f}  pooled over {len(cases)} images")
    sys.stdout.write("\n".join(["model  otsu   image", *lines, ""]))
    if options.overlays:
        options.overlays.mkdir(parents=True, exist_ok=True)
        for case in cases:
            iio.imwrite(options.overlays / f"{case.model.iou:.3f}-{case.name}.png", draw(case))


if __name__ == "__main__":
    main()
