"""Nodes before and after an ONNX graph, so that it takes and gives what unetari's networks do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unetari.errors import ModelFileError
from unetari.model.formats.onnx_checks import need

_OLDEST = 13  # since then axes are inputs, and softmax means one axis


class GraphBuilder:
    """Adds nodes to a copy of a graph with one input and one output.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph; it is changed.

    Raises
    ------
    ModelFileError
        If its operators are those of an old version.
    """

    def __init__(self, model: Any) -> None:
        self._onnx = need("onnx")
        self.model = model
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if opset < _OLDEST:
            raise ModelFileError(
                f"Steps before or after the network must be added to its graph, which uses version "
                f"{opset} of ONNX's operators, and at least {_OLDEST} is needed. Keep the package."
            )
        weights = {tensor.name for tensor in model.graph.initializer}
        (self.given,) = (value for value in model.graph.input if value.name not in weights)
        (self.made,) = model.graph.output
        self._count = 0
        self.nodes: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its result."""
        name = self._name()
        self.nodes.append(self._onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant; return its name."""
        name = self._name()
        array = np.asarray(values, dtype)
        self.model.graph.initializer.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def cast(self, value: str, of: Any, to: Any) -> str:
        """Add a conversion between the types of two values, where they differ."""
        wanted = to.type.tensor_type.elem_type
        if of.type.tensor_type.elem_type == wanted:
            return value
        return self.add("Cast", value, to=wanted)

    def reorder(self, value: str, have: str, want: str) -> str:
        """Bring axes, one letter each, into another order; "1" is an axis of size 1."""
        dropped = [axis for axis, letter in enumerate(have) if letter not in want or letter == "1"]
        if dropped:
            value = self.add("Squeeze", value, self.constant(dropped, np.int64))
        left = [letter for axis, letter in enumerate(have) if axis not in dropped]
        kept = [letter for letter in want if letter in left]
        if kept != left:
            order = [left.index(letter) for letter in kept]
            value = self.add("Transpose", value, perm=order)
        added = [axis for axis, letter in enumerate(want) if letter == "1" or letter not in left]
        if added:
            value = self.add("Unsqueeze", value, self.constant(added, np.int64))
        return value

    def value_like(self, name: str, axes: str, other: Any, letters: str, channels: int) -> Any:
        """Return a float32 input or output with our axes, its sizes those of another value."""
        helper = self._onnx.helper
        sizes: list[int | str | None] = []
        dims = list(other.type.tensor_type.shape.dim)
        for letter in axes:
            dim = dims[letters.index(letter)] if letter in letters and dims else None
            known = None if dim is None else dim.dim_value or dim.dim_param or None
            sizes.append(channels if letter == "c" else known)
            if letter not in letters:
                sizes[-1] = 1
        return helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, sizes)

    def finish(self, given: Any, made: Any, before: Sequence[Any], last: tuple[str, str]) -> Any:
        """Put the nodes in place, and return the model.

        Parameters
        ----------
        given, made : onnx.ValueInfoProto
            The new input and output.
        before : sequence
            The nodes before the network; the others come after it.
        last : tuple of str
            The results that become the network's input, and the new output.
        """
        graph = self.model.graph
        helper = self._onnx.helper
        entry = helper.make_node("Identity", [last[0]], [self.given.name])
        leave = helper.make_node("Identity", [last[1]], [made.name])
        after = self.nodes[len(before) :]
        inner = list(graph.node)
        del graph.node[:]
        graph.node.extend([*before, entry, *inner, *after, leave])
        inputs = [given, *(value for value in graph.input if value.name != self.given.name)]
        del graph.input[:], graph.output[:]
        graph.input.extend(inputs)
        graph.output.append(made)
        return self.model

    def _name(self) -> str:
        self._count += 1
        return f"unetari.{self._count}"
