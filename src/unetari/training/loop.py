"""`train()`: a plain generator from image/label pairs to a model file."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from unetari.core.normalization import Normalization
from unetari.core.source import ImageSource
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError, MissingExtraError, OutputExistsError
from unetari.inference.predict import predict
from unetari.model.checkpoint import Model, model_path, save_model
from unetari.model.device import resolve_device
from unetari.model.summary import check_weights_fit
from unetari.model.unet import UNet, autocrop
from unetari.training.augment import draw_patch, intensity_changes
from unetari.training.data import Pair, TrainingSample, load_samples, split_pairs
from unetari.training.options import TrainingOptions
from unetari.training.scores import overlap
from unetari.training.state import TrainingState, resume_file

try:
    from monai.losses.dice import DiceCELoss
except ImportError as error:
    raise MissingExtraError("monai", "train", "Training") from error

_LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}
"""Memory layouts in which convolutions are fastest, by number of dimensions."""


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training run stands after a step."""

    step: int
    """Steps done."""
    total: int
    """Steps to do in all."""
    loss: float
    """Mean training loss (cross-entropy plus Dice) since the last validation, or since the run
    was started if that is later."""
    score: float | None
    """Validation score, on the steps that end with a validation."""
    best: float | None
    """Highest validation score so far: that of the model in `path`."""
    seconds_left: float
    """Expected time to the end."""
    path: Path
    """The model file; it exists once there is a score."""

    @property
    def is_complete(self) -> bool:
        """Whether all steps are done."""
        return self.step == self.total


