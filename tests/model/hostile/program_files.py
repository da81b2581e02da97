"""TorchScript and torch.export: programs that are broken, or made to do harm."""

from __future__ import annotations

import functools
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.model.hostile import material
from tests.model.hostile.cases import Case, file, with_trust
from tests.model.hostile.pickle_files import CALLS, pickled

HARMLESS = (
    "an image by name",  # TorchScript passes it all the same
    "byte order that is unknown",  # TorchScript has one only
    "graph of older operators",
    "description of another network",  # of the same inputs and outputs: it is believed
)
UNTRUSTED = "only if you trust it"


def cases() -> Iterator[Case]:
    for kind, (filename, changes) in BROKEN.items():
        for name, make in changes.items():
            whole = file(f"{kind}, {name}", filename, make, may_load=name in HARMLESS)
            yield from with_trust([whole])
    for kind, (filename, _) in BROKEN.items():
        make = material.script if kind == "TorchScript" else material.export
        whole = file(f"{kind}, untouched", filename, make, loads=True)
        yield from with_trust([whole])
        yield file(f"{kind}, not trusted", filename, make, says=UNTRUSTED)
    for name, make in HARMFUL.items():
        yield file(f"{name}, not trusted", "m.pt", make, says=UNTRUSTED)


# --- TorchScript --------------------------------------------------------------------------------


def _edited(name: str, by: bytes | None) -> Callable[[], bytes]:
    return lambda: material.replaced(material.script(), name, by)


def _code(change: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    """TorchScript whose code was changed."""
    return lambda: material.edited(
        material.script(),
        lambda name, content: (
            change(content) if name.startswith("code/") and name.endswith(".py") else content
        ),
    )


def _body(statement: str) -> Callable[[], bytes]:
    """TorchScript whose networks return something else."""

    def change(content: bytes) -> bytes:
        lines = content.decode().splitlines()
        return "\n".join(
            line[: len(line) - len(line.lstrip())] + statement if "return" in line else line
            for line in lines
        ).encode()

    return _code(change)


def _claims(old: bytes, new: bytes) -> Callable[[], bytes]:
    """TorchScript whose list of tensors says something else."""
    return lambda: material.edited(
        material.script(),
        lambda name, content: content.replace(old, new) if name == "data.pkl" else content,
    )


def _scripted(network: Callable[[], Any]) -> Callable[[], bytes]:
    def make() -> bytes:
        import torch

        stream = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(network().eval()), stream)
        return stream.getvalue()

    return make


def _module(forward: str, signature: str = "self, x: Tensor") -> Callable[[], bytes]:
    """A program with this for `forward`; written to a file, where torch.jit looks for code."""

    def make() -> bytes:
        import importlib.util
        import tempfile

        text = (
            "import torch\nfrom torch import Tensor, nn\nfrom typing import *\n"
            "class Network(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.c = nn.Conv2d(1, 2, 3, padding=1)\n"
            f"    def forward({signature}):\n        {forward}\n"
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "hostile_network.py")
            path.write_text(text)
            spec = importlib.util.spec_from_file_location("hostile_network", path)
            module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
            spec.loader.exec_module(module)
            return _scripted(module.Network)()

    return make


