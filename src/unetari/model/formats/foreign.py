"""Networks that arrive as programs: described by what unetari wrote beside them, or measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from unetari.core.config import Dim
from unetari.core.network import ForeignConfig, NetworkConfig, decides, reach_of
from unetari.core.sizes import Reach
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError, ModelFileError, NetworkError
from unetari.model.formats.base import Loaded, note_on_intensities
from unetari.model.formats.metadata import check_told
from unetari.model.formats.wrappers import Wrapper
from unetari.model.measurements import measure_once
from unetari.model.notes import Assumed
from unetari.model.probe import Probe, probe_network
from unetari.model.strips import LOUD, Blackbox
from unetari.model.weights import LoadOptions

_OPTIONS = ("dim", "in_channels", "classes", "output")
_MOST_CHANNELS = 4096
_MOST_VALUES = 2**27  # of the one image that a declared network is tried on
_LARGEST_SIZE = 2**20


class ForeignNetwork(Wrapper):
    """A program of torch behind the face of a module.

    Programs refuse hooks and changes of mode, so nothing looks inside.

    Parameters
    ----------
    program : nn.Module
        Takes one batch of images and gives scores.
    """

    program: nn.Module

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.__dict__["program"] = program  # else it would be registered as a part
        for weight in program.parameters():  # copies of those with gradients cannot be moved
            weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the scores of a batch, (N, C, [Z,] Y, X)."""
        scores: Tensor = self.program(x)
        return scores

    def unwrapped(self) -> nn.Module:
        """Return the program."""
        return self.program

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.program._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


@dataclass(frozen=True)
class Told:
    """What a file tells of its network."""

    architecture: str
    """What it is, for people."""
    dim: int | None = None
    """Number of spatial dimensions."""
    in_channels: int | None = None
    """Number of channels of the image."""
    example_shape: tuple[int, ...] | None = None
    """A size that the network takes, ([z,] y, x)."""
    parameters: int | None = None
    """Number of parameters."""
    sha256: str = ""
    """Hash of the content, under which measurements are kept; empty to keep none."""


def describe(
    network: nn.Module, written: ModelSpec | None, told: Told, options: LoadOptions
) -> Loaded:
    """Describe a network that arrived as a program.

    Parameters
    ----------
    network : nn.Module
        Takes (N, C, [Z,] Y, X), in evaluation mode, on the CPU.
    written : ModelSpec, optional
        What unetari wrote beside it; without it, the network is measured.
    told : Told
        What the file tells.
    options : LoadOptions
        What the caller knows.

    Returns
    -------
    Loaded
        Its spec's config is a `ForeignConfig`.

    Raises
    ------
    ModelFileError
        If the network cannot be used, or does not do what is written.
    ConfigError
        If an option contradicts what is written, or means nothing here.
    """
    with as_file_errors():
        if written is not None:
            return _restore(network, written, told, options)
        return _measure(network, told, options)


@contextmanager
def as_file_errors() -> Iterator[None]:
    """Say of the file what is said of the network that was run.

    Raises
    ------
    ModelFileError
        For a NetworkError, and if memory runs short.
    """
    try:
        yield
    except NetworkError as error:
        raise ModelFileError(str(error)) from error
    except MemoryError as error:
        raise ModelFileError(
            f"The network needs more memory than there is, for a small image already ({error}). "
            "Close other programs, or use a larger machine."
        ) from error


# --- written by unetari -------------------------------------------------------------------------


def _restore(network: nn.Module, written: ModelSpec, told: Told, options: LoadOptions) -> Loaded:
    config = as_foreign(written.config, told)
    check_told(config.model_dump(), options)
    config = _try(network, config)
    return Loaded(network, written.replace(config=config, **options.spec))


def as_foreign(config: NetworkConfig, told: Told) -> ForeignConfig:
    """Return the options of a network in a form that holds for another copy of it.

    Raises
    ------
    ModelFileError
        If its sizes cannot be.
    """
    if isinstance(config, ForeignConfig):
        _check_reach(config.reach)
        return config.replace(parameters=told.parameters or config.parameters)
    classes, is_logits = decides(config)
    return ForeignConfig(
        architecture=f"U-Net of unetari, {told.architecture}",
        dim=config.dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        reach=reach_of(config),
        classes=classes,
        output="logits" if is_logits else "probabilities",
        tiles_exactly=config.tiles_exactly,
        origin="declared",
        parameters=told.parameters,
    )