def train(
    options: TrainingOptions,
    pairs: Sequence[Pair],
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[TrainingProgress]:
    """Train a network on image/label pairs.

    The network that scores best on the held-out images is in `out` at any
    time. Beside it, `<name>.resume.pt` holds what is needed to go on; it is
    written at each validation and when the run is stopped or its generator
    closed, and removed at the end. Equal options, data and number of threads
    give equal models on a processor, stopped and resumed or not.

    Parameters
    ----------
    options : TrainingOptions
        All settings.
    pairs : sequence of Pair
        From `find_pairs`.
    out : str or Path
        The model file, .safetensors.
    resume : bool
        Go on from the resume file of `out`.
    overwrite : bool
        Replace an existing model file. Resuming needs no permission.
    should_stop : callable
        Asked before each step; once true, the state is saved and the run ends.

    Yields
    ------
    TrainingProgress
        After each step.

    Raises
    ------
    OutputExistsError
        If `out`, or a resume file from an earlier run, exists. This and
        what is wrong with names and options is raised at once, before the
        first step is asked for.
    ConfigError, ImageFileError, ShapeError, AxesError
        If the data do not fit together, or not to the options.
    ModelFileError
        If there is nothing to resume, or the model cannot be written as `out`.
    DeviceError
        If the device does not exist.
    """
    target = _target(Path(out), resume=resume, overwrite=overwrite)
    split = split_pairs(pairs, options)
    state = _start(options)
    if resume:
        state.restore(resume_file(target), options)
        state.best = state.best if target.exists() else None
    return _train(options, target, state, split, should_stop)


def _train(
    options: TrainingOptions,
    out: Path,
    state: TrainingState,
    split: tuple[Sequence[Pair], Sequence[Pair]],
    should_stop: Callable[[], bool],
) -> Iterator[TrainingProgress]:
    training, validation = (
        [sample for pair in pairs for sample in load_samples(pair, options)] for pairs in split
    )
    run = _Run(options, out, state, training, validation)
    with _threads(options.threads):
        try:
            yield from run.steps(should_stop)
        except GeneratorExit:
            run.leave()
            raise
        # After any other exception the state may be half a step ahead, or hold NaN.
        run.leave()


def _target(out: Path, *, resume: bool, overwrite: bool) -> Path:
    out = model_path(out)
    for path in (out, resume_file(out)):
        if path.exists() and not resume and not overwrite:
            raise OutputExistsError(
                f"{path} exists. Resume that run, choose another name, or allow overwriting."
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _start(options: TrainingOptions) -> TrainingState:
    # The weights, their gradients, two moments of each, and the average.
    check_weights_fit(options.network, copies=5)
    device = resolve_device(options.device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        network = UNet(options.network)
    network = nn.Module.to(network, device)
    for parameter in network.parameters():
        if parameter.ndim == options.network.dim + 2:
            parameter.data = parameter.data.contiguous(memory_format=_LAYOUT[options.network.dim])
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    average = AveragedModel(network, avg_fn=_blend(options.average), use_buffers=True)
    return TrainingState(network, optimizer, average)


def _blend(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return the step of a moving average, which forgets faster while it is young."""

    def blend(average: Tensor, latest: Tensor, count: Tensor | int) -> Tensor:
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        return average + (1 - kept) * (latest - average) if kept else latest

    return blend


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Use a number of threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Run:
    """The steps of one run, over samples in memory."""

    options: TrainingOptions
    out: Path
    state: TrainingState
    training: list[TrainingSample]
    validation: list[TrainingSample]

    def __post_init__(self) -> None:
        several = self.options.network.out_channels > 1
        self.loss = DiceCELoss(
            include_background=not several or self.options.dice_classes == "all",
            lambda_ce=self.options.cross_entropy_weight,
            to_onehot_y=several,
            softmax=several,
            sigmoid=not several,
            batch=True,
        )
        self.intensity = intensity_changes(self.options.augmentation)
        self.device = next(self.state.network.parameters()).device
        self.saved = self.state.step

    def steps(self, should_stop: Callable[[], bool]) -> Iterator[TrainingProgress]:
        """Do the remaining steps."""
        state, total = self.state, self.options.steps
        first, started = state.step, time.monotonic()
        while state.step < total and not should_stop():
            state.losses.append(self.step())
            state.step += 1
            loss, score = float(np.mean(state.losses)), None
            if state.step % self.options.validate_every == 0 or state.step == total:
                score = self.validate(loss)
                self.save()
            left = (time.monotonic() - started) / (state.step - first) * (total - state.step)
            yield TrainingProgress(state.step, total, loss, score, state.best, left, self.out)

    def save(self) -> None:
        """Write the resume file."""
        self.state.save(resume_file(self.out), self.options)
        self.saved = self.state.step

    def leave(self) -> None:
        """Remove the resume file after the last step, or bring it up to date before."""
        if self.state.step == self.options.steps:
            resume_file(self.out).unlink(missing_ok=True)
        elif self.state.step > self.saved:
            self.save()

    def step(self) -> float:
        """Do one optimizer step and return its loss."""
        options, state = self.options, self.state
        self.set_mode()
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(state.step, options)
        images, labels = self.batch(state.step)
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, options.precision == "bfloat16"):
            logits = state.network(images)
        loss: Tensor = self.loss(logits.float(), autocrop(labels, logits))
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
        if not torch.isfinite(loss + norm):
            raise ConfigError(
                f"The loss is {loss.item()} and its gradient {norm.item()} in step "
                f"{state.step + 1}: training fell apart with "
                f"learning_rate={options.learning_rate}. Start a new run with a lower one, or "
                "with precision='float32'."
            )
        state.optimizer.step()
        state.average.update_parameters(state.network)
        return float(loss.detach())

    def set_mode(self) -> None:
        """Put the network into training mode, batch norm into that of prediction near the end."""
        network = self.state.network.train()
        if self.state.step >= self.options.freeze_statistics * self.options.steps:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                    module.eval()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Draw the patches of a step; they depend on the seed and the step alone."""
        options = self.options
        rng = np.random.default_rng((options.seed, step))
        chosen = choose_images(self.training, options, rng)
        patches = [
            draw_patch(self.training[index], options, rng, self.intensity) for index in chosen
        ]
        images = torch.stack([image for image, _ in patches]).to(self.device)
        labels = torch.stack([labels for _, labels in patches]).to(self.device)
        return images.contiguous(memory_format=_LAYOUT[options.network.dim]), labels

    def validate(self, loss: float) -> float:
        """Score the network on the held-out images, and keep it if it is the best so far."""
        state = self.state
        score = score_network(state.averaged, self.validation, str(self.device))
        state.history.append({"step": state.step, "loss": loss, "score": score})
        state.losses.clear()
        if state.best is None or score > state.best:
            state.best = score
            save_model(self.model(), self.out, overwrite=True)
        return score

    def model(self) -> Model:
        """Return the network as it is now, with its model card."""
        card = {name: getattr(self.options, name) for name in CARD}
        spec = ModelSpec(config=self.options.network, training=self.record(), **card)
        return Model(self.state.averaged, spec, "built in memory", "")

    def record(self) -> dict[str, Any]:
        """Describe the run for the model file."""
        packages = ("unetari", "torch", "monai", "numpy")
        versions = {name: importlib.metadata.version(name) for name in packages}
        done = self.options.model_dump(mode="json", exclude={"validation", *CARD})
        return {
            "validation_iou": self.state.best,
            "step": self.state.step,
            "history": [dict(entry) for entry in self.state.history],
            "training_images": len(self.training),
            "validation_images": [sample.name for sample in self.validation],
            "options": done,
            "versions": {"python": platform.python_version(), **versions},
        }


CARD = (
    "normalization",
    "class_names",
    "name",
    "description",
    "voxel_size",
    "authors",
    "license",
    "data_credit",
)
"""Options that go into the model file as they are."""


def choose_images(
    samples: Sequence[TrainingSample], options: TrainingOptions, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw the images of a batch, as `TrainingOptions.sampling` says."""
    if options.sampling == "image":
        return rng.integers(len(samples), size=options.batch_size)
    if options.sampling == "size":
        weights = np.sqrt([sample.labels.size for sample in samples])
    else:
        weights = np.array([sample.foreground_size for sample in samples], float)
    return rng.choice(len(samples), size=options.batch_size, p=weights / weights.sum())


def score_network(network: UNet, samples: Sequence[TrainingSample], device: str) -> float:
    """Return the pooled IoU of the classes above 0 on whole images, see `Overlap`."""
    axes = "CYX" if network.config.dim == 2 else "CZYX"
    spec = ModelSpec(config=network.config, normalization=Normalization(method="none"))
    model = Model(network, spec, "in training", "")
    counts = [
        overlap(
            predict(ImageSource(sample.image, axes), model, device=device).labels,
            sample.labels,
            network.config.n_classes,
        )
        for sample in samples
    ]
    return sum(counts[1:], start=counts[0]).iou


def learning_rate(step: int, options: TrainingOptions) -> float:
    """Return the learning rate of a step: a linear rise over 5 % of the steps, then a cosine."""
    warm_up = max(1, options.steps // 20)
    if step < warm_up:
        return options.learning_rate * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, options.steps - warm_up)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
