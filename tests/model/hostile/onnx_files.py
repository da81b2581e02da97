"""ONNX: graphs that cannot be, that never end, and that want more than there is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.model.hostile import material
from tests.model.hostile.cases import Case, file

HARMLESS = ("input of negative size", "operators' version of the past", "bytes after the end")
"""What onnxruntime understands all the same."""


def cases() -> Iterator[Case]:
    for name, make in GRAPHS.items():
        yield file(name, "m.onnx", _serialized, make, may_load=name in HARMLESS)
    for name, content in BYTES.items():
        yield file(name, "m.onnx", content)
    for name, entries in EXTERNAL.items():
        itself = entries["location"] == "m.onnx"
        yield Case(f"weights {name}", functools.partial(_external, entries), may_load=itself)
    yield Case("weights by a link", _linked)
    yield file("untouched", "m.onnx", material.onnx, loads=True)
    yield file("other suffix", "m.pt", material.onnx, loads=True, like="onnx: untouched")


def _serialized(make: Callable[[], Any]) -> bytes:
    content: bytes = make().SerializeToString()
    return content


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, **attributes)


def constant(values: Any, name: str, kind: str = "int64") -> Any:
    import numpy as np
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(values, kind), name)


def conv(source: str = "x", target: str = "y") -> Any:
    return node("Conv", [source, "w", "b"], [target], pads=[1, 1, 1, 1])


def claiming(dims: list[int], **fields: Any) -> Any:
    """A tensor that holds nothing of what it claims."""
    from onnx import TensorProto

    return TensorProto(name="t", data_type=TensorProto.FLOAT, dims=dims, **fields)


def with_tensor(tensor: Any) -> Any:
    return material.onnx_model([conv("x", "z"), node("Add", ["z", "t"], ["y"])], [tensor])


def made_of(
    kind: str, inputs: list[str], tensors: list[Any], **attributes: Any
) -> Callable[[], Any]:
    """A graph that makes something large, and adds its first value to the scores."""

    def make() -> Any:
        nodes = [node(kind, inputs, ["large"], **attributes)]
        nodes += [node("Cast", ["large"], ["float"], to=1)]
        nodes += [node("ReduceSum", ["float"], ["one"], keepdims=0)]
        nodes += [conv("x", "z"), node("Add", ["z", "one"], ["y"])]
        return material.onnx_model(
            nodes, [constant(v, f"c{n}", k) for n, (v, k) in enumerate(tensors)]
        )

    return make


def doubled(times: int) -> Any:
    """A text of x that is joined to itself again and again."""
    nodes = [node("Concat", ["c", "c"], ["d0"], axis=0)]
    nodes += [node("Concat", [f"d{n}", f"d{n}"], [f"d{n + 1}"], axis=0) for n in range(times)]
    nodes += [node("ReduceSum", [f"d{times}"], ["one"], keepdims=0)]
    nodes += [conv("x", "z"), node("Add", ["z", "one"], ["y"])]
    return material.onnx_model(nodes, [constant([1.0] * 64, "c", "float32")])


def doubled_image(times: int) -> Any:
    """The image is joined to itself: what is large depends on what is put in."""
    nodes = [node("Concat", ["x", "x"], ["d0"], axis=1)]
    nodes += [node("Concat", [f"d{n}", f"d{n}"], [f"d{n + 1}"], axis=1) for n in range(times)]
    nodes += [node("ReduceSum", [f"d{times}"], ["one"], keepdims=0)]
    nodes += [conv("x", "z"), node("Add", ["z", "one"], ["y"])]
    return material.onnx_model(nodes)


def graph_in_graph(depth: int) -> Any:
    from onnx import helper

    inner = helper.make_graph([conv("x", "i")], "g", [], [material.onnx_value("i", 2)])
    for _ in range(depth):
        condition = helper.make_node("If", ["yes"], ["i"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([condition], "g", [], [material.onnx_value("i", 2)])
    last = helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)
    return material.onnx_model([last], [constant(True, "yes", "bool")])


def function_that_calls_itself() -> Any:
    from onnx import helper

    calls = node("f", ["a"], ["b"], domain="own")
    function = helper.make_function(
        "own", "f", ["a"], ["b"], [calls],
        [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    nodes = [node("f", ["x"], ["z"], domain="own"), conv("z")]
    return material.onnx_model(nodes, functions=[function], opset_imports=opsets)


def functions_that_double(times: int) -> Any:
    """Every function calls the one before it twice."""
    from onnx import helper

    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for number in range(times):
        name = f"f{number - 1}" if number else "Relu"
        inner = {"domain": "own"} if number else {}
        nodes = [node(name, ["a"], ["c"], **inner), node(name, ["c"], ["b"], **inner)]
        functions.append(helper.make_function("own", f"f{number}", ["a"], ["b"], nodes, opsets))
    nodes = [node(f"f{times - 1}", ["x"], ["z"], domain="own"), conv("z")]
    return material.onnx_model(nodes, functions=functions, opset_imports=opsets)


def looped(kind: str) -> Any:
    from onnx import helper

    body = helper.make_graph(
        [node("Identity", ["c"], ["d"]), node("Identity", ["a"], ["e"])], "body",
        [helper.make_tensor_value_info("n", 7, []), helper.make_tensor_value_info("c", 9, []),
         material.onnx_value("a", 1)],
        [helper.make_tensor_value_info("d", 9, []), material.onnx_value("e", 1)],
    )  # fmt: skip
    nodes = [node(kind, ["n", "yes", "x"], ["z"], body=body), conv("z")]
    return material.onnx_model(nodes, [constant(2**62, "n"), constant(True, "yes", "bool")])


def changed(change: Callable[[Any], object]) -> Callable[[], Any]:
    def make() -> Any:
        model = material.onnx_model()
        change(model)
        return model

    return make


def domain(name: str) -> Callable[[], Any]:
    def make() -> Any:
        from onnx import helper

        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(name, 1)]
        nodes = [node("Evil", ["x"], ["z"], domain=name), conv("z")]
        return material.onnx_model(nodes, opset_imports=opsets)

    return make


def described(text: str) -> Callable[[], Any]:
    def make() -> Any:
        from onnx import helper

        model = material.onnx_model()
        helper.set_model_props(model, {"unetari.json": text})
        return model

    return make


def _long_names(model: Any) -> None:
    model.graph.node[0].name = "x" * 10**6
    model.graph.node[0].op_type = "E" * 10**6


def _sizes(*sizes: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        from onnx import helper

        value = helper.make_tensor_value_info("x", 1, list(sizes))
        model.graph.input[0].CopyFrom(value)

    return change


def _element(kind: int, *, output: bool = False) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        values = model.graph.output if output else model.graph.input
        values[0].type.tensor_type.elem_type = kind

    return change


_BIG = 2**40
GRAPHS: dict[str, Callable[[], Any]] = {
    "no graph": lambda: __import__("onnx").ModelProto(ir_version=8),
    "no nodes": lambda: material.onnx_model([]),
    "no operators' version": changed(lambda m: m.ClearField("opset_import")),
    "operators' version of the future": changed(
        lambda m: setattr(m.opset_import[0], "version", 99)
    ),
    "operators' version of the past": changed(lambda m: setattr(m.opset_import[0], "version", 1)),
    "negative operators' version": changed(lambda m: setattr(m.opset_import[0], "version", -5)),
    "format of the future": changed(lambda m: setattr(m, "ir_version", 25)),
    "no inputs": lambda: material.onnx_model(inputs=[]),
    "two inputs": lambda: material.onnx_model(
        inputs=[material.onnx_value("x", 1), material.onnx_value("x2", 1)]
    ),
    "no outputs": lambda: material.onnx_model(outputs=[]),
    "two outputs": lambda: material.onnx_model(
        outputs=[material.onnx_value("y", 2), material.onnx_value("x", 1)]
    ),
    "output that nothing makes": lambda: material.onnx_model(outputs=[material.onnx_value("q", 2)]),
    "input that nothing uses": lambda: material.onnx_model([node("Identity", ["w"], ["y"])]),
    "a circle": lambda: material.onnx_model(
        [node("Add", ["x", "z"], ["y"]), node("Relu", ["y"], ["z"])]
    ),
    "a node that takes itself": lambda: material.onnx_model([node("Add", ["x", "y"], ["y"])]),
    "a result twice": lambda: material.onnx_model([conv(), conv()]),
    "an unknown operator": lambda: material.onnx_model([node("Evil", ["x"], ["y"])]),
    "an operator without name": lambda: material.onnx_model([node("", ["x"], ["y"])]),
    "an operator without inputs": lambda: material.onnx_model([node("Conv", [], ["y"])]),
    "an unknown domain": domain("evil"),
    "a domain of Python": domain("ai.onnx.contrib"),
    "a domain of Microsoft": domain("com.microsoft"),
    "a domain of libraries": domain("../../evil.so"),
    "an unknown attribute": lambda: material.onnx_model(
        [node("Conv", ["x", "w", "b"], ["y"], evil=[1] * 1000)]
    ),
    "negative pads": lambda: material.onnx_model(
        [node("Conv", ["x", "w", "b"], ["y"], pads=[-(2**40)] * 4)]
    ),
    "pads of terabytes": lambda: material.onnx_model(
        [node("Conv", ["x", "w", "b"], ["y"], pads=[2**30] * 4)]
    ),
    "strides of nothing": lambda: material.onnx_model(
        [node("Conv", ["x", "w", "b"], ["y"], strides=[0, 0])]
    ),
    "negative dilations": lambda: material.onnx_model(
        [node("Conv", ["x", "w", "b"], ["y"], dilations=[-1, -1])]
    ),
    "groups of nothing": lambda: material.onnx_model(
        [node("Conv", ["x", "w", "b"], ["y"], group=0)]
    ),
    "names of megabytes": changed(_long_names),
    "graphs within each other": lambda: graph_in_graph(12),
    "a loop": lambda: looped("Loop"),
    "a scan": lambda: looped("Scan"),
    "a function that calls itself": function_that_calls_itself,
    "functions that double": lambda: functions_that_double(40),
    "a tensor of terabytes": lambda: with_tensor(claiming([2**20, 2**20])),
    "a tensor of negative size": lambda: with_tensor(claiming([-1])),
    "a tensor of negative sizes": lambda: with_tensor(claiming([-(2**20), -(2**20)])),
    "a tensor whose size overflows": lambda: with_tensor(claiming([2**32, 2**32])),
    "a tensor whose size overflows to little": lambda: with_tensor(
        claiming([2**32, 2**32, 1], raw_data=bytes(64))
    ),
    "a tensor of fewer values": lambda: with_tensor(claiming([4], raw_data=bytes(8))),
    "a tensor of more values": lambda: with_tensor(claiming([1], raw_data=bytes(800))),
    "a tensor of unknown type": lambda: with_tensor(
        __import__("onnx").TensorProto(name="t", data_type=77, dims=[1], raw_data=bytes(4))
    ),
    "a tensor of texts": lambda: with_tensor(
        __import__("onnx").TensorProto(name="t", data_type=8, dims=[1], string_data=[b"x"])
    ),
    "a tensor in segments": lambda: with_tensor(
        claiming([4], raw_data=bytes(16), segment={"begin": 0, "end": 2**40})
    ),
    "a tensor of a thousand axes": lambda: with_tensor(claiming([1] * 1000, raw_data=bytes(4))),
    "a fill of terabytes": made_of("ConstantOfShape", ["c0"], [([_BIG], "int64")]),
    "a fill of terabytes in two": made_of("ConstantOfShape", ["c0"], [([2**20, 2**20], "int64")]),
    "a fill of negative size": made_of("ConstantOfShape", ["c0"], [([-5], "int64")]),
    "an expansion to terabytes": made_of(
        "Expand", ["c0", "c1"], [([1.0], "float32"), ([_BIG], "int64")]
    ),
    "tiles of terabytes": made_of("Tile", ["c0", "c1"], [([1.0], "float32"), ([_BIG], "int64")]),
    "a range of terabytes": made_of(
        "Range", ["c0", "c1", "c2"], [(0, "int64"), (_BIG, "int64"), (1, "int64")]
    ),
    "a range in steps of nothing": made_of(
        "Range", ["c0", "c1", "c2"], [(0, "int64"), (5, "int64"), (0, "int64")]
    ),
    "one of terabytes of classes": made_of(
        "OneHot",
        ["c0", "c1", "c2"],
        [([1], "int64"), (2**38, "int64"), ([0.0, 1.0], "float32")],
        axis=0,
    ),
    "chance of terabytes": made_of("RandomNormal", [], [], shape=[_BIG]),
    "uniform chance of terabytes": made_of("RandomUniform", [], [], shape=[2**20, 2**20]),
    "a window of terabytes": made_of("HannWindow", ["c0"], [(2**40, "int64")]),
    "a padding of terabytes": made_of(
        "Pad", ["c0", "c1"], [([1.0], "float32"), ([0, _BIG], "int64")]
    ),
    "draws of terabytes": made_of(
        "Multinomial", ["c0"], [([[0.5, 0.5]], "float32")], sample_size=2**31 - 1
    ),
    "doubled to terabytes": lambda: doubled(34),
    "the image doubled to terabytes": lambda: doubled_image(34),
    "a graph in a constant's place": changed(
        lambda m: m.graph.node[0].attribute.add(name="t", type=4)
    ),
    "input of no shape": changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
    "input of no type": changed(lambda m: m.graph.input[0].ClearField("type")),
    "input of two axes": changed(_sizes(1, 1)),
    "input of nine axes": changed(_sizes(*[1] * 9)),
    "input of negative size": changed(_sizes(1, 1, -5, -5)),
    "input of terabytes": changed(_sizes(1, 1, 2**30, 2**30)),
    "input of a thousand images": changed(_sizes(1000, 1, 8, 8)),
    "input of a billion channels": changed(_sizes(1, 10**9, None, None)),
    "input of no channels": changed(_sizes(1, 0, None, None)),
    "input of integers": changed(_element(7)),
    "input of text": changed(_element(8)),
    "input of an unknown type": changed(_element(99)),
    "output of an unknown type": changed(_element(99, output=True)),
    "a description that is damaged": described("{"),
    "a description nested without end": described("[" * 100_000),
    "a description that is empty": described("{}"),
    "an error at every size": lambda: material.onnx_model(
        [node("Reshape", ["x", "s"], ["z"]), conv("z")], [constant([1, 1, 7, 11], "s")]
    ),
    "NaN": lambda: material.onnx_model(
        [conv("x", "z"), node("Mul", ["z", "n"], ["y"])], [constant(float("nan"), "n", "float32")]
    ),
}


def _skeleton(field: int, content: bytes) -> bytes:
    """A model with one field of any content, as protobuf writes it."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return b"\x08\x08" + bytes([field << 3 | 2]) + length + bytes([size]) + content


