"""What a training run needs to go on after a stop, and the file that holds it."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch.optim.swa_utils import AveragedModel

from unetari.core.files import whole_file
from unetari.errors import ConfigError, ModelFileError
from unetari.model.unet import UNet
from unetari.training.options import TrainingOptions

FREE_TO_CHANGE = frozenset(
    {
        "device",
        "threads",
        "name",
        "description",
        "class_names",
        "voxel_size",
        "authors",
        "license",
        "data_credit",
    }
)
"""Options that may differ when a run is resumed: they do not change what is learned."""

_KEYS = {"options", "network", "optimizer", "average", "step", "best", "history", "losses"}


@dataclass
class TrainingState:
    """The part of a run that changes from step to step.

    Patches and learning rate follow from the seed and the step alone, so no
    random state needs to be kept.
    """

    network: UNet
    optimizer: torch.optim.Optimizer
    average: AveragedModel
    """Moving average of the network's weights and statistics."""
    step: int = 0
    """Steps done."""
    best: float | None = None
    """Highest validation score so far."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry per validation: step, loss, score."""
    losses: list[float] = field(default_factory=list)
    """Loss of each step since the last validation."""

    @property
    def averaged(self) -> UNet:
        """The network with the averaged weights: the one that is scored and saved."""
        return cast("UNet", self.average.module)

    def save(self, path: Path, options: TrainingOptions) -> None:
        """Write the state; the file appears complete or not at all."""
        content = {
            "options": options.model_dump_json(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "step": self.step,
            "best": self.best,
            "history": self.history,
            "losses": self.losses,
        }
        with whole_file(path) as temporary:
            torch.save(content, temporary)

    def restore(self, path: Path, options: TrainingOptions) -> None:
        """Take over the state in a file.

        Raises
        ------
        ModelFileError
            If there is no such file, or it is damaged.
        ConfigError
            If it belongs to a run with other options.
        """
        content = _load(path)
        _check_same(TrainingOptions(**json.loads(content["options"])), options, path)
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.average.load_state_dict(content["average"])
        self.step, self.best = content["step"], content["best"]
        self.history, self.losses = content["history"], content.get("losses", [])


def resume_file(out: Path) -> Path:
    """Return where the state of the run that makes the model `out` is kept."""
    return out.with_name(f"{out.stem}.resume.pt")


def _load(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ModelFileError(
            f"{path} does not exist, so there is nothing to resume. The file is written at each "
            "validation and removed when training is complete. Start without resume."
        )
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose text advises to switch its protection off
        raise ModelFileError(
            f"{path} cannot be read: it is damaged, or would run code. Delete it and start without "
            "resume."
        ) from error
    # Damaged files fail in the unpickler, the zip reader or torch, each with its own errors.
    except Exception as error:
        raise ModelFileError(
            f"{path} cannot be read ({error}). Delete it and start without resume."
        ) from error
    if not isinstance(content, dict) or content.keys() | {"losses"} != _KEYS:
        raise ModelFileError(
            f"{path} is no resume file of unetari. Delete it and start without resume."
        )
    return content


def _check_same(old: TrainingOptions, new: TrainingOptions, path: Path) -> None:
    different = [
        f"{name} was {getattr(old, name)!r} and is {value!r}"
        for name, value in new
        if name not in FREE_TO_CHANGE and getattr(old, name) != value
    ]
    if different:
        raise ConfigError(
            f"{path} belongs to a run with other options: {'; '.join(different)}. Restore them, "
            "or start without resume."
        )
