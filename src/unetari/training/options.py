"""`TrainingOptions`: everything that decides what a training run does."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from unetari.core.config import FrozenModel, UNetConfig
from unetari.core.network import reach_of
from unetari.core.normalization import Normalization
from unetari.core.sizes import SizeRule
from unetari.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Augmentation(FrozenModel):
    """How training patches are varied, so that the network meets more than it was given."""

    flip: bool = True
    """Mirror along random axes."""
    turn: bool = True
    """Rotate by a random multiple of 90 degrees in the plane."""
    affine: Probability = 0.4
    """Fraction of the patches that are rotated and zoomed freely; these cost the most time."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 180.0
    """Largest angle of these rotations in the plane, in degrees."""
    zoom: Annotated[float, Field(ge=1, le=8)] = 2.0
    """Largest zoom factor; factors are drawn log-uniformly from 1/zoom to zoom."""
    stretch: Annotated[float, Field(ge=1, le=4)] = 1.2
    """Largest additional factor per axis, which makes objects longer or flatter."""
    intensity: Probability = 0.4
    """Fraction of the patches for each of: brightness, offset, gamma."""
    blur: Probability = 0.2
    """Fraction of the patches that are blurred."""
    haze: Probability = 0.0
    """Fraction of the patches that get light from out of focus: a wide blur of the image is added
    to it, as in thick or crowded samples."""
    noise: Probability = 0.3
    """Fraction of the patches that get Gaussian noise."""
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How strong changes of brightness, offset and gamma, blur and noise are at most."""


class TrainingOptions(FrozenModel):
    """All settings of a training run; the data are named apart from them.

    Raises
    ------
    ConfigError
        If an option is unknown, out of range, or impossible together with
        another one.

    Examples
    --------
    >>> TrainingOptions(network=UNetConfig(dim=3, n_blocks=3)).patch
    (32, 64, 64)
    """

    network: UNetConfig = UNetConfig()
    """Options of the network."""
    normalization: Normalization = Normalization()
    """Intensity normalization, stored in the model."""
    augmentation: Augmentation = Augmentation()
    """Random changes to the training patches."""
    target: Literal["foreground", "classes"] = "foreground"
    """foreground: every label above 0 counts as 1, so instance labels work;
    classes: labels are taken as they are, from 0 to the number of classes - 1."""
    axes: str | None = None
    """One letter per axis of the images, such as "ZYX", where the files do not say it."""
    channel: Annotated[int, Field(ge=0)] | None = None
    """Train on this channel only."""
    grey: bool = False
    """Turn RGB images into one channel."""
    patch_size: tuple[Positive, ...] | None = None
    """Patch size, ([z,] y, x); None: 192 x 192 in 2D, 32 x 64 x 64 in 3D, or the next
    larger size that fits the network."""
    batch_size: Positive = 8
    """Patches per step."""
    steps: Positive = 3000
    """Number of optimizer steps."""
    validate_every: Positive = 250
    """Steps between two validations; the state for resuming is saved at each of them."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    """Largest learning rate: reached after a short linear rise, then lowered as a cosine to 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Weight decay of the AdamW optimizer."""
    dice_classes: Literal["objects", "all"] = "objects"
    """Classes whose Dice is in the loss: those above 0, or background, too."""
    cross_entropy_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the cross-entropy beside Dice."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay, per step, of an exponential moving average of the weights (Polyak averaging). It is
    the average that is validated and saved, which evens out the noise of single steps; 0.98
    averages over about the last 50 steps. 0: none."""
    freeze_statistics: Probability = 0.6
    """Share of the steps after which batch norm keeps its running statistics, as it does in
    prediction; until then it takes those of each batch. 1: never."""
    foreground: Probability = 0.5
    """Fraction of the patches that are drawn around a foreground voxel, anywhere in the patch."""
    sampling: Literal["image", "size", "foreground"] = "image"
    """How images are chosen for patches: all equally often; in proportion to the square root of
    their number of voxels, for images of very different sizes; or in proportion to their number
    of foreground voxels, for images of very different numbers of objects."""
    validation: Annotated[float, Field(gt=0, lt=1)] | tuple[str, ...] = 0.15
    """Fraction of the images to validate on, or their names (file names without suffix;
    `*` and `?` are wildcards). In a file: a fraction, or the name of a text file with one
    name per line. Name them if several images show the same field of view or sample."""
    exclude: tuple[str, ...] = ()
    """Names of images to leave out of everything, such as wrongly annotated ones, given as
    for `validation`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the initial weights, the patches and their augmentation."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps, ..."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the convolutions while training; bfloat16 is about twice as fast on
    processors that support it. The weights are float32 either way."""
    threads: Positive | None = None
    """Number of processor threads; None: what torch chooses."""
    name: str = ""
    """Short name of the model."""
    description: str = ""
    """What the model segments, and in which images."""
    class_names: tuple[str, ...] = ()
    """One name per label, background first."""
    voxel_size: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Voxel size of the training images, ([z,] y, x) in micrometre; empty if it varies."""
    authors: tuple[str, ...] = ()
    """Who made the model."""
    license: str = ""
    """Licence of the model (an SPDX identifier)."""
    data_credit: str = ""
    """The training data, its licence, and the citation it asks for."""

    @model_validator(mode="after")
    def _check_combinations(self) -> TrainingOptions:
        if len(self.patch) != self.network.dim:
            raise ValueError(
                f"patch_size={self.patch_size} has {len(self.patch)} numbers for a "
                f"{self.network.dim}D network. Give one per spatial axis."
            )
        for size, rule in zip(self.patch, self._rules, strict=True):
            if not rule.allows(size):
                raise ValueError(
                    f"patch_size={self.patch}: a network with n_blocks={self.network.n_blocks} and "
                    f"conv_mode={self.network.conv_mode!r} takes {rule.smallest} and every "
                    f"{rule.multiple} more, not {size}. The next size is {rule.above(size)}."
                )
        if self.target == "foreground" and self.network.n_classes != 2:
            raise ValueError(
                f"target='foreground' has 2 classes, and the network has "
                f"{self.network.n_classes}. Set target='classes', or out_channels=2."
            )
        return self

    @property
    def patch(self) -> tuple[int, ...]:
        """Patch size, ([z,] y, x), with the default filled in."""
        usual = (192, 192) if self.network.dim == 2 else (32, 64, 64)
        fitting = (rule.above(size) for rule, size in zip(self._rules, usual, strict=True))
        return self.patch_size or tuple(fitting)

    @property
    def _rules(self) -> list[SizeRule]:
        return [reach.rule for reach in reach_of(self.network)]


def load_options(path: str | Path) -> TrainingOptions:
    """Read training options from a TOML file.

    Parameters
    ----------
    path : str or Path
        A TOML file with the fields of `TrainingOptions`, and the tables
        `[network]`, `[normalization]` and `[augmentation]`. A file named by
        `validation` or `exclude` is looked for beside it.

    Raises
    ------
    ConfigError
        If the file is missing, is no TOML, or has an option that cannot work.
    """
    path = Path(path)
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Give the path of a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid TOML file: {error}.") from error
    for option in ("validation", "exclude"):
        if isinstance(table.get(option), str):
            table[option] = _read_names(path.parent / table[option])
    return TrainingOptions(**table)


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}. `validation` and `exclude` can name a text file beside "
            "the options, with one image name per line."
        ) from error
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
