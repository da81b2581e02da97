"""ONNX: a network as a graph of operators that every framework knows, run by onnxruntime."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unetari.core.network import reach_of
from unetari.core.spec import ModelSpec
from unetari.errors import ModelFileError
from unetari.model import kinds
from unetari.model.formats.base import Loaded
from unetari.model.formats.foreign import Told, describe
from unetari.model.formats.metadata import ENTRY, from_text, to_text
from unetari.model.formats.onnx_checks import external_files, need, read_graph
from unetari.model.formats.onnx_norms import spell_out_norms
from unetari.model.formats.onnx_session import OnnxNetwork, Program
from unetari.model.formats.silence import quiet
from unetari.model.formats.tracing import (
    cannot_write,
    example_input,
    export_program,
    holds_script,
)
from unetari.model.formats.wrappers import onnx_graph, plain_module
from unetari.model.weights import LoadOptions

KIND = kinds.ONNX

_IR_VERSION, _IR_FIELD = range(3, 32), 0x08
_NEXT_FIELDS = frozenset({0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA})
_NAMES: dict[str, Any] = {
    "opset_version": 18,  # known to every onnxruntime since 1.14
    "input_names": ["image"],
    "output_names": ["scores"],
    "verbose": False,
}


def sniff(path: Path) -> bool:
    """Whether `path` starts like an ONNX file: the version, then another field of a model."""
    with path.open("rb") as file:
        start = file.read(3)
    is_version = len(start) == 3 and start[0] == _IR_FIELD and start[1] in _IR_VERSION
    return is_version and start[2] in _NEXT_FIELDS


def load(path: Path, options: LoadOptions) -> Loaded:
    """Open a graph with onnxruntime; no code of the file is run."""
    model = read_graph(path)
    return _describe(path, model, _read_written(model), options)


def load_described(path: Path, options: LoadOptions) -> Loaded | None:
    """Open a graph beside which unetari wrote what it is; None if that is missing."""
    model = read_graph(path)
    written = _read_written(model)
    return None if written is None else _describe(path, model, written, options)


def _describe(path: Path, model: Any, written: ModelSpec | None, options: LoadOptions) -> Loaded:
    told = read_told(model)
    network = OnnxNetwork(make_program(path, model))
    network.check()
    sha256 = _hash([path, *external_files(model, path.parent)])
    return replace(describe(network, written, replace(told, sha256=sha256), options), sha256=sha256)


def _read_written(model: Any) -> ModelSpec | None:
    return from_text({entry.key: entry.value for entry in model.metadata_props}.get(ENTRY, ""))


def _hash(paths: Sequence[Path]) -> str:
    """Return the hash of a model that may be several files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_program(path: Path, model: Any) -> Program:
    """Return what onnxruntime is to compute: what was checked, not what lies on the disk now."""
    return Program(model.SerializeToString(), path.parent)


def read_told(model: Any) -> Told:
    """Read the shape of the input off a graph.

    Raises
    ------
    ModelFileError
        If the graph does not take one image and give one tensor of scores.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    given = _only([value for value in model.graph.input if value.name not in weights], "input")
    made = _only(list(model.graph.output), "output")
    batch, channels, *sizes = _shape(given, "input")
    _shape(made, "output")
    if batch not in (None, 1):
        raise ModelFileError(
            f"It takes exactly {batch} images at a time, and one is given. Export it with a batch "
            "of 1, or with batch sizes left open."
        )
    example = tuple(size for size in sizes if size is not None)
    return Told(
        architecture=KIND.name,
        dim=len(sizes),
        in_channels=channels or _channels_of_first(model, weights),
        example_shape=example if len(example) == len(sizes) else None,
        parameters=sum(prod(tensor.dims) for tensor in weights.values()),
    )


def _only(values: list[Any], what: str) -> Any:
    if len(values) != 1:
        names = ", ".join(value.name[:40] for value in values[:8]) or "none"
        raise ModelFileError(
            f"It has {len(values)} {what}s ({names}), and exactly one is supported. Export the "
            f"network with one {what}."
        )
    return values[0]


def _shape(value: Any, what: str) -> list[int | None]:
    """Return the sizes of an input or output, None where they are open."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) not in (4, 5) and not (what == "output" and not dims):
        raise ModelFileError(
            f"Its {what} {value.name[:80]!r} has {len(dims)} axes, and 4 or 5 are needed: batch, "
            "channels, [z,] y and x. Export the network so that it takes and gives images."
        )
    return [dim.dim_value if dim.dim_value > 0 else None for dim in dims]


def _channels_of_first(model: Any, weights: dict[str, Any]) -> int | None:
    """Return the channels of the first convolution whose weights are in the file."""
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type == "Conv" and weight is not None and len(weight.dims) > 1:
            return int(weight.dims[1])
    return None


def save(network: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write a network as a graph, the description beside it; an ONNX graph as it is."""
    onnx = need("onnx")
    model = onnx_graph(network)
    if model is None:
        model = _make_graph(network, spec)
        spell_out_norms(model)
        _forget_origin(model)
    for entry in [entry for entry in model.metadata_props if entry.key == ENTRY]:
        model.metadata_props.remove(entry)
    model.metadata_props.append(onnx.StringStringEntryProto(key=ENTRY, value=to_text(spec)))
    path.write_bytes(model.SerializeToString(deterministic=True))


def read_opset(content: bytes) -> int:
    """Return which version of ONNX's operators a graph uses."""
    model = need("onnx").ModelProto.FromString(content)
    return int(next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))


def takes_one_image(content: bytes) -> bool:
    """Whether a graph takes batches of one image only."""
    graph = need("onnx").ModelProto.FromString(content).graph
    weights = {tensor.name for tensor in graph.initializer}
    given = _only([value for value in graph.input if value.name not in weights], "input")
    return _shape(given, "input")[0] == 1


def _make_graph(network: nn.Module, spec: ModelSpec) -> Any:
    module = plain_module(network)
    if holds_script(module):
        return _convert_script(module, spec)
    need("onnxscript")
    program = export_program(network, spec.config)
    try:
        with quiet():
            written = torch.onnx.export(program, dynamo=True, **_NAMES)
    except Exception as error:  # torch's exporter fails in many ways
        raise cannot_write(error) from error
    if written is None:
        raise cannot_write(RuntimeError("no graph was made"))
    return written.model_proto


def _convert_script(module: nn.Module, spec: ModelSpec) -> Any:
    """Return the graph of a TorchScript program, which only torch's older converter takes."""
    stream = io.BytesIO()
    reaches = reach_of(spec.config)
    is_open = {
        2 + axis: "zyx"[axis - len(reaches)] for axis, r in enumerate(reaches) if not r.largest
    }
    sizes = {0: "batch", **is_open}
    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                (example_input(spec.config),),
                stream,  # type: ignore[arg-type]  # the older converter takes a stream
                dynamo=False,
                dynamic_axes=dict.fromkeys(("image", "scores"), sizes),
                **_NAMES,
            )
    except Exception as error:  # torch's exporter fails in many ways
        raise cannot_write(error) from error
    return need("onnx").ModelProto.FromString(stream.getvalue())


def _forget_origin(model: Any) -> None:
    """Remove where in which file of this machine every operator came from."""
    for part in (*model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    for part in (*model.graph.value_info, *model.graph.initializer, model.graph):
        del part.metadata_props[:]