def _check_reach(reaches: tuple[Reach, ...]) -> None:
    for reach in reaches:
        numbers = (reach.rule.smallest, reach.multiple, reach.loss, reach.halo, reach.trim)
        least = (1, 1, 0, 0, 0)
        small = all(low <= n <= _LARGEST_SIZE for low, n in zip(least, numbers, strict=True))
        if not small or (reach.largest is not None and reach.largest < reach.rule.smallest):
            raise ModelFileError(
                f"The sizes that are written in it cannot be: {reach}. Save the model again with "
                "unetari."
            )


def _try(network: nn.Module, config: ForeignConfig) -> ForeignConfig:
    """Run a declared network; return what is known of it, with a smallest size that it takes.

    Graphs of torch.export do not take the very smallest one.
    """
    enlarged = config.replace(reach=tuple(_enlarged(reach) for reach in config.reach))
    box = Blackbox(network, config.dim, config.in_channels)
    for candidate in (config, enlarged):
        found = _run(box, candidate)
        if found == _outputs(candidate):
            return candidate
    reason = f"gives {found}" if found else f"does not take it ({box.refusal})"
    raise ModelFileError(
        f"Its description says that a small image gives scores of {_outputs(enlarged)}, and the "
        f"network {reason}. Save the model again with unetari."
    )


def _enlarged(reach: Reach) -> Reach:
    if reach.largest is not None:
        return reach
    return replace(reach, rule=replace(reach.rule, smallest=reach.rule.smallest + reach.multiple))


def _outputs(config: ForeignConfig) -> tuple[int, ...]:
    sizes = (reach.rule.smallest - 2 * reach.loss for reach in config.reach)
    return (config.out_channels, *sizes)


def _run(box: Blackbox, config: ForeignConfig) -> tuple[int, ...] | None:
    shape = [reach.rule.smallest for reach in config.reach]
    if prod(shape) * config.in_channels > _MOST_VALUES:
        box.refusal = f"it would need {tuple(shape)} voxels"
        return None
    scores = box.scores(box.noise(shape))
    return None if scores is None else tuple(scores.shape)


# --- measured -----------------------------------------------------------------------------------


def _measure(network: nn.Module, told: Told, options: LoadOptions) -> Loaded:
    _check_options(told, options)
    dim, in_channels = _find_input(told, options)
    depends_on = {
        "sha256": told.sha256,
        "dim": dim,
        "in_channels": in_channels,
        "example_shape": told.example_shape,
    }
    found = measure_once(
        _Measured, depends_on, lambda: _probe(network, dim, in_channels, told.example_shape)
    )
    probe, kind = found.probe, found.output
    config = ForeignConfig(
        architecture=told.architecture,
        dim=dim,
        in_channels=in_channels,
        out_channels=probe.out_channels,
        reach=probe.reaches,
        classes=options.classes or kind.classes,
        output=options.output or kind.output,
        tiles_exactly=probe.exact,
        origin="measured",
        parameters=told.parameters,
    )
    spec = ModelSpec(config=config, **options.spec)
    return Loaded(network, spec, _notes(probe, kind, spec, options))


def _check_options(told: Told, options: LoadOptions) -> None:
    for name, value in options.network.items():
        if name not in _OPTIONS:
            raise ConfigError(
                f"{name}={value!r} means nothing to a {told.architecture} network, whose options "
                f"are {', '.join(_OPTIONS)}. Leave it out."
            )


def _probe(
    network: nn.Module, dim: int, in_channels: int, example_shape: tuple[int, ...] | None
) -> _Measured:
    try:
        probe = probe_network(
            network, dim=dim, in_channels=in_channels, example_shape=example_shape
        )
    except NetworkError as error:
        raise NetworkError(f"{error} It was tried with {_input(dim, in_channels)}.") from error
    return _Measured(probe, _measure_output(network, dim, in_channels, probe.reaches))


def _input(dim: int, in_channels: int) -> str:
    return f"dim={dim} and in_channels={in_channels}; if it takes others, say so"


