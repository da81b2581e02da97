"""Segment a volume with a 2D network plane by plane, and with a 3D network at once."""

from __future__ import annotations

import numpy as np

from unetari import load_model, predict
from unetari.samples import nuclei_3d


def main() -> None:
    sample = nuclei_3d()
    truth = np.asarray(sample.mask) > 0
    for name in ("nuclei-2d", "nuclei-3d"):
        # A 2D network runs over the axes that it does not know: here Z.
        result = predict(sample.image, load_model(name), axes="ZYX")
        found = result.labels > 0
        iou = (truth & found).sum() / (truth | found).sum()
        print(f"{name}: labels {result.labels.shape}, intersection over union {iou:.3f}")


if __name__ == "__main__":
    main()
