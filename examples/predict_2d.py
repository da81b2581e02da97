"""Segment a 2D image with a bundled model, and write the labels as a TIFF file."""

from __future__ import annotations

import numpy as np

from unetari import load_model, predict
from unetari.samples import nuclei_2d
from unetari.storage.labels import create_labels


def main() -> None:
    sample = nuclei_2d()
    model = load_model("nuclei-2d")
    result = predict(sample.image, model, axes=sample.axes)

    with create_labels(
        "nuclei_labels.tif",
        result.labels.shape,
        result.labels.dtype,
        axes=sample.axes,
        voxel_size=sample.voxel_size,
        unit="micrometer",
        overwrite=True,
    ) as file:
        file[:] = result.labels

    truth, found = np.asarray(sample.mask) > 0, result.labels > 0
    print(f"{found.mean():.1%} of the pixels are {model.spec.labels[1]}")
    iou = (truth & found).sum() / (truth | found).sum()
    print(f"intersection over union with the true mask: {iou:.3f}")


if __name__ == "__main__":
    main()
