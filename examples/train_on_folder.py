"""Train a small network on a folder of images and a folder of labels, then use it.

The folders are made here from generated images. With your own, files are
paired by their names; labels are masks or instances, 0 is background.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from unetari import UNetConfig, load_model, predict
from unetari.samples import nuclei_2d
from unetari.training.data import find_pairs
from unetari.training.loop import train
from unetari.training.options import TrainingOptions


def write_pairs(images: Path, labels: Path, count: int) -> None:
    """Write generated images and their instance masks."""
    images.mkdir(exist_ok=True)
    labels.mkdir(exist_ok=True)
    for seed in range(count):
        sample = nuclei_2d(seed)
        tifffile.imwrite(images / f"{seed:02}.tif", sample.image)
        tifffile.imwrite(labels / f"{seed:02}.tif", sample.mask)


def main() -> None:
    images, labels = Path("images"), Path("labels")
    write_pairs(images, labels, count=5)

    options = TrainingOptions(
        network=UNetConfig(n_blocks=3, start_filters=8),
        patch_size=(128, 128),
        batch_size=4,
        steps=120,
        validate_every=40,
        validation=0.2,
        class_names=("background", "nucleus"),
    )
    for progress in train(options, find_pairs(images, labels), "mine.safetensors", overwrite=True):
        if progress.score is not None:
            print(f"step {progress.step}: loss {progress.loss:.3f}, score {progress.score:.3f}")

    unseen = nuclei_2d(seed=99)
    found = predict(unseen.image, load_model("mine.safetensors")).labels > 0
    truth = np.asarray(unseen.mask) > 0
    print(f"unseen image: {(truth & found).sum() / (truth | found).sum():.3f}")


if __name__ == "__main__":
    main()
