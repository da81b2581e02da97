"""ONNX networks of packages become one graph, steps and order of axes included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from unetari.errors import ModelFileError
from unetari.model.formats.bioimageio.axes import Layout
from unetari.model.formats.bioimageio.pointwise import Clip, Linear, Packaged, Threshold
from unetari.model.formats.onnx_session import OnnxNetwork, Program
from unetari.model.formats.wrappers import onnx_graph

STEPS: dict[str, list[nn.Module]] = {
    "nothing": [],
    "linear": [Linear([2.0, -3.0], [0.5, 1.0], 2)],
    "clip": [Clip(-0.5, 0.8), Clip(None, 0.7), Clip(-0.2, None)],
    "threshold": [Threshold([0.1, -0.1], 2)],
    "sigmoid": [nn.Sigmoid()],
    "softmax": [nn.Softmax(dim=1)],
    "several": [Linear([2.0], [0.0], 2), nn.Sigmoid(), Clip(0.2, 0.9)],
}


def network(letters: str, *, opset: int = 18, dtype: int = TensorProto.FLOAT) -> OnnxNetwork:
    """A convolution of two channels, whose input and output have their axes in this order."""
    ours = "ncyx"
    shape: list[int | str] = [2 if letter == "c" else letter for letter in letters]
    order = [letters.index(letter) for letter in ours if letter in letters]
    back = [[letter for letter in ours if letter in letters].index(letter) for letter in letters]
    weights = np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype(np.float32)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    batch = [] if "n" in letters else [0]
    constants = [
        onnx.numpy_helper.from_array(weights.astype(kind), "w"),
        onnx.numpy_helper.from_array(np.array(batch, np.int64), "batch"),
    ]
    nodes = [
        helper.make_node("Transpose", ["in"], ["a"], perm=order),
        helper.make_node(
            "Unsqueeze" if batch else "Identity", ["a", "batch"][: 1 + len(batch)], ["b"]
        ),
        helper.make_node("Conv", ["b", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node(
            "Squeeze" if batch else "Identity", ["c", "batch"][: 1 + len(batch)], ["d"]
        ),
        helper.make_node("Transpose", ["d"], ["out"], perm=back),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("in", dtype, shape)],
        [helper.make_tensor_value_info("out", dtype, shape)],
        constants,
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return OnnxNetwork(Program(model.SerializeToString(), Path()))


def check(packaged: Packaged) -> None:
    graph = onnx_graph(packaged)
    assert graph is not None
    onnx.checker.check_model(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    image = torch.randn((1, 2, 9, 13), generator=torch.Generator().manual_seed(0))
    (given,) = session.get_inputs()
    (found,) = session.run(None, {given.name: image.numpy()})
    np.testing.assert_allclose(found, packaged(image).numpy(), atol=1e-5)


@pytest.mark.parametrize("after", STEPS)
@pytest.mark.parametrize("before", STEPS)
def test_steps_become_nodes(before: str, after: str) -> None:
    layout = Layout("ncyx", 2)
    check(Packaged(network("ncyx"), layout, layout, STEPS[before], STEPS[after]))


@pytest.mark.parametrize("letters", ["ncyx", "nyxc", "cxyn", "yxc", "cyx"])
def test_axes_may_stand_in_any_order(letters: str) -> None:
    layout = Layout(letters, 2)
    check(Packaged(network(letters), layout, layout, STEPS["linear"], STEPS["softmax"]))
    check(Packaged(network(letters), layout, layout))


def test_the_graph_may_compute_with_another_type() -> None:
    layout = Layout("ncyx", 2)
    packaged = Packaged(
        network("ncyx", dtype=TensorProto.FLOAT16),
        layout,
        layout,
        STEPS["linear"],
        STEPS["sigmoid"],
    )
    check(packaged)


def test_a_bare_network_stays_as_it_is() -> None:
    layout, inner = Layout("ncyx", 2), network("ncyx", opset=11)
    assert onnx_graph(Packaged(inner, layout, layout)) == inner.onnx_graph()
    with pytest.raises(ModelFileError, match="version 11"):
        onnx_graph(Packaged(inner, layout, layout, STEPS["clip"]))


def test_steps_that_no_graph_has_are_refused() -> None:
    layout = Layout("ncyx", 2)
    with pytest.raises(ModelFileError, match="Tanh cannot be written"):
        onnx_graph(Packaged(network("ncyx"), layout, layout, [nn.Tanh()]))
