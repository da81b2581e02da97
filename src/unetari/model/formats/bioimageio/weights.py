"""The weights of a package: the safest that there are, and code only of those who are trusted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from torch import nn

from unetari.core.config import UNetConfig
from unetari.core.network import NetworkConfig
from unetari.errors import (
    ConfigError,
    MissingExtraError,
    ModelFileError,
    UnetariError,
    UntrustedModelError,
)
from unetari.model.formats import state_dict, torchscript
from unetari.model.formats.base import ASSUMED_INTENSITIES
from unetari.model.formats.bioimageio import source_code
from unetari.model.formats.bioimageio.description import Description, File, WeightsEntry
from unetari.model.formats.bioimageio.package import Package, temporary_file
from unetari.model.formats.foreign import ForeignNetwork
from unetari.model.formats.onnx_checks import read_graph
from unetari.model.formats.onnx_file import make_program
from unetari.model.formats.onnx_session import OnnxNetwork
from unetari.model.trust import check_trust
from unetari.model.weights import LoadOptions

MAX_BYTES = 2**34
"""Largest file of weights."""
_SMALL = 2**20  # of source code
_UNSUPPORTED = "needs TensorFlow or Keras, which unetari does not run"


@dataclass(frozen=True)
class Opened:
    """A network as the package has it."""

    network: nn.Module
    """In evaluation mode, on the CPU; takes and gives tensors with the axes of the package."""
    kind: str
    """What the weights are, for people."""
    config: NetworkConfig | None = None
    """What is known of it; None if it must be measured."""
    is_certain: bool = True
    """Whether it is what the package says, and not only looks like it."""
    parameters: int | None = None
    notes: tuple[str, ...] = ()
    sha256: str = ""
    """Hash of the weights, under which measurements are kept; empty to keep none."""


@dataclass(frozen=True)
class Source:
    """Where weights come from."""

    package: Package
    path: Path
    """The package, for messages."""
    options: LoadOptions

    def read(self, file: File, limit: int = MAX_BYTES) -> bytes:
        """Return the content of a file of the package."""
        if file.is_remote:
            raise _UnusableError(f"lies on a server ({file.name[:200]}), and nothing is fetched")
        if not self.package.has(file.name):
            raise _UnusableError(f"is not in the package ({file.name[:200]})")
        return self.package.read(file.name, limit=limit, sha256=file.sha256)

    def check_trust(self, name: str, content: bytes, reason: str) -> None:
        """Raise unless the user trusts a file of the package."""
        digest = hashlib.sha256(content).hexdigest()
        shown = self.path / name
        check_trust(shown, len(content), digest, reason, trusted=self.options.trust)


class _UnusableError(UnetariError):
    """Weights that cannot be used, where others might be."""


def open_weights(source: Source, description: Description) -> Iterator[Opened]:
    """Open the weights of a package, the safest first.

    Yields
    ------
    Opened
        One network after the other, for a caller that is not content with the first.

    Raises
    ------
    UntrustedModelError
        If only code is left, and the user did not say that it is trusted.
    ModelFileError
        If nothing is left; the message says why nothing could be used.
    """
    reasons: list[str] = []
    untrusted: UntrustedModelError | None = None
    missing: MissingExtraError | None = None
    for name, opener in _OPENERS:
        entry = description.weights.get(name)
        if entry is None:
            continue
        try:
            yield opener(source, entry)
        except UntrustedModelError as error:
            untrusted = untrusted or error
        except MissingExtraError as error:
            missing = error
        except _UnusableError as error:
            reasons.append(f"{name} {error}")
    if untrusted is not None or missing is not None:
        raise untrusted or missing  # type: ignore[misc]  # one of them is an error
    known = {name for name, _ in _OPENERS}
    reasons += [f"{name} {_UNSUPPORTED}" for name in description.weights if name not in known]
    raise ModelFileError(
        f"None of its weights can be used: {'; '.join(reasons)}. Ask its author for a package with "
        "ONNX weights."
    )


def _open_known(source: Source, entry: WeightsEntry) -> Opened:
    """Rebuild a network of a known kind from its weights: no code is needed."""
    content = source.read(entry.file)
    with temporary_file(content, ".pth") as path:
        try:
            loaded = state_dict.load(path, _plain(source.options, entry))
        except (ModelFileError, ConfigError) as error:
            raise _UnusableError("belongs to a network that unetari does not know") from error
    notes = tuple(note for note in loaded.notes if not note.startswith(ASSUMED_INTENSITIES))
    kind = "weights of a known network"
    return Opened(loaded.network, kind, loaded.spec.config, _is_ours(entry), None, notes)


def _is_ours(entry: WeightsEntry) -> bool:
    return entry.module.partition(".")[0] == "unetari"


def _plain(options: LoadOptions, entry: WeightsEntry) -> LoadOptions:
    """Return what is known of bare weights: for our own networks, what they are built with."""
    if not _is_ours(entry):
        return options.replace(normalization=None, class_names=())
    config = UNetConfig(**dict(entry.options))
    given = {"activation": config.activation, "conv_mode": config.conv_mode}
    told = {"normalization": config.normalization, "up_mode": config.up_mode}
    return options.replace(**given, **told, class_names=())


def _open_onnx(source: Source, entry: WeightsEntry) -> Opened:
    content = source.read(entry.file)
    digest = hashlib.sha256(content)
    try:
        if entry.external is None:
            with temporary_file(content, ".onnx") as path:
                network, parameters = _read_onnx(path)
        else:
            digest.update(source.read(entry.external))
            network, parameters = _read_onnx(source.package.locate(entry.file.name))
    except ModelFileError as error:
        raise _UnusableError(f"cannot be used: {error}") from error
    return Opened(network, "ONNX", parameters=parameters, sha256=digest.hexdigest())


def _read_onnx(path: Path) -> tuple[nn.Module, int]:
    model = read_graph(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ModelFileError(
            f"its graph takes {len(inputs)} and gives {len(model.graph.output)} tensors, and the "
            "description says one each."
        )
    network = OnnxNetwork(make_program(path, model))
    network.check()
    return network, sum(prod(tensor.dims) for tensor in weights.values())


def _open_torchscript(source: Source, entry: WeightsEntry) -> Opened:
    content = source.read(entry.file)
    source.check_trust(entry.file.name, content, torchscript.REASON)
    with temporary_file(content, ".pt") as path:
        torchscript.check_archive(path)
    module, _ = torchscript.read_program(content)
    for parameter in module.parameters():
        parameter.requires_grad = False  # torch warns of copies of what could be trained
    parameters = sum(parameter.numel() for parameter in module.parameters())
    digest = hashlib.sha256(content).hexdigest()
    return Opened(ForeignNetwork(module), "TorchScript", parameters=parameters, sha256=digest)


def _open_code(source: Source, entry: WeightsEntry) -> Opened:
    """Run the Python code that makes the network, and fill it with its weights."""
    weights = source.read(entry.file)
    code = b"" if entry.source is None else source.read(entry.source, _SMALL)
    name = entry.file.name if entry.source is None else entry.source.name
    source.check_trust(name, code or repr(entry).encode(), source_code.reason(entry))
    network = source_code.build(entry, code, weights)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Opened(network, f"{entry.callable}, code of the package", parameters=parameters)


_OPENERS: tuple[tuple[str, Callable[[Source, WeightsEntry], Opened]], ...] = (
    ("pytorch_state_dict", _open_known),
    ("onnx", _open_onnx),
    ("torchscript", _open_torchscript),
    ("pytorch_state_dict", _open_code),
)
"""How weights are opened, the safest first."""