def _find_input(told: Told, options: LoadOptions) -> tuple[Dim, int]:
    """Return dimensions and channels, by the caller or else the file."""
    dim = options.dim or told.dim
    in_channels = options.in_channels or told.in_channels
    if dim is None or in_channels is None:
        raise ModelFileError(
            "The file does not tell how many dimensions and channels the images have that the "
            "network takes. Say it: dim=2, in_channels=1 (--assume dim=2 --assume in_channels=1 on "
            "the command line)."
        )
    if dim not in (2, 3):
        raise ModelFileError(
            f"The network takes images of {dim} dimensions, and 2 or 3 are supported, beside batch "
            "and channels. Wrap it so that it takes (1, channels, [z,] y, x)."
        )
    if not 1 <= in_channels <= _MOST_CHANNELS:
        raise ModelFileError(
            f"The network takes {in_channels} channels, and 1 to {_MOST_CHANNELS} are supported. "
            "Check how it was exported."
        )
    return (2 if dim == 2 else 3), in_channels


@dataclass(frozen=True)
class _Output:
    classes: Literal["exclusive", "independent"]
    output: Literal["logits", "probabilities"]
    reason: str


@dataclass(frozen=True)
class _Measured:
    probe: Probe
    output: _Output


def _measure_output(
    network: nn.Module, dim: int, channels: int, reach: tuple[Reach, ...]
) -> _Output:
    """Tell probabilities from logits by the scores of random images, quiet and loud ones."""
    shape = [r.largest or r.rule.above(r.rule.smallest + r.multiple) for r in reach]
    box = Blackbox(network, dim, channels)
    images = [box.noise(shape, salt, loudness) for salt, loudness in ((3, 1.0), (4, LOUD))]
    found = [scores for scores in map(box.scores, images) if scores is not None]
    if not found:
        raise NetworkError(f"The network stopped taking images. It said: {box.refusal}.")
    scores = torch.cat([each.flatten(1) for each in found], dim=1)
    several = len(scores) > 1
    if not -1e-6 <= float(scores.min()) <= float(scores.max()) <= 1 + 1e-6:
        reason = "on random images they leave the range of 0 to 1"
        return _Output("exclusive" if several else "independent", "logits", reason)
    if several and float((scores.sum(dim=0) - 1).abs().max()) < 1e-4:
        reason = "on random images they lie between 0 and 1 and add up to 1"
        return _Output("exclusive", "probabilities", reason)
    reason = "on random images they lie between 0 and 1"
    return _Output("independent", "probabilities", reason)


def _notes(probe: Probe, kind: _Output, spec: ModelSpec, options: LoadOptions) -> tuple[str, ...]:
    meaning = {
        "exclusive": "one class holds per voxel",
        "independent": "several may hold per voxel, and the highest is shown",
    }[kind.classes]
    assumed = notes_on_meaning(
        (kind.output, kind.reason),
        (kind.classes, meaning),
        options,
        is_one_class=probe.out_channels == 1,
    )
    return (*probe.sentences(), *assumed, *note_on_intensities(spec, options))


def notes_on_meaning(
    output: tuple[str, str], classes: tuple[str, str], options: LoadOptions, *, is_one_class: bool
) -> tuple[str, ...]:
    """Say what the scores are taken as, (value, reason) each, unless the caller said it."""
    notes: list[str] = []
    if options.output is None:
        text = f"The scores are taken as {output[0]} (output): {output[1]}."
        notes.append(Assumed(text, "output", output[0]))
    if options.classes is None and not is_one_class:
        text = f"The classes are taken as {classes[0]} (classes): {classes[1]}."
        notes.append(Assumed(text, "classes", classes[0]))
    return tuple(notes)


# --- what programs of torch tell ----------------------------------------------------------------


def told_by_weights(architecture: str, weights: dict[str, Any], parameters: int) -> Told:
    """Guess dimensions and channels from the first weight of a convolution."""
    shapes = (tuple(tensor.shape) for tensor in weights.values() if isinstance(tensor, Tensor))
    first = next((shape for shape in shapes if len(shape) in (4, 5)), None)
    if first is None:
        return Told(architecture, parameters=parameters or None)
    return Told(architecture, len(first) - 2, first[1], parameters=parameters)
