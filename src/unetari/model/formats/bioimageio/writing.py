"""Write a model as a package that bioimage.io and other programs read."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetari.core.normalization import fit_intensity
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError, MissingExtraError, ModelFileError
from unetari.model.attachments import Attachments, picture_suffix
from unetari.model.decisions import to_labels, to_scores
from unetari.model.formats import native, onnx_file, torchscript
from unetari.model.formats.bioimageio import card
from unetari.model.formats.bioimageio.cover import draw_cover
from unetari.model.formats.bioimageio.description import read_description
from unetari.model.formats.bioimageio.examples import make_example
from unetari.model.publishing import find_problems
from unetari.model.unet import UNet

_ANY_OPSET = 18  # until the graph is there
_STAMP = (1980, 1, 1, 0, 0, 0)  # there must be one; the description says when
_STORED = (".onnx", ".pt", ".safetensors", ".png")  # do not shrink


def save(network: nn.Module, spec: ModelSpec, path: Path, attached: Attachments) -> tuple[str, ...]:
    """Write a package: weights, test image and result, card, cover and documentation.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    spec : ModelSpec
        With name, description, authors and licence.
    path : Path
        The zip archive.
    attached : Attachments
        The test image, whose middle is taken, cover and documentation; what is empty is made.

    Returns
    -------
    tuple of str
        Sentences on the kinds of weights that could not be written.

    Raises
    ------
    ConfigError
        If the card lacks something, or says something that packages cannot hold.
    ShapeError
        If the image does not fit the network.
    ModelFileError
        If the network cannot be written as a program.
    MissingExtraError
        If bioimageio.spec or onnx is not installed.
    """
    check_card(spec)
    _need_spec()
    names = (card.TEST_INPUT, card.TEST_OUTPUT, *_writers(network))
    _check(card.write_description(spec, dict.fromkeys(names, "0" * 64), _ANY_OPSET))
    example = _compute(network, spec, make_example(spec.config, attached.image))
    papers, generated = _write_papers(spec, example, attached)
    weights, notes = _write_weights(network, spec)
    files = {
        card.TEST_INPUT: _npy(example.image[None]),
        card.TEST_OUTPUT: _npy(example.scores[None]),
        **papers,
        **weights,
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    graph = weights.get(card.ONNX)
    opset = onnx_file.read_opset(graph) if graph else _ANY_OPSET
    single = graph is not None and onnx_file.takes_one_image(graph)
    description = card.write_description(spec, hashes, opset, generated, single=single)
    _pack({card.DESCRIPTION: card.to_yaml(description), **files}, path)
    return notes


def draw_preview(network: nn.Module, spec: ModelSpec, image: NDArray[Any] | None) -> bytes:
    """Return the cover that a package with this test image gets, a PNG.

    Raises
    ------
    ShapeError
        If the image does not fit the network.
    """
    return _draw(spec, _compute(network, spec, make_example(spec.config, image)))


def check_card(spec: ModelSpec) -> None:
    """Refuse a model whose card lacks what a package must say.

    Raises
    ------
    ConfigError
        Naming everything that is missing, and how it is given.
    """
    problems = find_problems(spec)
    if not problems:
        return
    lacking = "; ".join(f"{field.name} ({text.rstrip('.')})" for field, text in problems.items())
    python = ", ".join(f"{field.name}={field.python}" for field in problems)
    options = ", ".join(field.option for field in problems)
    raise ConfigError(
        f"A BioImage.IO package must say more than the model does: {lacking}. "
        f"Give it with model.replace({python}); on the command line with {options}."
    )


def _need_spec() -> None:
    try:
        import bioimageio.spec  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("bioimageio.spec", "bioimageio", "A BioImage.IO package") from error


@dataclass(frozen=True)
class _Example:
    image: NDArray[np.float32]
    scores: NDArray[np.float32]


def _compute(network: nn.Module, spec: ModelSpec, image: NDArray[np.float32]) -> _Example:
    """Compute what the package must give for its test image."""
    intensity = fit_intensity(spec.normalization, [image])
    with torch.no_grad():
        scores = to_scores(network(torch.from_numpy(intensity(image))[None])[0], spec.config)
    return _Example(image, scores.numpy())


def _write_papers(
    spec: ModelSpec, example: _Example, attached: Attachments
) -> tuple[dict[str, bytes], list[str]]:
    """Return cover and documentation by their names, and which of them are made of the model."""
    cover = attached.cover or _draw(spec, example)
    name = f"{card.COVER}{picture_suffix(cover)}"
    if name == card.COVER:
        raise ConfigError("cover: It is no PNG or JPEG. Save the picture as one of these.")
    text = attached.documentation or card.write_documentation(spec)
    generated = [] if attached.cover else [name]
    generated += [] if attached.documentation else [card.DOCUMENTATION]
    return {name: cover, card.DOCUMENTATION: text.encode()}, generated


def _draw(spec: ModelSpec, example: _Example) -> bytes:
    labels = to_labels(torch.from_numpy(example.scores), spec.config, is_scores=True)
    return draw_cover(example.image, labels.numpy())


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array, np.float32), allow_pickle=False)
    return stream.getvalue()


def _writers(network: nn.Module) -> dict[str, Callable[[Any, ModelSpec, Path], object]]:
    """Return what writes the formats that most programs run, and our own for ourselves."""
    own = {card.OWN_MODEL: native.save} if isinstance(network, UNet) else {}
    return {card.ONNX: onnx_file.save, card.TORCHSCRIPT: torchscript.save, **own}


def _write_weights(network: nn.Module, spec: ModelSpec) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the weights in all formats that the network can be written in, and notes on others."""
    refused: dict[str, str] = {}
    written: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="unetari-") as folder:
        for name, write in _writers(network).items():
            path = Path(folder, name)
            try:
                write(network, spec, path)
            except ModelFileError as error:
                refused[name] = str(error)
            else:
                written[name] = path.read_bytes()
    if not written:
        reasons = " ".join(f"{name}: {error}" for name, error in refused.items())
        raise ModelFileError(f"No weights that others run can be written. {reasons}")
    return written, tuple(starmap(_note, refused.items()))


def _note(name: str, error: str) -> str:
    reason, _, _ = error.rpartition(". ")  # the last sentence says which format to choose instead
    return f"The package holds no {name}: {reason or error}."


def _check(description: Mapping[str, Any]) -> None:
    """Refuse a card that says something which packages cannot hold."""
    try:
        read_description(dict(description))
    except ModelFileError as error:
        raise ConfigError(
            f"The model's card does not make a valid package. {error} Change it with "
            "model.replace(...), or with the options of the command line."
        ) from error


def _pack(files: Mapping[str, bytes], path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _STAMP)
            stored = name.endswith(_STORED)
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
