"""Write a model as a package that bioimage.io and other programs read."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetari.core.network import decides
from unetari.core.normalization import fit_intensity
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError, MissingExtraError, ModelFileError
from unetari.model.formats import native, onnx_file, torchscript
from unetari.model.formats.bioimageio import card
from unetari.model.formats.bioimageio.cover import draw_cover
from unetari.model.formats.bioimageio.description import read_description
from unetari.model.formats.bioimageio.examples import make_example
from unetari.model.unet import UNet

_OPSET = onnx_file.OPSET
_STAMP = (1980, 1, 1, 0, 0, 0)  # equal contents give equal archives
_STORED = (".onnx", ".pt", ".safetensors", ".png")  # do not shrink
_FLAGS = {
    "name": ('name="nuclei in 2D"', '--name "nuclei in 2D"'),
    "description": ('description="What it segments, in which images"', "--description TEXT"),
    "authors": ('authors=("A. Author", "B. Author")', '--author "A. Author" (repeatable)'),
    "license": ('license="CC-BY-4.0"', "--license CC-BY-4.0 (a SPDX identifier)"),
}
"""What a package cannot do without, and how it is given in Python and on the command line."""


def save(
    network: nn.Module, spec: ModelSpec, path: Path, image: NDArray[Any] | None = None
) -> None:
    """Write a package: weights, test image and result, card, cover and documentation.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    spec : ModelSpec
        With name, description, authors and licence.
    path : Path
        The zip archive.
    image : ndarray, optional
        The test image, (C, [Z,] Y, X), as it comes from a microscope; its middle is taken.
        Default: a generated one.

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
    _check(card.write_description(spec, dict.fromkeys(names, "0" * 64), _OPSET))
    example = _compute(network, spec, make_example(spec.config, image))
    files = {
        card.TEST_INPUT: _npy(example.image[None]),
        card.TEST_OUTPUT: _npy(example.scores[None]),
        card.COVER: draw_cover(example.image, example.scores, decides(spec.config)[0]),
        card.DOCUMENTATION: card.write_documentation(spec).encode(),
        **_write_weights(network, spec),
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    description = card.to_yaml(card.write_description(spec, hashes, _OPSET))
    _pack({card.DESCRIPTION: description, **files}, path)


def check_card(spec: ModelSpec) -> None:
    """Refuse a model whose card lacks what a package must say.

    Raises
    ------
    ConfigError
        Naming everything that is missing, and how it is given.
    """
    missing = [name for name in _FLAGS if not getattr(spec, name)]
    if not missing:
        return
    python = ", ".join(_FLAGS[name][0] for name in missing)
    flags = ", ".join(_FLAGS[name][1] for name in missing)
    raise ConfigError(
        f"A BioImage.IO package must say more than the model does: {', '.join(missing)}. Give it "
        f"with model.replace({python}); on the command line with {flags}."
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
    classes, is_logits = decides(spec.config)
    intensity = fit_intensity(spec.normalization, [image])
    with torch.no_grad():
        scores = network(torch.from_numpy(intensity(image))[None])[0]
        if is_logits:
            scores = scores.softmax(dim=0) if classes == "exclusive" else scores.sigmoid()
    return _Example(image, scores.numpy())


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array, np.float32), allow_pickle=False)
    return stream.getvalue()


def _writers(network: nn.Module) -> dict[str, Callable[[Any, ModelSpec, Path], object]]:
    """Return what writes the formats that most programs run, and our own for ourselves."""
    own = {card.OWN_MODEL: native.save} if isinstance(network, UNet) else {}
    return {card.ONNX: onnx_file.save, card.TORCHSCRIPT: torchscript.save, **own}


def _write_weights(network: nn.Module, spec: ModelSpec) -> dict[str, bytes]:
    writers = _writers(network)
    with tempfile.TemporaryDirectory(prefix="unetari-") as folder:
        for name, write in writers.items():
            write(network, spec, Path(folder, name))
        return {name: Path(folder, name).read_bytes() for name in writers}


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
