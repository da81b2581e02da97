"""Layers with every kind of placement."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.layers import Image

from unetari.core.config import UNetConfig
from unetari.core.source import ImageSource
from unetari.core.spec import ModelSpec


def rotation(ndim: int, degrees: float) -> np.ndarray[Any, Any]:
    """Rotate within the plane of the last two axes."""
    angle = np.deg2rad(degrees)
    matrix = np.eye(ndim)
    matrix[-2:, -2:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


@pytest.fixture
def placed_image() -> Image:
    """ZCYX with scale, translation, rotation, shear, affine, units and labels."""
    affine = np.eye(5)
    affine[:4, 4] = [5, 0, 7, 8]
    affine[2, 3] = 0.2
    return Image(
        np.zeros((6, 3, 40, 50), np.uint8),
        name="image",
        scale=(2, 1, 0.5, 0.25),
        translate=(1, 2, 3, 4),
        rotate=rotation(4, 30),
        shear=[0, 0, 0, 0, 0, 0.3],
        affine=affine,
        units=("um", "pixel", "um", "um"),
        axis_labels=("z", "c", "y", "x"),
    )


class FakeRecord:
    """Stands for a RunRecord."""

    def __init__(self, status: str) -> None:
        self.status = status

    def model_dump(self, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return {"status": self.status}


def make_job(source: ImageSource, region: tuple[slice, ...], classes: int = 3) -> Any:
    """Return what `add_labels` needs of a job, without torch."""
    shape = tuple(part.stop - part.start for part in region)
    spec = ModelSpec(config=UNetConfig(out_channels=classes), name="nuclei-2d")
    return SimpleNamespace(
        source=source,
        region=region,
        labels_shape=shape,
        model=SimpleNamespace(spec=spec),
        record=lambda: FakeRecord("planned"),
    )
