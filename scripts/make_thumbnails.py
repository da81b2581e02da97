"""Make the small pictures of the bundled models: src/unetari/models/*.png.

Each model predicts the generated sample of its dimension; the middle of the result is drawn.
"""

from __future__ import annotations

from pathlib import Path

from unetari import bundled_models, load_model, predict
from unetari.core.source import ImageSource
from unetari.model.thumbnails import draw_prediction
from unetari.samples import nuclei_2d, nuclei_3d

FOLDER = Path(__file__).parents[1] / "src" / "unetari" / "models"
CROP = 256
"""Pixels along Y and X: nuclei must be seen in a picture of 36 pixels."""


def main() -> None:
    """Draw a picture of every bundled model."""
    for name in bundled_models():
        model = load_model(name)
        axes = "ZYX"[-model.config.dim :]
        sample = nuclei_2d() if axes == "YX" else nuclei_3d()
        image = sample.image[..., :CROP, :CROP]
        labels = predict(image, model, axes=axes).labels
        source = ImageSource(image, axes)
        region = tuple(slice(0, size) for size in labels.shape)
        (FOLDER / f"{name}.png").write_bytes(draw_prediction(source, region, labels))


if __name__ == "__main__":
    main()
