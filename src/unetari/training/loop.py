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
from monai.losses import DiceCELoss
from torch import Tensor

from unetari.core.spec import ModelSpec
from unetari.errors import OutputExistsError
from unetari.model.checkpoint import Model, save_model
from unetari.model.unet import UNet, autocrop
from unetari.training.augment import draw_patch, intensity_changes
from unetari.training.data import Pair, Sample, load_sample, split_pairs
from unetari.training.options import TrainingOptions
from unetari.training.scores import Overlap, overlap
from unetari.training.state import TrainingState, resume_file


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training run stands after a step."""

    step: int
    """Steps done."""
    total: int
    """Steps to do in all."""
    loss: float
    """Mean training loss since the last validation (cross-entropy plus Dice)."""
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
    written at each validation and when the run is stopped, and removed at the
    end. Equal options, data and number of threads give equal models, stopped
    and resumed or not.

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
        Asked after each step; once true, the state is saved and the run ends.

    Yields
    ------
    TrainingProgress
        After each step.

    Raises
    ------
    OutputExistsError
        If `out`, or a resume file from an earlier run, exists.
    ConfigError, ImageFileError, ShapeError
        If the data do not fit together or to the options.
    """
    out = _target(Path(out), resume=resume, overwrite=overwrite)
    training, validation = split_pairs(pairs, options)
    state = _start(options)
    if resume:
        state.restore(resume_file(out), options)
    run = _Run(
        options=options,
        out=out,
        state=state,
        training=[load_sample(pair, options) for pair in training],
        validation=[load_sample(pair, options) for pair in validation],
    )
    with _threads(options.threads):
        yield from run.steps(should_stop)


def _target(out: Path, *, resume: bool, overwrite: bool) -> Path:
    out = out if out.suffix else out.with_suffix(".safetensors")
    for path in (out, resume_file(out)):
        if path.exists() and not resume and not overwrite:
            raise OutputExistsError(
                f"{path} exists. Resume that run, choose another name, or allow overwriting."
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _start(options: TrainingOptions) -> TrainingState:
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = UNet(options.network)
    device = torch.device("cpu" if options.device == "auto" else options.device)
    layout = torch.channels_last if options.network.dim == 2 else torch.channels_last_3d
    network = network.to(device, memory_format=layout)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    return TrainingState(network, optimizer)


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
    options: TrainingOptions
    out: Path
    state: TrainingState
    training: list[Sample]
    validation: list[Sample]

    def __post_init__(self) -> None:
        self.intensity = intensity_changes(self.options.augmentation)
        self.device = next(self.state.network.parameters()).device
        several = self.options.network.out_channels > 1
        self.loss = DiceCELoss(
            to_onehot_y=several, softmax=several, sigmoid=not several, batch=True
        )

    def steps(self, should_stop: Callable[[], bool]) -> Iterator[TrainingProgress]:
        """Do the remaining steps, and leave a resume file whenever the run ends early."""
        options, state = self.options, self.state
        losses: list[float] = []
        finished = False
        started, seconds_before, first = time.monotonic(), state.seconds, state.step
        try:
            while state.step < options.steps and not (state.step > first and should_stop()):
                losses.append(self.step())
                state.step += 1
                validates = (
                    state.step % options.validate_every == 0 or state.step == options.steps
                )
                loss = float(np.mean(losses))
                score = self.validate(loss) if validates else None
                if validates:
                    losses.clear()
                spent = time.monotonic() - started
                state.seconds = seconds_before + spent
                if validates:
                    state.save(resume_file(self.out), options)
                left = spent / (state.step - first) * (options.steps - state.step)
                yield TrainingProgress(
                    state.step, options.steps, loss, score, state.best, left, self.out
                )
            finished = state.step == options.steps
        finally:
            if finished:
                resume_file(self.out).unlink(missing_ok=True)
            elif state.step > first and state.step % options.validate_every:
                state.save(resume_file(self.out), options)

    def step(self) -> float:
        """Do one optimizer step and return its loss."""
        options, state = self.options, self.state
        state.network.train()
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(state.step, options)
        images, labels = self.batch(state.step)
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, options.precision == "bfloat16"):
            logits = state.network(images)
        loss: Tensor = self.loss(logits.float(), autocrop(labels, logits))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
        state.optimizer.step()
        return float(loss.detach())

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Draw the patches of a step; they depend on the seed and the step alone."""
        rng = np.random.default_rng((self.options.seed, step))
        chosen = rng.integers(len(self.training), size=self.options.batch_size)
        patches = [
            draw_patch(self.training[index], self.options, rng, self.intensity)
            for index in chosen
        ]
        images, labels = (torch.stack(arrays).to(self.device) for arrays in zip(*patches))
        dim = self.options.network.dim
        layout = torch.channels_last if dim == 2 else torch.channels_last_3d
        return images.contiguous(memory_format=layout), labels

    def validate(self, loss: float) -> float:
        """Score the network on the held-out images, and keep it if it is the best so far."""
        options, state = self.options, self.state
        counts = [
            overlap(segment(state.network, s.image), s.labels, options.network.n_classes)
            for s in self.validation
        ]
        score = sum(counts[1:], start=counts[0]).iou
        state.history.append({"step": state.step, "loss": loss, "score": score})
        if state.best is None or score > state.best:
            state.best = score
            save_model(self.model(), self.out, overwrite=True)
        return score

    def model(self) -> Model:
        """Return the network as it is now, with its model card."""
        options = self.options
        spec = ModelSpec(
            config=options.network,
            normalization=options.normalization,
            class_names=options.class_names,
            name=options.name,
            description=options.description,
            voxel_size=options.voxel_size,
            authors=options.authors,
            license=options.license,
            data_credit=options.data_credit,
            training=self.record(),
        )
        return Model(self.state.network, spec, "built in memory", "")

    def record(self) -> dict[str, Any]:
        """Describe the run for the model file."""
        return {
            "score": "pooled foreground IoU on the held-out images",
            "validation_iou": self.state.best,
            "step": self.state.step,
            "history": list(self.state.history),
            "training_images": len(self.training),
            "validation_images": [sample.name for sample in self.validation],
            "options": self.options.model_dump(mode="json", exclude={"validation"}),
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in ("torch", "monai", "numpy")},
            },
        }


def learning_rate(step: int, options: TrainingOptions) -> float:
    """Return the learning rate of a step: a linear rise over 5 % of the steps, then a cosine."""
    warm_up = max(1, options.steps // 20)
    if step < warm_up:
        return options.learning_rate * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, options.steps - warm_up)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def segment(network: UNet, image: np.ndarray) -> np.ndarray:
    """Classify a normalized image (C, [Z,] Y, X) in one pass."""
    network.eval()
    multiple = network.config.multiple
    tensor = torch.from_numpy(
        np.pad(image, [(0, 0), *((0, -s % multiple) for s in image.shape[1:])], mode="symmetric")
    )
    with torch.inference_mode():
        device = next(network.parameters()).device
        logits = network(tensor[None].to(device))[0]
    index = tuple(slice(0, s) for s in image.shape[1:])
    return logits.argmax(0).cpu().numpy()[index]
