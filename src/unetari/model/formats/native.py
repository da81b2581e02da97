"""unetari's own format: one safetensors file, its metadata holding the `ModelSpec`."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from unetari.core.config import UNetConfig
from unetari.core.spec import ModelSpec
from unetari.errors import ModelFileError
from unetari.model import kinds
from unetari.model.formats.base import Loaded, load_bare
from unetari.model.formats.entries import find_weights
from unetari.model.formats.metadata import FORMAT, check_told, from_metadata, to_metadata
from unetari.model.unet import UNet
from unetari.model.weights import LoadOptions, build_network

KIND = kinds.NATIVE
ONLY_OURS = (
    "Only U-Nets of unetari are saved as safetensors, and this is another network. Keep its own "
    "file, or export it in another format."
)

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # which safetensors reads


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
    spec = from_metadata(metadata)
    check_told(spec.config.model_dump(), options)
    if not isinstance(spec.config, UNetConfig):
        raise ModelFileError(
            f"It describes {spec.config.architecture}, and only U-Nets of unetari are kept in "
            "this format. Load the network from its own file."
        )
    return Loaded(build_network(spec.config, weights), spec.replace(**options.spec))


def dump(network: UNet, spec: ModelSpec) -> bytes:
    """Return the content of a native file; equal models give equal bytes."""
    weights = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    metadata = to_metadata(spec)
    return _with_sorted_header(safetensors.torch.save(weights, metadata))


def save(network: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write a native file."""
    if not isinstance(network, UNet):
        raise ModelFileError(ONLY_OURS)
    path.write_bytes(dump(network, spec))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()  # the file itself is not iterable
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        reason = _find_claim(path) or str(error)
        raise ModelFileError(
            f"The safetensors file is truncated or damaged ({reason}). Copy or download it again."
        ) from error


def _find_claim(path: Path) -> str:
    """Say what a broken file claims beyond what it holds; nothing if it is broken otherwise."""
    held = path.stat().st_size - _LENGTH_BYTES
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > held:
            return f"its header claims {length:,} bytes, and the file holds {max(held, 0):,}"
        if length > _LONGEST_HEADER:
            return f"its header has {length:,} bytes, and at most {_LONGEST_HEADER:,} are read"
        text = file.read(length)
    try:
        tensors = [value for name, value in json.loads(text).items() if name != "__metadata__"]
        claimed = max((_claimed(tensor) for tensor in tensors), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""  # no header as it should be
    if claimed <= held - length:
        return ""
    return f"its tensors claim {claimed:,} bytes, and the file holds {held - length:,}"


def _claimed(tensor: Any) -> int:
    """Return how many bytes of values the header gives a tensor, by its shape and its place."""
    bits = re.search(r"\d+", tensor["dtype"])
    size = prod(map(int, tensor["shape"])) * (int(bits[0]) // 8 if bits else 1)
    return max(size, int(tensor["data_offsets"][1]))


def _with_sorted_header(content: bytes) -> bytes:
    # safetensors writes metadata in the random order of a hash map.
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + content[start:]
