"""Instance and group normalization in ONNX graphs, such that every runtime rounds as torch does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from unetari.model.formats.onnx_checks import need

_OPERATOR = "InstanceNormalization"
_EPSILON = 1e-5  # unless the node says another
_AXES = (4, 3, 2)
"""Of voxels, (N, C, the rest, y, x): averaged in this order."""


def spell_out_norms(model: Any) -> None:
    """Replace every instance normalization by the operators it consists of, in place.

    onnxruntime adds all voxels of a channel up one after the other in float32,
    which leaves 2e-3 in the scores of a 3D network with group normalization.
    Means of rows, then of their means over a plane, then of the rest, are as
    exact as torch.

    Parameters
    ----------
    model : onnx.ModelProto
        A graph of the operators' version 18 or newer.
    """
    onnx = need("onnx")
    nodes = list(model.graph.node)
    if not any(node.op_type == _OPERATOR for node in nodes):
        return
    constants = {"any": [0, 0, -1], "channels": [1, -1, 1, 1, 1]}
    constants |= {f"axis{axis}": [axis] for axis in _AXES}
    for name, values in constants.items():
        array = np.array(values, np.int64)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, _name(name)))
    made_by = {name: node for node in nodes for name in node.output}
    del model.graph.node[:]
    for number, node in enumerate(nodes):
        if node.op_type != _OPERATOR:
            model.graph.node.append(node)
            continue
        source = made_by.get(node.input[0])
        is_grouped = source is not None and source.op_type == "Reshape"  # channels became groups
        image = source.input[0] if source is not None and is_grouped else node.input[0]
        model.graph.node.extend(_spell_out(onnx, model, node, image, number))


def _spell_out(onnx: Any, model: Any, node: Any, image: str, number: int) -> Iterator[Any]:
    """Yield the nodes of one normalization; `image` has the planes (..., y, x)."""
    given, scale, offset = node.input
    smallest = _add_epsilon(onnx, model, node, number)

    def made(step: str) -> str:
        return _name(f"{number}.{step}")

    def mean(values: str, result: str) -> Iterator[Any]:
        for axis in _AXES:
            reduced = result if axis == _AXES[-1] else f"{result}{axis}"
            inputs = [made(values), _name(f"axis{axis}")]
            yield onnx.helper.make_node("ReduceMean", inputs, [made(reduced)])
            values = reduced

    def step(operator: str, result: str, *inputs: str, **attributes: int) -> Any:
        return onnx.helper.make_node(operator, inputs, [made(result)], **attributes)

    channels = _name("channels")
    yield step("Shape", "shape", given)
    yield step("Shape", "plane", image, start=-2)
    yield step("Concat", "rows", _name("any"), made("plane"), axis=0)
    yield step("Reshape", "voxels", given, made("rows"))
    yield from mean("voxels", "mean")
    yield step("Sub", "centred", made("voxels"), made("mean"))
    yield step("Mul", "squared", made("centred"), made("centred"))
    yield from mean("squared", "variance")
    yield step("Add", "positive", made("variance"), smallest)
    yield step("Sqrt", "deviation", made("positive"))
    yield step("Div", "normalized", made("centred"), made("deviation"))
    yield step("Reshape", "scale", scale, channels)
    yield step("Reshape", "offset", offset, channels)
    yield step("Mul", "scaled", made("normalized"), made("scale"))
    yield step("Add", "shifted", made("scaled"), made("offset"))
    yield onnx.helper.make_node("Reshape", [made("shifted"), made("shape")], list(node.output))


def _add_epsilon(onnx: Any, model: Any, node: Any, number: int) -> str:
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), _EPSILON)
    name = _name(f"{number}.epsilon")
    array = np.array(epsilon, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return name


def _name(text: str) -> str:
    return f"unetari.norm.{text}"
