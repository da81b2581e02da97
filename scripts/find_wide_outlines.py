"""List the images whose nuclei are outlined far wider than they are.

In part of DSB2018 (BBBC038) the outlines lie several pixels outside the nuclei.
For each annotated nucleus this script takes the share of its pixels that are
brighter than half way between the background (the lower quartile of what is not
annotated) and the nucleus (its 90th percentile). Where outlines follow the
nuclei that is 0.8 to 1; the images in which the median nucleus has less than
`--share` are listed.

    python scripts/find_wide_outlines.py DATA --out recipes/nuclei-2d-excluded.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SMALLEST = 30
"""Nuclei of fewer pixels are not counted."""


def typical_share(image: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the median over the nuclei of the share of bright pixels; 1 if there are none."""
    background = np.percentile(image[labels == 0], 25)
    shares = []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        values = image[box][labels[box] == index] if box else np.empty(0)
        if values.size >= SMALLEST:
            shares.append(np.mean(values > (background + np.percentile(values, 90)) / 2))
    return float(np.median(shares)) if shares else 1.0


def main() -> None:
    """Measure all pairs, and write the names of the images below the threshold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the folders images and labels")
    parser.add_argument("--out", type=Path, required=True, help="text file to write")
    parser.add_argument("--share", type=float, default=0.62)
    options = parser.parse_args()
    shares = {
        path.stem: typical_share(
            iio.imread(path).astype(float), iio.imread(options.data / "labels" / path.name)
        )
        for path in sorted((options.data / "images").glob("*.png"))
    }
    wide = [name for name, share in shares.items() if share < options.share]
    lines = [
        f"# {len(wide)} of {len(shares)} images, with outlines far wider than the nuclei:",
        f"# scripts/find_wide_outlines.py --share {options.share}",
    ]
    options.out.write_text("\n".join((*lines, *wide)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
