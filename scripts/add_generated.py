"""Add generated volumes with their true masks to a folder of training data.

    python scripts/add_generated.py DATA --count 4

writes DATA/images/generated-101.tif and DATA/labels/generated-101.tif, and so
on. The seeds start at 101, so that the images that the viewer, the tests and
the documentation show (low seeds) stay unseen in training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tifffile

from unetari.samples import nuclei_3d

FIRST_SEED = 101


def main() -> None:
    """Write the volumes and their instance masks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the folders images and labels")
    parser.add_argument("--count", type=int, default=4)
    options = parser.parse_args()
    for seed in range(FIRST_SEED, FIRST_SEED + options.count):
        sample = nuclei_3d(seed)
        for folder, array in (("images", sample.image), ("labels", sample.mask)):
            path = options.data / folder / f"generated-{seed}.tif"
            tifffile.imwrite(path, array, metadata={"axes": "ZYX"}, compression="zlib")


if __name__ == "__main__":
    main()
