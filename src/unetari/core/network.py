"""What the engine needs to know of any network: what it takes, gives, and depends on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unetari.core.config import Dim, FrozenModel, UNetConfig
from unetari.core.sizes import Reach

FEATURES_UNKNOWN = 512
"""Values per input voxel assumed to be alive at the peak where a network's memory is not known:
about what a U-Net with 57 filters in its first block holds."""


NormStatistics = Literal["tile", "sampled", "whole", "blended"]
"""What instance and group normalization take their statistics from: each tile, samples of the
image, all of the image, or each of small tiles that overlap and are blended."""


class ForeignConfig(FrozenModel):
    """A network that is no `UNet`: its sizes and reach, declared by its file or measured."""

    architecture: str
    """What it is, for people, such as "UNet3D of pytorch-3dunet" or "TorchScript"."""
    dim: Dim
    """Number of spatial dimensions."""
    in_channels: Annotated[int, Field(ge=1, le=4096)]
    """Number of channels of the input image."""
    out_channels: Annotated[int, Field(ge=1, le=65535)]
    """Number of channels of the output."""
    reach: tuple[Reach, ...]
    """Sizes and surroundings per axis, ([z,] y, x)."""
    classes: Literal["exclusive", "independent"]
    """exclusive: one channel per class, background first, and the highest wins; independent:
    one channel per kind of foreground, and background where none exceeds one half."""
    output: Literal["logits", "probabilities"]
    """Whether softmax (sigmoid of independent classes) is still to be applied."""
    tiles_exactly: bool = True
    """Whether tiled and whole-image results agree to rounding."""
    origin: Literal["declared", "measured"] = "measured"
    """Whether `reach` was stated by the file or found by probing."""
    parameters: Annotated[int, Field(ge=0)] | None = None
    """Number of parameters; None where the file does not tell."""
    features: Annotated[int, Field(ge=1)] = FEATURES_UNKNOWN
    """Float32 values per input voxel that are alive at the peak of a pass, for planning memory."""

    @model_validator(mode="after")
    def _check_axes(self) -> ForeignConfig:
        if len(self.reach) != self.dim:
            raise ValueError(
                f"reach has {len(self.reach)} axes, and the network is {self.dim}D. "
                "Give one per spatial axis."
            )
        return self

    @property
    def n_classes(self) -> int:
        """Number of different labels, background included."""
        return self.out_channels + (self.classes == "independent")


NetworkConfig = UNetConfig | ForeignConfig
"""The options of our own network, or what is known of another one."""


def reach_of(config: NetworkConfig, rim: int = 0) -> tuple[Reach, ...]:
    """Return sizes and surroundings per axis, ([z,] y, x).

    `rim` voxels around what a tile writes come out right, too.
    """
    if isinstance(config, ForeignConfig):
        return tuple(reach.with_rim(rim) for reach in config.reach)
    return tuple(Reach.of(config, axis, rim) for axis in range(-config.dim, 0))


def decides(config: NetworkConfig) -> tuple[Literal["exclusive", "independent"], bool]:
    """Return how labels follow from a network's output, and whether it is logits."""
    if isinstance(config, ForeignConfig):
        return config.classes, config.output == "logits"
    return ("exclusive" if config.out_channels > 1 else "independent"), True
