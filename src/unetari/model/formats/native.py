"""unetari's own format: one safetensors file, its metadata holding the `ModelSpec`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from unetari.core.config import UNetConfig
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError, ModelFileError
from unetari.model.formats.base import Loaded, load_bare
from unetari.model.formats.entries import find_weights
from unetari.model.unet import UNet
from unetari.model.weights import LoadOptions, build_network

NAME = "safetensors"
SUFFIXES: tuple[str, ...] = (".safetensors",)
FORMAT = "unetari"
FORMAT_VERSION = 1

_LENGTH_BYTES = 8


def sniff(path: Path) -> bool:
    """Whether `path` starts like a safetensors file: a length, then a JSON object."""
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES + 1)
    return start[_LENGTH_BYTES:] == b"{"


def load(path: Path, options: LoadOptions) -> Loaded:
    """Load a safetensors file; without our metadata, options are inferred from the weights."""
    metadata, weights = _read(path)
    if metadata.get("format") != FORMAT:
        return load_bare(find_weights(weights, options.entry), options)
    spec = _parse_spec(metadata)
    told = spec.config.model_dump()
    for name, value in options.network.items():
        if told.get(name) != value:
            says = f"{name}={told[name]!r}" if name in told else f"nothing of {name}"
            raise ConfigError(
                f"{name}={value!r} contradicts the file, which says {says}. Leave it out."
            )
    if not isinstance(spec.config, UNetConfig):
        raise ModelFileError(
            f"It describes {spec.config.architecture}, and only U-Nets of unetari are kept in "
            "this format. Load the network from its own file."
        )
    return Loaded(build_network(spec.config, weights), spec.replace(**options.spec))


def dump(network: UNet, spec: ModelSpec) -> bytes:
    """Return the content of a native file; equal models give equal bytes."""
    weights = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "spec": spec.model_dump_json(),
    }
    return _with_sorted_header(safetensors.torch.save(weights, metadata))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()  # the file itself is not iterable
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise ModelFileError(
            f"The safetensors file is truncated or damaged ({error}). Copy or download it again."
        ) from error


def _parse_spec(metadata: dict[str, str]) -> ModelSpec:
    version = metadata.get("format_version", "")
    if not version.isdecimal() or int(version) > FORMAT_VERSION:
        raise ModelFileError(
            f"Its format_version is {version!r}, and this unetari reads up to "
            f"{FORMAT_VERSION}. Install a newer unetari: pip install --upgrade unetari"
        )
    try:
        fields: dict[str, Any] = json.loads(metadata.get("spec", ""))
        return ModelSpec(**fields)
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelFileError(
            f"The description of the model in its metadata is not valid: {error} "
            "Save the model again with unetari.save_model."
        ) from error


def _with_sorted_header(content: bytes) -> bytes:
    # safetensors writes metadata in the random order of a hash map.
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + content[start:]
