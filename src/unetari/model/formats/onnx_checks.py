"""What an ONNX file may hold: looked at before anything is computed or reserved.

ONNX runs no code of the file, but a graph can loop without end, ask for more memory than there
is, and name other files to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path, PureWindowsPath
from types import ModuleType
from typing import Any

import numpy as np

from unetari.errors import MissingExtraError, ModelFileError

_LOOPS = frozenset({"Loop", "Scan", "SequenceMap"})
_SIZES = {
    # Operators that make large results of small ones: which input says how large, and the most.
    "ConstantOfShape": ((0,), 2**28),
    "Expand": ((1,), 2**28),
    "Tile": ((1,), 2**16),
    "Resize": ((2, 3), 2**28),
    "Upsample": ((1,), 2**16),
    "Pad": ((1,), 2**28),
}
_MOST_BYTES = 2**31 - 1  # the limit of protobuf
_MOST_NODES = 50_000  # with those of functions wherever they are called
_MOST_FUNCTIONS, _MOST_CALLS = 500, 20
_MOST_DEPTH = 4  # graphs within each other: branches of branches
_MOST_VALUES = 2**31  # of a result, as far as its size does not depend on the image's
_MOST_CONSTANTS = 2**26  # of a result that does not depend on the image at all
_DAMAGED = "The file is damaged, or made to fill the memory: copy or download it again."
_VALUES_PER_BYTE = 8  # more than any type packs
_SMALL = 64
_LARGE = 2**12  # bytes; the values of such a tensor are no sizes


def need(package: str) -> ModuleType:
    """Import a package of the extra "onnx".

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtraError(package, "onnx", "A model in the ONNX format") from error


def read_graph(path: Path) -> Any:
    """Return the content of an ONNX file, once it is known to be harmless.

    Parameters
    ----------
    path : Path
        The file; large weights may lie beside it.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ModelFileError
        If it is damaged, of another kind, or could take over the machine's memory or time.
    """
    onnx = need("onnx")
    if path.stat().st_size > _MOST_BYTES:
        raise ModelFileError("It is larger than 2 GiB, which no ONNX file can be.")
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except (need("google.protobuf.message").DecodeError, ValueError) as error:
        raise _damaged(str(error)) from error
    if not model.graph.node or not model.opset_import:
        raise _damaged("it has no graph")
    _check_opset(model, onnx.defs.onnx_opset_version())
    graphs = list(_graphs(model))
    _check_calls(model)
    for nodes, tensors in graphs:
        _check_nodes(nodes)
        for tensor in tensors:
            _check_tensor(tensor, path.parent)
    _check_sizes(graphs, onnx.numpy_helper)
    _check_results(model, onnx)
    return model


def external_files(model: Any, folder: Path) -> tuple[Path, ...]:
    """Return the files in `folder` that hold weights of a graph which `read_graph` has checked."""
    tensors = (tensor for _, found in _graphs(model) for tensor in found)
    entries = (e for t in tensors if t.data_location == t.EXTERNAL for e in t.external_data)
    return tuple(
        folder / name for name in sorted({e.value for e in entries if e.key == "location"})
    )


def _damaged(reason: str) -> ModelFileError:
    return ModelFileError(
        f"It is no complete ONNX file ({reason.strip() or 'no detail'}). Copy or download it again."
    )


def _check_opset(model: Any, newest: int) -> None:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise ModelFileError(
                f"It uses version {opset.version} of ONNX's operators, and the package onnx that "
                f"is installed knows up to {newest}. Update it, or export with an older opset."
            )


_Graph = tuple[list[Any], list[Any]]


def _graphs(model: Any) -> Iterator[_Graph]:
    """Yield the nodes and tensors of the graph, the graphs within it, and its functions."""
    yield from _within([model.graph])
    for function in model.functions:
        yield from _of_nodes(list(function.node), [])


def _within(graphs: list[Any], depth: int = 0) -> Iterator[_Graph]:
    if graphs and depth > _MOST_DEPTH:
        raise ModelFileError(
            f"Its graphs lie within each other more than {_MOST_DEPTH} deep. Export the network "
            "without control flow."
        )
    for graph in graphs:
        tensors = list(graph.initializer)
        for sparse in graph.sparse_initializer:
            tensors += [sparse.values, sparse.indices]
        yield from _of_nodes(list(graph.node), tensors, depth)


def _of_nodes(nodes: list[Any], tensors: list[Any], depth: int = 0) -> Iterator[_Graph]:
    inner: list[Any] = []
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        tensors += [attribute.t] if attribute.HasField("t") else []
        tensors += attribute.tensors
        for sparse in attribute.sparse_tensors:
            tensors += [sparse.values, sparse.indices]
        inner += [attribute.g] if attribute.HasField("g") else []
        inner += attribute.graphs
    yield nodes, tensors
    yield from _within(inner, depth + 1)


def _check_calls(model: Any) -> None:
    """Refuse functions that call themselves, or each other so often that nobody could run them."""
    functions = {(f.domain, f.name): f for f in model.functions}
    counts: dict[tuple[str, str], int] = {}
    open_calls: list[tuple[str, str]] = []

    def count(graphs: Iterator[_Graph]) -> int:
        return sum(1 + count_call((n.domain, n.op_type)) for nodes, _ in graphs for n in nodes)

    def count_call(key: tuple[str, str]) -> int:
        if key not in functions:
            return 0
        if key in open_calls or len(open_calls) > _MOST_CALLS:
            raise ModelFileError(
                f"Its function {key[1][:80]!r} calls itself, or lies in too many others. {_DAMAGED}"
            )
        if key not in counts:
            open_calls.append(key)
            counts[key] = count(_of_nodes(list(functions[key].node), []))
            open_calls.pop()
        return counts[key]

    total = count(_within([model.graph]))
    if total > _MOST_NODES or len(functions) > _MOST_FUNCTIONS:
        raise ModelFileError(
            f"Its graph has {total:,} operators in {len(functions):,} functions, and at most "
            f"{_MOST_NODES:,} in {_MOST_FUNCTIONS} are run. Export the network in a simpler form."
        )