_STORAGE = b"K\x12"  # 18, the number of values of the convolution's weights
SCRIPTS: dict[str, Callable[[], bytes]] = {
    "no list of tensors": _edited("data.pkl", None),
    "no constants": _edited("constants.pkl", None),
    "constants that are no pickle": _edited("constants.pkl", b"constants"),
    "constants that are cut": _edited("constants.pkl", b"\x80\x02("),
    "constants of another kind": _edited("constants.pkl", pickle.dumps({"a": 1}, 2)),
    "constants that are code": _edited("constants.pkl", pickled(CALLS["os.system"])),
    "constants nested without end": _edited("constants.pkl", b"\x80\x02" + b"(" * 100_000 + b"."),
    "no version": _edited("version", None),
    "version from the future": _edited("version", b"99999\n"),
    "version that is no number": _edited("version", b"new\n"),
    "byte order that is unknown": _edited("byteorder", b"middle"),
    "no code": lambda: material.edited(
        material.script(), lambda name, content: None if name.startswith("code/") else content
    ),
    "code that is cut": _code(lambda code: code[: len(code) // 2]),
    "code that is no text": _code(lambda code: b"\xff\xfe" + code[2:]),
    "code that is Python": _code(lambda code: b"import os\nos.system('touch $CANARY')\n"),
    "code of an unknown operator": _code(lambda code: code.replace(b"torch", b"evil")),
    "code of brackets": _code(lambda code: code.replace(b"return ", b"return " + b"(" * 300)),
    "code of a million brackets": _code(lambda code: code + b"(" * 10**6),
    "code of many operators": _body("return " + "-" * 200_000 + "input"),
    "code of a thousand lists": _body("return " + "[" * 20_000 + "]" * 20_000),
    "code of a long sum": _body("return " + "input + " * 50_000 + "input"),
    "code of a long call": _body("return input" + ".relu()" * 50_000),
    "code of blocks in blocks": _body(
        "\n".join("  " * n + "if True:" for n in range(2, 3000))
        + "\n"
        + "  " * 3000
        + "return input"
    ),
    "code of a million conditions": _body("return " + "input if True else " * 50_000 + "input"),
    "code of negations": _body("return " + "not " * 100_000 + "input"),
    "code without forward": _code(lambda code: code.replace(b"forward", b"backward")),
    "a list of tensors that is no pickle": _edited("data.pkl", b"tensors"),
    "a list of tensors that is code": _edited("data.pkl", pickled(CALLS["os.system"])),
    "a list of tensors of nothing": _edited("data.pkl", pickle.dumps(None, 2)),
    "a list of tensors within itself": _edited("data.pkl", b"\x80\x02]q\x00h\x00a."),
    "more values than are stored": _claims(_STORAGE, b"M\x00\x10"),
    "terabytes": _claims(_STORAGE, b"\x8a\x06" + (2**40).to_bytes(6, "little")),
    "negative values": _claims(_STORAGE, b"J\xee\xff\xff\xff"),
    "a shape beyond its values": _claims(
        b"(K\x02K\x01K\x03K\x03t", b"(M\x00\x20M\x00\x20K\x03K\x03t"
    ),
    "a tensor's values missing": lambda: material.edited(
        material.script(), lambda name, content: None if name == "data/0" else content
    ),
    "a tensor's values cut": lambda: material.edited(
        material.script(), lambda name, content: content[:4] if name == "data/0" else content
    ),
    "an unknown class": _claims(b"Conv2d", b"Conv9d"),
    "two images": _module("return self.c(x) + y", "self, x: Tensor, y: Tensor"),
    "no image": _module("return torch.zeros(1, 2, 8, 8)", "self"),
    "an image by name": _module("return self.c(x)", "self, *, x: Tensor"),
    "a number instead of an image": _module("return torch.zeros(n, 2, 8, 8)", "self, n: int"),
    "two results": _module("return self.c(x), x"),
    "a list of results": _module("return [self.c(x)]"),
    "a number": _module("return 3"),
    "text": _module("return 'scores'"),
    "nothing": _module("return None"),
    "labels": _module("return self.c(x).argmax(1)"),
    "an error": _module("raise RuntimeError('no')\n        return x"),
    "an error of control characters": _module("raise RuntimeError('\\x1b[2J')\n        return x"),
    "NaN": _module("return self.c(x) * float('nan')"),
    "chance": _module("return self.c(x) + torch.rand_like(x)"),
    "another size": _module("return self.c(x)[:, :, 0]"),
    "no classes": _module("return self.c(x)[:, :0]"),
    "terabytes of results": _module("return torch.zeros(1048576, 1048576, 1024)"),
    "a change of its input": _module("return x.zero_()"),
    "a result that is complex": _module("return self.c(x).to(torch.complex64)"),
    "a result that is sparse": _module("return self.c(x).to_sparse()"),
    "description that is damaged": lambda: _described("{"),
    "description that is a list": lambda: _described("[1, 2]"),
    "description nested without end": lambda: _described("[" * 100_000),
    "description of another network": lambda: _described(_written()),
    "description of a huge network": lambda: _described(_written(start_filters=10**9)),
    "description from the future": lambda: _described(
        json.dumps({"format": "unetari", "format_version": "99", "spec": "{}"})
    ),
    "description of sizes that cannot be": lambda: _described(_foreign(smallest=10**12)),
    "description of negative sizes": lambda: _described(_foreign(smallest=-5)),
    "description of sizes in steps of nothing": lambda: _described(_foreign(multiple=0)),
    "description of terabytes": lambda: _described(_foreign(smallest=2**20)),
    "description that is no text": lambda: _described(b"\xff\xfe"),
}


def _described(text: str | bytes) -> bytes:
    """TorchScript with this beside it, where unetari describes its networks."""
    import torch

    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.load(io.BytesIO(material.script()))  # type: ignore[no-untyped-call]
        torch.jit.save(program, stream, _extra_files={"unetari.json": text})
    return stream.getvalue()


def _written(**changes: object) -> str:
    metadata = dict(material.header()["__metadata__"])
    spec = json.loads(metadata["spec"])
    spec["config"] |= changes
    return json.dumps({**metadata, "spec": json.dumps(spec)})


def _foreign(*, smallest: int = 8, multiple: int = 1) -> str:
    metadata = dict(material.header()["__metadata__"])
    reach = {"rule": {"multiple": multiple, "smallest": smallest, "loss": 0}, "halo": 1}
    config = {"architecture": "x", "dim": 2, "in_channels": 1, "out_channels": 2,
              "reach": [reach, reach], "classes": "exclusive", "output": "logits"}  # fmt: skip
    return json.dumps({**metadata, "spec": json.dumps({"config": config})})


# --- torch.export -------------------------------------------------------------------------------


@functools.cache
def _graph() -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(material.export())) as archive:
        name = next(n for n in archive.namelist() if n.endswith("models/model.json"))
        found: dict[str, Any] = json.loads(archive.read(name))
    return found


def _regraphed(change: Callable[[dict[str, Any]], object]) -> Callable[[], bytes]:
    def make() -> bytes:
        graph = json.loads(json.dumps(_graph()))
        change(graph)
        return _part("models/model.json", json.dumps(graph).encode())()

    return make


def _part(name: str, by: bytes | None) -> Callable[[], bytes]:
    return lambda: material.replaced(material.export(), name, by)


def _matching(part: str, by: bytes | None) -> Callable[[], bytes]:
    """torch.export's archive with another content of the files whose names hold this."""
    return lambda: material.edited(
        material.export(), lambda name, content: by if part in name else content
    )


def _inner(graph: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = graph["graph_module"]["graph"]
    return found


def _set_operator(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda graph: _inner(graph)["nodes"][0].update(target=name)


EXPORTS: dict[str, Callable[[], bytes]] = {
    "no graph": _part("models/model.json", None),
    "graph of nothing": _part("models/model.json", b""),
    "graph that is no JSON": _part("models/model.json", b"{'a'}"),
    "graph that is a list": _part("models/model.json", b"[]"),
    "graph nested without end": _part("models/model.json", b"[" * 100_000),
    "graph that is no text": _part("models/model.json", b"\xff\xfe\x00"),
    "no weights": _matching("data/weights/", None),
    "weights of nothing": _matching("data/weights/", b""),
    "weights that are code": _matching("data/weights/", pickled(CALLS["os.system"])),
    "example that is no pickle": _matching("sample_inputs", b"example"),
    "another format": _part("archive_format", b"zip"),
    "no version": _part("archive_version", None),
    "version from the future": _part("archive_version", b"99"),
    "graph without nodes": _regraphed(lambda graph: _inner(graph).update(nodes=[])),
    "graph without inputs": _regraphed(lambda graph: _inner(graph).update(inputs=[])),
    "graph without outputs": _regraphed(lambda graph: _inner(graph).update(outputs=[])),
    "graph without tensors": _regraphed(lambda graph: _inner(graph).update(tensor_values={})),
    "graph of an unknown operator": _regraphed(_set_operator("torch.ops.evil.run.default")),
    "graph of a function of Python": _regraphed(_set_operator("os.system")),
    "graph of an operator of another kind": _regraphed(_set_operator("torch.ops.aten.add.Tensor")),
    "graph without signature": _regraphed(lambda graph: graph["graph_module"].update(signature={})),
    "graph from the future": _regraphed(
        lambda graph: graph.update(schema_version={"major": 999, "minor": 0})
    ),
    "graph of older operators": _regraphed(lambda graph: graph.update(opset_version={"aten": -1})),
    "ranges that cannot be": _regraphed(
        lambda graph: graph.update(range_constraints={"s0": {"min_val": 9, "max_val": 1}})
    ),
    "nodes twice": _regraphed(lambda graph: _inner(graph)["nodes"].extend(_inner(graph)["nodes"])),
    "compiled code": lambda: material.zipped(
        {
            "m/archive_format": b"pt2",
            "m/models/model.json": b"{}",
            "m/data/aotinductor/m.so": b"\x7fELF",
        }
    ),
    "format of old torch": lambda: material.zipped(
        {
            "m/serialized_exported_program.json": b"{}",
            "m/serialized_state_dict.pt": b"x",
            "m/version": b"1",
        }
    ),
}

BROKEN = {"TorchScript": ("m.ts", SCRIPTS), "export": ("m.pt2", EXPORTS)}


# --- made to do harm: never run without trust ---------------------------------------------------


def _writes() -> bytes:
    """Writes a file when it is opened: TorchScript calls what restores its state."""
    code = (
        "def __setstate__(self, s: Tensor) -> None:\n"
        "    torch.save(s, 'canary')\n"
    )  # fmt: skip
    return _code(lambda old: old + code.encode())()


def _evaluated() -> bytes:
    text = json.dumps(_graph()).replace('"s', "\"__import__('os').system('touch $CANARY') or s")
    return _part("models/model.json", text.encode())()


HARMFUL: dict[str, Callable[[], bytes]] = {
    "TorchScript that writes": _writes,
    "TorchScript with a pickle": _edited("more.pkl", pickled(CALLS["os.system"])),
    "export with a pickle for weights": _matching("data/weights/", pickled(CALLS["exec"])),
    "export with a pickle for an example": _matching("sample_inputs", pickled(CALLS["os.system"])),
    "export with a pickle for constants": lambda: material.edited(
        material.export(),
        lambda name, content: pickled(CALLS["os.system"]) if "constants" in name else content,
    ),
    "export that is evaluated": _evaluated,
    "a program that is a script in part": lambda: material.replaced(
        material.export(), "models/model.json", pickled(CALLS["os.system"])
    ),
}
