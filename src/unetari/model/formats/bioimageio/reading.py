"""Open a package: its description, its network, and what the two mean for predictions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from unetari.core.network import ForeignConfig
from unetari.core.sizes import Reach
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError, ModelFileError, as_sentence
from unetari.model.formats import native, onnx_file
from unetari.model.formats.base import Loaded
from unetari.model.formats.bioimageio import arrays, axes, yaml_text
from unetari.model.formats.bioimageio.arrays import Example
from unetari.model.formats.bioimageio.attached import read_attachments
from unetari.model.formats.bioimageio.axes import Layout
from unetari.model.formats.bioimageio.description import (
    OURS,
    Description,
    Tensor,
    read_description,
)
from unetari.model.formats.bioimageio.package import open_package, temporary_file
from unetari.model.formats.bioimageio.pointwise import Packaged
from unetari.model.formats.bioimageio.processing import (
    Postprocessing,
    Preprocessing,
    read_postprocessing,
    read_preprocessing,
)
from unetari.model.formats.bioimageio.weights import (
    Opened,
    Source,
    open_weights,
)
from unetari.model.formats.foreign import Told, as_file_errors, as_foreign, notes_on_meaning
from unetari.model.formats.metadata import check_told
from unetari.model.measurements import measure_once
from unetari.model.notes import Detail
from unetari.model.probe import Probe, probe_network
from unetari.model.weights import LoadOptions

_ROUNDING = 1e-3
_PLACEHOLDER = re.compile(r"(channel|class|c)?_?\d*", re.IGNORECASE)


def load(path: Path, options: LoadOptions) -> Loaded:
    """Open a package.

    Parameters
    ----------
    path : Path
        A zip archive, a folder, or the description in a folder.
    options : LoadOptions
        What the caller knows.

    Returns
    -------
    Loaded

    Raises
    ------
    ModelFileError
        If it is damaged, unsafe, or not a network from one image to scores for
        every voxel, or if its processing cannot be expressed exactly.
    UntrustedModelError
        If only code could be run, and the caller did not say that it is trusted.
    MissingExtraError
        If bioimageio.spec or onnxruntime is needed and not installed.
    """
    with open_package(path) as package:
        content = package.read(package.description, limit=yaml_text.MAX_BYTES)
        description = read_description(yaml_text.read_yaml(content))
        source = Source(package, path, options)
        loaded = _load_own(source, description) or _load_foreign(source, description)
        attachments, notes = read_attachments(package, description)
        return replace(
            loaded,
            notes=(*loaded.notes, *notes),
            sha256="" if package.is_archive else package.sha256,
            attachments=attachments,
        )


def _load_own(source: Source, description: Description) -> Loaded | None:
    """Load the file that holds all we know of the model, if unetari made the package."""
    ours = description.config.get(OURS)
    name = ours.get("model") if isinstance(ours, Mapping) else None
    weights = [
        entry.file for key, entry in description.weights.items() if key == onnx_file.KIND.key
    ]
    file = next((file for file in (*description.attachments, *weights) if file.name == name), None)
    if file is None or not source.package.has(file.name):
        return None
    is_graph = file in weights
    load_own = onnx_file.load_described if is_graph else native.load
    suffix = (onnx_file if is_graph else native).KIND.suffixes[0]
    with temporary_file(source.read(file), suffix) as path:
        return load_own(path, source.options)


def _load_foreign(source: Source, description: Description) -> Loaded:
    """Load what another program made, and apply what the caller says."""
    try:
        loaded = _load_any(source, description)
    except ConfigError as error:
        raise ModelFileError(
            "It says something of the model that cannot be: "
            f"{as_sentence(str(error))} Ask its author to correct it."
        ) from error
    check_told(loaded.spec.config.model_dump(), source.options)
    return replace(loaded, spec=loaded.spec.replace(**source.options.spec))


def _load_any(source: Source, description: Description) -> Loaded:
    """Load the safest of the weights, translated into our terms."""
    terms = _translate(source, description)
    for opened in open_weights(source, description):
        candidate = _assemble(opened, terms, source.options)
        # A network that was only recognized must give what its authors got.
        if opened.is_certain or candidate.reproduces:
            break
    config = candidate.config
    spec = ModelSpec(
        config=config,
        normalization=terms.pre.normalization,
        class_names=_class_names(config, terms.made_tensor),
        voxel_size=axes.voxel_size(terms.given_tensor),
        **description.card,
    )
    return Loaded(candidate.network.eval(), spec, (*terms.pre.notes, *candidate.notes))


@dataclass(frozen=True)
class _Terms:
    """What a description means in our terms."""

    given_tensor: Tensor
    made_tensor: Tensor
    given: Layout
    made: Layout
    pre: Preprocessing
    post: Postprocessing
    declared: tuple[Reach, ...]
    """Sizes and surroundings as stated."""
    example: Example | str
    """The test tensors, or why there are none."""


def _translate(source: Source, description: Description) -> _Terms:
    given = _only(description.inputs, "takes", "images")
    made = _only(description.outputs, "gives", "results")
    layouts = axes.find_layout(given), axes.find_layout(made)
    return _Terms(
        given_tensor=given,
        made_tensor=made,
        given=layouts[0],
        made=layouts[1],
        pre=read_preprocessing(given),
        post=read_postprocessing(made),
        declared=axes.declared_reaches(given, made),
        example=arrays.read_example(source.package, (given.test, made.test), *layouts),
    )


def _only(tensors: tuple[Tensor, ...], verb: str, what: str) -> Tensor:
    if len(tensors) != 1:
        names = ", ".join(tensor.id[:40] for tensor in tensors[:8])
        raise ModelFileError(
            f"Its network {verb} {len(tensors)} {what} ({names}), and exactly one is supported. "
            "Use a program that runs it, such as bioimageio.core."
        )
    return tensors[0]


@dataclass(frozen=True)
class _Candidate:
    """A network from the weights of the package, described."""

    network: nn.Module
    config: ForeignConfig
    reproduces: bool
    """Whether it gives the test output."""
    notes: tuple[str, ...]


def _assemble(opened: Opened, terms: _Terms, options: LoadOptions) -> _Candidate:
    meaning = _find_meaning(terms, options)
    config, notes = _describe(opened, terms)
    config = config.replace(classes=meaning.classes, output=meaning.output)
    network = Packaged(opened.network, terms.given, terms.made, terms.pre.steps, terms.post.steps)
    reproduces, note = _compare(network, terms)
    notes = (*opened.notes, *notes, *meaning.notes, note)
    return _Candidate(network, config, reproduces, notes)


# --- what the scores mean -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Meaning:
    classes: Literal["exclusive", "independent"]
    output: Literal["logits", "probabilities"]
    notes: tuple[str, ...] = ()


def _find_meaning(terms: _Terms, options: LoadOptions) -> _Meaning:
    """Return what the scores mean: as the postprocessing says, else by their values."""
    post = terms.post
    if post.classes is not None and post.output is not None:
        return _Meaning(post.classes, post.output)
    output, reason = _guess_output(terms)
    is_one_class = terms.made.channels == 1
    adds_up = output == "probabilities" and _adds_up(terms.example)
    several = "exclusive" if output == "logits" or adds_up else "independent"
    classes = "independent" if is_one_class else several
    why = (classes, "the package does not say")
    notes = notes_on_meaning((output, reason), why, options, is_one_class=is_one_class)
    return _Meaning(options.classes or classes, options.output or output, notes)  # type: ignore[arg-type]


def _guess_output(terms: _Terms) -> tuple[Literal["logits", "probabilities"], str]:
    low, high = terms.made_tensor.range
    if low is not None and high is not None and low >= 0 and high <= 1:
        return "probabilities", f"the package states values from {low:g} to {high:g}"
    if isinstance(terms.example, str):
        return "logits", "the package does not say"
    scores = terms.example.scores
    if scores.min() >= 0 and scores.max() <= 1:
        return "probabilities", "its test output lies between 0 and 1"
    return "logits", "its test output leaves the range of 0 to 1"


def _adds_up(example: Example | str) -> bool:
    """Whether the scores of all classes add up to 1."""
    if isinstance(example, str) or len(example.scores) < 2:
        return False
    sums = example.scores.sum(axis=0, dtype=np.float64)
    return bool(np.abs(sums - 1).max() < _ROUNDING)


def _class_names(config: ForeignConfig, tensor: Tensor) -> tuple[str, ...]:
    names = tensor.channels.names if tensor.channels else ()
    if len(names) != config.out_channels or all(map(_PLACEHOLDER.fullmatch, names)):
        return ()
    return names if config.classes == "exclusive" else ("background", *names)


# --- what the network does with sizes -----------------------------------------------------------


def _describe(opened: Opened, terms: _Terms) -> tuple[ForeignConfig, tuple[str, ...]]:
    """Return what is known or measured of a network; what its scores mean is filled in later."""
    kind = f"BioImage.IO, {opened.kind}"
    if opened.config is not None:
        config = as_foreign(opened.config, Told(kind, parameters=opened.parameters))
        _check_channels(config.in_channels, config.out_channels, terms)
        return config.replace(architecture=f"{config.architecture} ({kind})"), ()
    dim: Literal[2, 3] = 3 if "z" in terms.given.space else 2
    with as_file_errors():
        probe = _probe(opened, terms, dim)
    _check_channels(terms.given.channels, probe.out_channels, terms)
    pairs = list(zip(terms.declared, probe.reaches, strict=True))
    config = ForeignConfig(
        architecture=kind,
        dim=dim,
        in_channels=terms.given.channels,
        out_channels=probe.out_channels,
        reach=tuple(axes.combine(declared, measured) for declared, measured in pairs),
        classes="exclusive",
        output="logits",
        tiles_exactly=probe.exact,
        origin="measured",
        parameters=opened.parameters,
    )
    return config, (*probe.sentences(), *map(Detail, _contradictions(pairs, terms.given.space)))


def _probe(opened: Opened, terms: _Terms, dim: int) -> Probe:
    bare = Packaged(opened.network, terms.given, terms.made).eval()
    channels, example = terms.given.channels, _example_shape(terms)
    depends_on = {
        "sha256": opened.sha256,
        "axes": [terms.given.letters, terms.made.letters],
        "in_channels": channels,
        "example_shape": example,
    }
    return measure_once(
        Probe,
        depends_on,
        lambda: probe_network(bare, dim=dim, in_channels=channels, example_shape=example),
    )


def _example_shape(terms: _Terms) -> tuple[int, ...]:
    """Return a size that the network is said to take."""
    if isinstance(terms.example, Example):
        return terms.example.image.shape[1:]
    return tuple(reach.rule.smallest for reach in terms.declared)


def _check_channels(given: int, made: int, terms: _Terms) -> None:
    stated = terms.given.channels, terms.made.channels
    if (given, made) != stated:
        raise ModelFileError(
            f"It states {stated[0]} channels in and {stated[1]} out, and the network has {given} "
            f"in and {made} out. Ask its author to correct the description."
        )


def _contradictions(pairs: list[tuple[Reach, Reach]], names: str) -> Iterator[str]:
    """Say where what is stated falls short of what was measured."""
    for name, (declared, measured) in zip(names, pairs, strict=True):
        if declared.margin < measured.margin:
            yield (
                f"Along {name} it states that {declared.margin} voxels per side matter; "
                f"{measured.margin} do, and are used."
            )
        if declared.loss != measured.loss:
            yield (
                f"Along {name} it states that the output loses {declared.loss} voxels per side; "
                f"it loses {measured.loss}."
            )
        if declared.largest is None and declared.multiple % measured.multiple:
            yield (
                f"Along {name} it states sizes in steps of {declared.multiple}; multiples of "
                f"{measured.multiple} are used, on which tiles are exact."
            )


# --- whether it does what its authors saw -------------------------------------------------------


def _compare(network: nn.Module, terms: _Terms) -> tuple[bool, str]:
    """Run the test image, and say how far the result is from the test output."""
    if isinstance(terms.example, str):
        return False, f"The package could not be tested: {terms.example}."
    finish: nn.Module = nn.Identity()
    if terms.post.output == "logits":
        finish = nn.Softmax(dim=1) if terms.post.classes == "exclusive" else nn.Sigmoid()
    normalization = terms.pre.normalization
    try:
        difference, is_rounding = arrays.largest_difference(
            terms.example, network.eval(), normalization, finish
        )
    except Exception as error:  # noqa: BLE001 -- each runtime fails with types of its own
        lines = str(error).splitlines() or ["no detail"]
        return False, f"The network does not take the test image of the package ({lines[0][:200]})."
    if difference == float("inf"):
        return False, "The network gives a result of another size than the package's test output."
    if is_rounding:
        return True, Detail(f"The test output of the package is reproduced to {difference:.1e}.")
    return False, (
        f"The test output of the package is not reproduced: the largest difference is "
        f"{difference:.3g}. Results may not be those that its authors saw."
    )
