"""`ModelSpec`: what a model file says beside its weights."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from unetari.core.config import FrozenModel, UNetConfig
from unetari.core.network import NetworkConfig
from unetari.core.normalization import Normalization
from unetari.errors import printable

Text = Annotated[str, AfterValidator(printable)]
"""What people read; a file cannot change the terminal by it."""


class ModelSpec(FrozenModel):
    """The network's options, its preprocessing, and its model card."""

    config: NetworkConfig = UNetConfig()
    """Options of the network; of a network that is no `UNet`, what is known of it."""
    normalization: Normalization = Normalization()
    """Intensity normalization applied before the network."""
    class_names: tuple[Text, ...] = ()
    """One name per label, background first; empty for "class 1", "class 2", ..."""
    name: Text = ""
    """Short name, such as "nuclei-2d"."""
    description: Text = ""
    """What the model segments, and in which images."""
    voxel_size: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()
    """Voxel size of the training images, ([z,] y, x) in micrometre; empty if unknown."""
    authors: tuple[Text, ...] = ()
    """Who made the model."""
    license: Text = ""
    """Licence of the model file (an SPDX identifier)."""
    citations: tuple[Text, ...] = ()
    """What to cite when the model is used, an entry each."""
    tags: tuple[Text, ...] = ()
    """Words to find the model by, such as "nuclei" or "fluorescence"."""
    data_credit: Text = ""
    """The training data, its licence, and the citation it asks for."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Record of the training run: options, scores, versions."""

    @model_validator(mode="after")
    def _check_lengths(self) -> ModelSpec:
        expected = self.config.n_classes
        if self.class_names and len(self.class_names) != expected:
            raise ValueError(
                f"class_names has {len(self.class_names)} names, but the network has "
                f"{expected} labels, background included. Give {expected} names or none."
            )
        if self.voxel_size and len(self.voxel_size) != self.config.dim:
            raise ValueError(
                f"voxel_size={self.voxel_size} has {len(self.voxel_size)} numbers for a "
                f"{self.config.dim}D network. Give one per spatial axis, or none."
            )
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """One name per label, background first, with defaults where none are given."""
        if self.class_names:
            return self.class_names
        return ("background", *(f"class {n}" for n in range(1, self.config.n_classes)))
