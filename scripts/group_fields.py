"""Group images that are crops of one field of view, and hold some groups out.

In DSB2018 (BBBC038) many images are crops of one larger field: the last row or
column of one continues in the first of another. A random split would put
neighbouring crops on both sides of it. This script links two images of one
shape when a border of one continues in the opposite border of the other: the
two lines correlate (`--correlation`) and the mean step across the seam is not
much larger than the step between the last two lines of the image (`--step`).
The links' connected components are the groups; the thresholds are loose, so
that a group may hold several fields, rather than a field lie in two groups.

A border without nuclei cannot be matched, so a crop of 256 x 256 pixels may miss
its siblings. Fields were cut into at least 2 x 2 such crops: groups of fewer
than four stay in training, and only complete ones are held out.

Groups are drawn at random (seeded), per image shape, until the wished fraction
of the images is held out.

    python scripts/group_fields.py IMAGES --fraction 0.15 --out recipes/nuclei-2d-validation.txt
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Image = NDArray[np.float32]
Images = dict[str, Image]
SEAMS = (("right", "left"), ("bottom", "top"))
COMPLETE: dict[tuple[int, ...], int] = {(256, 256): 4}
"""The smallest group of a shape that may be held out; 1 for other shapes."""


def border(image: Image, side: str) -> tuple[Image, Image]:
    """Return the outermost line of a side, and the line next to it."""
    turned = {"left": image.T, "right": image.T[::-1], "top": image, "bottom": image[::-1]}[side]
    return turned[0], turned[1]


def standardize(lines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each line to zero mean and unit length, so that products are correlations."""
    centred = lines - lines.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    scaled: Image = centred / (length + np.float32(1e-6))
    return scaled


def seam_links(images: Sequence[Image], correlation: float, step: float) -> NDArray[np.bool_]:
    """Tell, for each ordered pair, whether the first image continues in the second."""
    links = np.zeros((len(images), len(images)), bool)
    for here, there in SEAMS:
        last = np.stack([border(image, here)[0] for image in images])
        before = np.stack([border(image, here)[1] for image in images])
        first = np.stack([border(image, there)[0] for image in images])
        across = np.stack([np.abs(line - first).mean(axis=1) for line in last])
        within = np.abs(last - before).mean(axis=1, keepdims=True) + 0.5
        similar = standardize(last) @ standardize(first).T > correlation
        links |= similar & (across < step * within)
    np.fill_diagonal(links, False)
    return links


def group(images: Images, correlation: float, step: float) -> list[list[str]]:
    """Return groups of names, largest first; an image without links is its own group."""
    by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in sorted(images):
        by_shape[images[name].shape].append(name)
    groups: dict[tuple[tuple[int, ...], int], list[str]] = defaultdict(list)
    for shape, names in by_shape.items():
        links = seam_links([images[name] for name in names], correlation, step)
        for name, label in zip(names, connected_components(coo_array(links))[1], strict=True):
            groups[shape, label].append(name)
    return sorted(groups.values(), key=lambda names: (-len(names), names))


def hold_out(groups: list[list[str]], images: Images, fraction: float, seed: int) -> list[str]:
    """Draw whole groups until, of each image shape, about `fraction` is held out."""
    rng = np.random.default_rng(seed)
    by_shape: dict[tuple[int, ...], list[list[str]]] = defaultdict(list)
    for names in groups:
        by_shape[images[names[0]].shape].append(names)
    held_out = []
    for shape, family in by_shape.items():
        wanted = round(fraction * sum(map(len, family)))
        complete = [names for names in family if len(names) >= COMPLETE.get(shape, 1)]
        held_out += list(draw(complete, wanted, rng))
    return sorted(held_out)


def draw(family: list[list[str]], wanted: int, rng: np.random.Generator) -> Iterator[str]:
    """Draw groups while they fit into the wished number of images."""
    for index in rng.permutation(len(family)):
        if len(family[index]) <= wanted:
            wanted -= len(family[index])
            yield from family[index]


def main() -> None:
    """Read the images, group them, and write the held-out names, one per line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of greyscale PNG images")
    parser.add_argument("--out", type=Path, required=True, help="text file to write")
    parser.add_argument("--fraction", type=float, default=0.15)
    parser.add_argument("--correlation", type=float, default=0.7)
    parser.add_argument("--step", type=float, default=1.2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images = {
        path.stem: iio.imread(path).astype(np.float32) for path in options.images.glob("*.png")
    }
    groups = group(images, options.correlation, options.step)
    names = hold_out(groups, images, options.fraction, options.seed)
    lines = [
        f"# {len(names)} of {len(images)} images, whole fields of view, held out of training.",
        f"# {len(groups)} groups; made by scripts/group_fields.py --fraction {options.fraction}",
        f"# --correlation {options.correlation} --step {options.step} --seed {options.seed}",
    ]
    options.out.write_text("\n".join((*lines, *names)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
