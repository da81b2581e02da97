"""Small valid files of every kind, which the hostile ones are made of."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any


@cache
def model() -> Any:
    """A U-Net of two blocks."""
    from unetari import Model, UNetConfig

    return Model.build(UNetConfig(n_blocks=2, start_filters=4, normalization="none"), seed=0)


def weights() -> dict[str, Any]:
    """Its weights."""
    return dict(model().network.state_dict())


@cache
def native() -> bytes:
    from unetari.model.formats import native as writer

    return writer.dump(model().network, model().spec)


def header(content: bytes | None = None) -> dict[str, Any]:
    """The header of a safetensors file."""
    content = content or native()
    length = int.from_bytes(content[:8], "little")
    found: dict[str, Any] = json.loads(content[8 : 8 + length])
    return found


def values() -> bytes:
    """What follows the header."""
    return native()[8 + int.from_bytes(native()[:8], "little") :]


def safetensors(head: object, data: bytes | None = None, length: int | None = None) -> bytes:
    """A safetensors file of any header, as text or as JSON."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    return size + text + (values() if data is None else data)


def torch_file(content: object, *, legacy: bool = False) -> bytes:
    """What torch.save writes."""
    import torch

    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


@cache
def state_dict() -> bytes:
    return torch_file(weights())


@cache
def legacy() -> bytes:
    return torch_file(weights(), legacy=True)


@cache
def network() -> Any:
    """A network of another program: a convolution."""
    import torch

    generator = torch.Generator().manual_seed(0)
    found = torch.nn.Conv2d(1, 2, 3, padding=1).eval()
    with torch.no_grad():
        for weight in found.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
            weight.requires_grad_(False)
    return found


@cache
def script() -> bytes:
    """A program of TorchScript."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = io.BytesIO()
        torch.jit.save(torch.jit.script(network()), stream)
    return stream.getvalue()


@cache
def export() -> bytes:
    """A program of torch.export."""
    import torch

    sizes = ({2: torch.export.Dim("y", min=1), 3: torch.export.Dim("x", min=1)},)
    program = torch.export.export(
        network(), (torch.zeros(1, 1, 8, 9),), dynamic_shapes=sizes, strict=False
    )
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def onnx_model(
    nodes: list[Any] | None = None,
    tensors: list[Any] | None = None,
    inputs: list[Any] | None = None,
    outputs: list[Any] | None = None,
    **options: Any,
) -> Any:
    """An ONNX model; of what is not given, a convolution."""
    from onnx import helper, numpy_helper

    kernel = numpy_helper.from_array(network().weight.numpy(), "w")
    bias = numpy_helper.from_array(network().bias.numpy(), "b")
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph(
        [node] if nodes is None else nodes,
        "network",
        [onnx_value("x", 1)] if inputs is None else inputs,
        [onnx_value("y", 2)] if outputs is None else outputs,
        [kernel, bias] + (tensors or []),
    )
    opsets = options.pop("opset_imports", [helper.make_opsetid("", 18)])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **options)


def onnx_value(name: str, channels: int, sizes: tuple[Any, ...] = (None, None)) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, *sizes])


@cache
def onnx() -> bytes:
    content: bytes = onnx_model().SerializeToString()
    return content


@cache
def package() -> bytes:
    """A BioImage.IO package of unetari."""
    return zipped(package_files())


@cache
def package_files() -> Mapping[str, bytes]:
    """Files of a BioImage.IO package by another program: an ONNX network, and test tensors."""
    import torch
    import yaml

    image = torch.randn((1, 1, 24, 24), generator=torch.Generator().manual_seed(1))
    files = {
        "weights.onnx": onnx(),
        "in.npy": npy(image.numpy()),
        "out.npy": npy(network()(image).numpy()),
    }
    return {"rdf.yaml": yaml.safe_dump(description()).encode(), **files}


def description() -> dict[str, Any]:
    """The description of that package."""
    sizes = {"min": 8, "step": 1}
    same = {"tensor_id": "image", "axis_id": "y"}, {"tensor_id": "image", "axis_id": "x"}
    return {
        "type": "model",
        "format_version": "0.5.4",
        "name": "one convolution",
        "description": "A network for tests.",
        "authors": [{"name": "A. Author"}],
        "cite": [{"text": "A paper", "doi": "10.1007/978-3-319-24574-4_28"}],
        "license": "MIT",
        "timestamp": "2026-01-01T00:00:00",
        "inputs": [
            {
                "id": "image",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["dapi"]},
                    {"type": "space", "id": "y", "size": sizes},
                    {"type": "space", "id": "x", "size": sizes},
                ],
                "test_tensor": {"source": "in.npy"},
            }
        ],
        "outputs": [
            {
                "id": "scores",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["background", "nucleus"]},
                    {"type": "space", "id": "y", "size": {**same[0], "offset": 0}, "halo": 1},
                    {"type": "space", "id": "x", "size": {**same[1], "offset": 0}, "halo": 1},
                ],
                "test_tensor": {"source": "out.npy"},
            }
        ],
        "weights": {"onnx": {"source": "weights.onnx", "opset_version": 18}},
    }


def npy(array: Any) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


# --- archives -----------------------------------------------------------------------------------


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def edited(content: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """An archive whose files were changed, or removed, and whose checksums are right again."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for entry in old.infolist():
            changed = change(entry.filename.partition("/")[2] or entry.filename, old.read(entry))
            if changed is not None:
                new.writestr(entry.filename, changed)
    return stream.getvalue()


def replaced(content: bytes, name: str, by: bytes | None) -> bytes:
    """An archive with another content of one file, or without it."""
    return edited(content, lambda here, old: by if here == name else old)