def _nested(depth: int) -> bytes:
    """Graphs within attributes within nodes, deeper than any reader goes."""
    content = b""
    for _ in range(depth):
        for field in (6, 5, 1):  # an attribute's graph, a node's attribute, a graph's node
            content = _skeleton(field, content)[2:]
    return _skeleton(7, content)


BYTES: dict[str, Callable[[], bytes]] = {
    "start alone": lambda: b"\x08\x08",
    "half of it": lambda: material.onnx()[: len(material.onnx()) // 2],
    "without its last byte": lambda: material.onnx()[:-1],
    "bytes after the end": lambda: material.onnx() + b"\xff" * 20,
    "a field of terabytes": lambda: b"\x08\x08\x3a\xff\xff\xff\xff\xff\x7f",
    "a field of 2**63 bytes": lambda: b"\x08\x08\x3a" + b"\xff" * 9 + b"\x01",
    "a number without end": lambda: b"\x08" + b"\x08\x3a" + b"\xff" * 100,
    "a graph of noise": lambda: _skeleton(7, bytes(range(256))),
    "graphs without end": lambda: _nested(3000),
    "groups without end": lambda: b"\x08\x08" + b"\x3b" * 100_000,
    "a graph twice": lambda: material.onnx() * 2,
}


# --- weights in other files ---------------------------------------------------------------------

EXTERNAL: dict[str, dict[str, str]] = {
    "that climb": {"location": "../outside.bin"},
    "that climb within": {"location": "a/../../outside.bin"},
    "of an absolute name": {"location": "/etc/passwd"},
    "of a device": {"location": "/dev/zero"},
    "of Windows' separators": {"location": "..\\outside.bin"},
    "of a drive": {"location": "C:\\outside.bin"},
    "of a network drive": {"location": "\\\\server\\share\\x.bin"},
    "of an address": {"location": "https://example.com/x.bin"},
    "of a home": {"location": "~/x.bin"},
    "that are missing": {"location": "nowhere.bin"},
    "of no name": {"location": ""},
    "of a folder": {"location": "."},
    "of a name with a zero": {"location": "x\0.bin"},
    "of a very long name": {"location": "x" * 5000},
    "that are the file itself": {"location": "m.onnx"},
    "beyond the end": {"location": "w.bin", "offset": "100000"},
    "of terabytes": {"location": "w.bin", "length": str(2**42)},
    "of negative length": {"location": "w.bin", "length": "-72"},
    "of negative offset": {"location": "w.bin", "offset": "-72"},
    "of no length": {"location": "w.bin", "length": "0"},
    "of a length that is no number": {"location": "w.bin", "length": "many"},
    "of a length of many digits": {"location": "w.bin", "length": "9" * 10_000},
    "of few bytes": {"location": "w.bin", "length": "8"},
}


def _external(entries: dict[str, str], folder: Path) -> Path:
    """A graph whose kernel lies in another file."""
    from onnx import TensorProto

    model = material.onnx_model()
    (folder / "w.bin").write_bytes(model.graph.initializer[0].raw_data)
    (folder.parent / "outside.bin").write_bytes(model.graph.initializer[0].raw_data)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def _linked(folder: Path) -> Path:
    path = _external({"location": "link.bin"}, folder)
    (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
    return path
