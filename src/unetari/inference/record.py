"""`RunRecord`: what a run did, enough to repeat it and to write the methods section."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

from pydantic import Field, model_validator

from unetari.core.config import FrozenModel
from unetari.core.network import NormStatistics
from unetari.core.spec import ModelSpec
from unetari.inference.precision import PrecisionCheck
from unetari.inference.runner import Precision


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("unetari", "torch", "numpy")}
    return {**packages, "python": platform.python_version()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Seams(FrozenModel):
    """How much labels beside tile borders change if a tile is centred on the border."""

    borders: int
    """Number of borders that were measured."""
    largest_difference: float
    """Largest difference in probability, 0 to 1."""
    mean_difference: float
    """Mean difference in probability, 0 to 1."""
    changed_labels: float
    """Fraction of the voxels beside the borders that get another label."""

    def __str__(self) -> str:
        return (
            f"At {self.borders} sampled tile borders, shifting the tile changes the probability "
            f"by up to {self.largest_difference:.2g} ({self.mean_difference:.2g} on average) and "
            f"{self.changed_labels:.2%} of the labels."
        )


class RunRecord(FrozenModel):
    """A run's model, image, tiles, device and versions."""

    model: ModelSpec
    """Network options, normalization, class names and card of the model."""
    model_source: str
    """Where the model came from: a bundled or kept name, or a file."""
    model_sha256: str
    """SHA-256 of the model file, or of the weights of a model in memory."""
    image_shape: tuple[int, ...]
    """Shape of the image, one entry per letter of `image_axes`."""
    image_axes: str
    """Meaning of the image's axes: T, C, Z, Y, X, and S for RGB samples."""
    image_dtype: str
    """Data type of the image."""
    voxel_size: dict[str, float] = Field(default_factory=dict)
    """Size of the voxels of an image file per spatial axis, such as {"Y": 0.325, "X": 0.325}."""
    unit: str = ""
    """Unit of `voxel_size`."""
    channel: int | None
    """The channel that was used; None for all."""
    grey: bool
    """Whether RGB was converted to grey."""
    region: tuple[tuple[int, int], ...]
    """Start and stop of what was predicted, one pair per axis of the labels."""
    scale: tuple[float, ...] | None = None
    """Factors by which the image was resampled for the network, ([Z,] Y, X); None for none.
    The tiles are those of the resampled image."""
    tile_shape: tuple[int, ...]
    """Outer size of the tiles in voxels, ([Z,] Y, X)."""
    strip: int | None = None
    """Rows of a tile, or planes in 3D, that the network got at once; None in older records."""
    batch: int = 1
    """Planes or volumes that passed through the network together."""
    halo: tuple[int, ...]
    """Voxels per side that a tile reads and does not write."""
    n_tiles: int
    """Number of tiles, over all frames."""
    norm_statistics: NormStatistics = "tile"
    """Where instance and group normalization took their statistics from."""
    exact: bool | None = None
    """Whether the result is that of one pass over the whole image, to rounding, whatever the tiles;
    None in older records."""
    peak_bytes: int = 0
    """Predicted peak memory of the run on the device, in bytes; weights come on top."""
    device: str
    """The device, such as "cpu" or "cuda:0"."""
    precision: Precision = "float32"
    """Floating-point format of the network."""
    precision_checks: tuple[PrecisionCheck, ...] = ()
    """How the formats that were tried compare with float32 on a sample."""
    versions: dict[str, str] = Field(default_factory=_versions)
    """Versions of unetari, torch, numpy and Python."""
    started: str = Field(default_factory=_now)
    """When the run started (UTC, ISO 8601)."""
    warnings: tuple[str, ...] = ()
    """What the user was told before the run."""
    status: Literal["planned", "finished", "cancelled"] = "planned"
    """Whether all tiles are done."""
    tiles_done: int = 0
    """Number of finished tiles."""
    progress: float = Field(0.0, ge=0, le=1)
    """Share of the voxels that were labelled."""
    seconds: float = 0.0
    """Duration of the run."""
    seams: Seams | None = None
    """Measured disagreement at tile borders; None where the result is exact."""
    remarks: tuple[str, ...] = ()
    """What came up while it ran, such as a faster way that could not be used."""

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, given: Any) -> Any:
        """Take a record of when there were two choices, and `frozen_norm` was one of them."""
        if not isinstance(given, dict) or "frozen_norm" not in given:
            return given
        rest = {name: value for name, value in given.items() if name != "frozen_norm"}
        return {"norm_statistics": "sampled" if given["frozen_norm"] else "tile", **rest}

    @property
    def findings(self) -> tuple[str, ...]:
        """What the user should know after the run, a sentence each."""
        checks = tuple(str(check) for check in self.precision_checks)
        seams = () if self.seams is None else (str(self.seams),)
        return (*self.remarks, *checks, *seams)