def _check_nodes(nodes: list[Any]) -> None:
    for node in nodes:
        if node.op_type in _LOOPS:
            raise ModelFileError(
                f"Its graph holds a {node.op_type}, which may run without end. Only graphs without "
                "loops are opened. Export the network without control flow."
            )


def _check_tensor(tensor: Any, folder: Path) -> None:
    """Refuse a tensor that claims more values than are stored, or lies outside the folder."""
    claimed = prod(tensor.dims)
    if any(size < 0 for size in tensor.dims):
        raise ModelFileError(f"Its tensor {tensor.name[:80]!r} has a negative size. {_DAMAGED}")
    is_external = tensor.data_location == tensor.EXTERNAL
    stored = _external_size(tensor, folder) if is_external else tensor.ByteSize()
    if claimed > _VALUES_PER_BYTE * stored:
        raise ModelFileError(
            f"Its tensor {tensor.name[:80]!r} claims {claimed:,} values, and {stored:,} bytes are "
            f"stored. {_DAMAGED}"
        )


def _external_size(tensor: Any, folder: Path) -> int:
    """Return how many bytes a tensor has in a file beside the model, once that is a safe one."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _beside(entries.get("location", ""), folder)
    size = file.stat().st_size
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", size - offset))
    except ValueError as error:
        raise ModelFileError(
            f"It names no valid part of {file.name} ({error}). Save the model again."
        ) from error
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelFileError(
            f"It wants bytes {offset} to {offset + length} of {file.name}, which has {size:,}. "
            "The two files do not belong together: copy both again."
        )
    return length


def _beside(location: str, folder: Path) -> Path:
    windows = PureWindowsPath(location)
    file = folder / location.replace("\0", "")
    climbs = windows.is_absolute() or windows.drive or ".." in windows.parts or "\0" in location
    if not location or climbs or not _is_within(file, folder):
        raise ModelFileError(
            f"Its weights should be read from {location[:200]!r}, outside the model's folder, and "
            "that is refused. Save the model with its weights in the same file or folder."
        )
    if not file.is_file():
        raise ModelFileError(
            f"Its weights lie in {location[:200]!r}, which is missing. Put that file beside it."
        )
    return file


def _is_within(file: Path, folder: Path) -> bool:
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead to each other
        return False


def _check_sizes(graphs: list[_Graph], helper: Any) -> None:
    """Refuse operators whose result is huge whatever the image is."""
    known = dict(_small_constants(graphs, helper))
    for node in (node for nodes, _ in graphs for node in nodes):
        where, most = _SIZES.get(node.op_type, ((), 0))
        for index in where:
            name = node.input[index] if index < len(node.input) else ""
            values = known.get(name)
            if values is not None and not abs(float(np.prod(values))) <= most:
                raise ModelFileError(
                    f"Its {node.op_type} {node.name[:80]!r} would make a result of size "
                    f"{values.tolist()}, which is refused. {_DAMAGED}"
                )


def _small_constants(graphs: list[_Graph], helper: Any) -> Iterator[tuple[str, Any]]:
    for nodes, tensors in graphs:
        found = [(tensor.name, tensor) for tensor in tensors]
        for node in nodes:
            if node.op_type == "Constant" and node.output:
                found += [(node.output[0], a.t) for a in node.attribute if a.HasField("t")]
        for name, tensor in found:
            if prod(tensor.dims) <= _SMALL and tensor.data_location != tensor.EXTERNAL:
                yield name, _to_array(tensor, helper)


def _check_results(model: Any, onnx: Any) -> None:
    """Refuse results that are huge for the smallest image, however they come about."""
    skeleton = _skeleton(model)
    try:  # without following values: that computes what is to be refused
        graph = onnx.shape_inference.infer_shapes(skeleton, data_prop=False).graph
    except Exception:  # noqa: BLE001 -- whatever is wrong, onnxruntime says it better
        return
    variable = _depending_on_image(graph)
    for value in (*graph.value_info, *graph.output):
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.dim_value > 0]
        if prod(sizes) > (_MOST_VALUES if value.name in variable else _MOST_CONSTANTS):
            raise ModelFileError(
                f"Its result {value.name[:80]!r} has {prod(sizes):,} values or more, whatever the "
                f"image. {_DAMAGED}"
            )


def _skeleton(model: Any) -> Any:
    """Return a copy of a model without the values of its weights."""
    copy = type(model)(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    copy.graph.name = model.graph.name
    for part in ("node", "input", "output", "value_info"):
        getattr(copy.graph, part).extend(getattr(model.graph, part))
    for tensor in model.graph.initializer:
        is_small = tensor.ByteSize() <= _LARGE
        stated = {"name": tensor.name, "data_type": tensor.data_type, "dims": tensor.dims}
        copy.graph.initializer.append(tensor if is_small else type(tensor)(**stated))
    return copy


def _depending_on_image(graph: Any) -> set[str]:
    """Return the names of results that depend on what is put in; the others are computed once."""
    found = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def _to_array(tensor: Any, helper: Any) -> Any:
    try:
        return helper.to_array(tensor).astype(np.float64)
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(f"its tensor {tensor.name[:80]!r} cannot be read: {error}") from error
