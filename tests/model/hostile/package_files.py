"""BioImage.IO: descriptions that are bombs, and packages that lie, climb or ask for code."""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.model.hostile import material
from tests.model.hostile.cases import Case, file
from tests.model.hostile.pickle_files import CALLS, pickled

Files = dict[str, bytes]
HARMLESS = (
    "sizes of a million",
    "scaling by nothing",
    "a thousand steps",
    "clipping to nothing",
    "no authors",
    "covers that climb",  # they are not read
    "covers that are missing",
    "attachments that climb",
    "documentation from a server",
    "a model of ours that is a list",
)
"""Descriptions that say strange things, of a network that can be run."""


def cases() -> Iterator[Case]:
    for name, text in TEXTS.items():
        yield file(f"YAML: {name}", "m.zip", _with_file, "rdf.yaml", text)
        yield Case(f"YAML in a folder: {name}", functools.partial(unpacked, text))
    for name, change in DESCRIPTIONS.items():
        harmless = name in HARMLESS
        yield file(f"description: {name}", "m.zip", described, change, may_load=harmless)
    for name, content in ARRAYS.items():
        yield file(f"test image: {name}", "m.zip", _with_file, "in.npy", content)
    for name, content in WEIGHTS.items():
        yield file(f"weights: {name}", "m.zip", _with_file, "weights.onnx", content)
    for name, alter in FOLDERS.items():
        yield Case(f"folder: {name}", functools.partial(_changed_folder, alter))
    yield file("untouched", "m.zip", material.package, loads=True)
    yield Case("untouched folder", _whole_folder, loads=True, like="package: untouched")


def value(content: bytes | Callable[[], bytes]) -> bytes:
    return content if isinstance(content, bytes) else content()


def _with_file(name: str, content: bytes | Callable[[], bytes]) -> bytes:
    return packed(**{name: value(content)})


def packed(**changes: bytes) -> bytes:
    return material.zipped({**material.package_files(), **changes})


def described(change: Callable[[dict[str, Any]], object], files: Files | None = None) -> bytes:
    import yaml

    fields = material.description()
    change(fields)
    return packed(**{"rdf.yaml": yaml.safe_dump(fields).encode(), **(files or {})})


def unpacked(text: bytes | Callable[[], bytes], folder: Path) -> Path:
    for name, content in {**material.package_files(), "rdf.yaml": value(text)}.items():
        (folder / name).write_bytes(content)
    return folder / "rdf.yaml"


def _whole_folder(folder: Path) -> Path:
    return unpacked(material.package_files()["rdf.yaml"], folder).parent


# --- YAML ---------------------------------------------------------------------------------------


def laughs(levels: int) -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines).encode()


def _with_whole(text: str) -> Callable[[], bytes]:
    return lambda: material.package_files()["rdf.yaml"] + text.encode()


TEXTS: dict[str, bytes | Callable[[], bytes]] = {
    "nothing": b"",
    "laughs": laughs(12),
    "laughs in keys": b"? &a [x]\n: 1\n? [*a, *a, *a]\n: 2\n",
    "holds itself": b"a: &a [*a]",
    "holds itself in turn": b"a: &a {b: &b [*a, *b]}",
    "merges itself": b"a: &a\n  <<: *a\n",
    "lists in lists": b"[" * 100_000,
    "mappings in mappings": b"a: " + b"{b: " * 5000,
    "indented without end": b"".join(b" " * n + b"a:\n" for n in range(1500)),
    "too long": b"a: " + b"x" * 2**21,
    "too many values": b"- x\n" * 200_000,
    "a call of Python": b"a: !!python/object/apply:os.system ['touch canary']",
    "a new object of Python": b"a: !!python/object/new:os.system ['touch canary']",
    "a name of Python": b"a: !!python/name:os.system x",
    "a module of Python": b"a: !!python/module:antigravity x",
    "an unknown tag": b"a: !evil x",
    "a set": b"!!set {a, b}",
    "binary": b"a: !!binary |\n  gIFjb3M=\n",
    "many digits": b"a: " + b"9" * 10_000,
    "numbers of base 60": b"a: " + b"59:" * 5000 + b"59",
    "a list": b"- 1\n- 2",
    "two documents": b"a: 1\n---\nb: 2",
    "broken": b"a: [1, 2",
    "tabs": b"a:\n\t- b",
    "no text": b"\xff\xfe\x00\x01",
    "UTF-16": "a: 1".encode("utf-16"),
    "zeros": bytes(1000),
    "a key twice": _with_whole("\nname: other\nname: more\n"),
    "keys that are lists": b"{[1]: 2}",
    "anchors without end": b"a: &" + b"x" * 100_000 + b" 1",
    "an alias of nothing": b"a: *b",
    "a directive": b"%YAML 9.9\n---\na: 1",
}


# --- descriptions -------------------------------------------------------------------------------


def _input(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda d: d["inputs"][0].update(fields)


def _axis(side: str, number: int, **fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda d: d[side][0]["axes"][number].update(fields)


def _onnx(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda d: d["weights"]["onnx"].update(fields)


def _step(identifier: str, **kwargs: Any) -> Callable[[dict[str, Any]], object]:
    return _input(preprocessing=[{"id": identifier, "kwargs": kwargs}])


def _kind(kind: str, **fields: Any) -> Callable[[dict[str, Any]], object]:
    entry = {"source": "weights.onnx", **fields}
    return lambda d: d.update(weights={kind: entry})


DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a dataset": lambda d: d.update(type="dataset"),
    "no type": lambda d: d.pop("type"),
    "no version": lambda d: d.pop("format_version"),
    "a version of the future": lambda d: d.update(format_version="9.9.9"),
    "a version of the past": lambda d: d.update(format_version="0.0.1"),
    "a version that is a list": lambda d: d.update(format_version=[0, 5]),
    "no inputs": lambda d: d.update(inputs=[]),
    "inputs that are text": lambda d: d.update(inputs="x"),
    "inputs that are empty": lambda d: d.update(inputs=[{}]),
    "two inputs": lambda d: d["inputs"].append({**d["inputs"][0], "id": "more"}),
    "no outputs": lambda d: d.update(outputs=[]),
    "no weights": lambda d: d.update(weights={}),
    "weights of an unknown kind": lambda d: d.update(weights={"evil": {"source": "weights.onnx"}}),
    "weights that are text": lambda d: d.update(weights="weights.onnx"),
    "another file": _onnx(sha256="0" * 64),
    "a hash that is none": _onnx(sha256="xyz"),
    "weights that climb": _onnx(source="../weights.onnx"),
    "weights that climb within": _onnx(source="a/../../weights.onnx"),
    "weights of an absolute name": _onnx(source="/etc/passwd"),
    "weights of Windows' separators": _onnx(source="..\\weights.onnx"),
    "weights of a drive": _onnx(source="C:/weights.onnx"),
    "weights from a server": _onnx(source="http://localhost:1/weights.onnx"),
    "weights from a safe server": _onnx(source="https://example.com/weights.onnx"),
    "weights by another protocol": _onnx(source="file:///etc/passwd"),
    "weights by ftp": _onnx(source="ftp://localhost:1/w"),
    "weights that are missing": _onnx(source="nowhere.onnx"),
    "weights that are the description": _onnx(source="rdf.yaml"),
    "weights of a name with a zero": _onnx(source="x\0.onnx"),
    "weights of no name": _onnx(source=""),
    "weights of a very long name": _onnx(source="x" * 10_000),
    "weights that are a mapping": _onnx(source={"a": 1}),
    "weights beside that climb": _onnx(external_data={"source": "../w.bin"}),
    "an operators' version of the past": _onnx(opset_version=-1),
    "TorchScript that is ONNX": _kind("torchscript", pytorch_version="2.0"),
    "a state_dict that is ONNX": _kind(
        "pytorch_state_dict",
        pytorch_version="2.0",
        architecture={"callable": "f", "import_from": "x"},
    ),
    "Keras": _kind("keras_hdf5", tensorflow_version="2.0"),
    "TensorFlow.js": _kind("tensorflow_js", tensorflow_version="2.0"),
    "an image that climbs": _input(test_tensor={"source": "../in.npy"}),
    "an image that is the network": _input(test_tensor={"source": "weights.onnx"}),
    "an image that is missing": _input(test_tensor={"source": "nowhere.npy"}),
    "an image of another hash": _input(test_tensor={"source": "in.npy", "sha256": "0" * 64}),
    "the output of another model": _input(output_of="other"),
    "an axis of a quintillion": _axis("inputs", 2, size={"min": 10**18, "step": 1}),
    "steps of a quintillion": _axis("inputs", 2, size={"min": 8, "step": 10**18}),
    "steps of nothing": _axis("inputs", 2, size={"min": 8, "step": 0}),
    "negative sizes": _axis("inputs", 2, size={"min": -8, "step": 1}),
    "a size of nothing": _axis("inputs", 2, size=0),
    "a fixed size of a billion": _axis("inputs", 2, size=10**9),
    "sizes of a million": _axis("inputs", 2, size={"min": 2**20, "step": 1}),
    "a size that is text": _axis("inputs", 2, size="large"),
    "a size that is NaN": _axis("inputs", 2, size=float("nan")),
    "a size that follows itself": _axis("outputs", 2, size={"tensor_id": "scores", "axis_id": "y"}),
    "a size that follows nothing": _axis("outputs", 2, size={"tensor_id": "x", "axis_id": "q"}),
    "sizes in a ring": lambda d: [
        _axis("inputs", n, size={"tensor_id": "image", "axis_id": a})(d)
        for n, a in ((2, "x"), (3, "y"))
    ],
    "a halo of a quintillion": _axis("outputs", 2, halo=10**18),
    "a negative halo": _axis("outputs", 2, halo=-1),
    "a halo of half a million": _axis("outputs", 2, halo=2**19),
    "an offset of a quintillion": _axis(
        "outputs", 2, size={"tensor_id": "image", "axis_id": "y", "offset": -(10**18)}
    ),
    "a scale of nothing": _axis("inputs", 2, scale=0),
    "a scale that is NaN": _axis("inputs", 2, scale=float("nan")),
    "a scale beyond floats": _axis("inputs", 2, scale=1e308, unit="meter"),
    "a million channels": _axis("inputs", 1, channel_names=[f"c{n}" for n in range(5000)]),
    "no channel names": _axis("inputs", 1, channel_names=[]),
    "an unknown axis": _axis("inputs", 2, id="w"),
    "an axis twice": lambda d: d["inputs"][0]["axes"].append(d["inputs"][0]["axes"][2]),
    "a thousand axes": lambda d: d["inputs"][0].update(axes=d["inputs"][0]["axes"] * 250),
    "no axes": _input(axes=[]),
    "axes that are text": _input(axes="bcyx"),
    "time": lambda d: d["inputs"][0]["axes"].insert(1, {"type": "time", "size": 5}),
    "an unknown step": _step("evil"),
    "a step of code": _step("custom", callable="os.system"),
    "scaling by infinity": _step("scale_linear", gain=float("inf")),
    "scaling by nothing": _step("scale_linear", gain=0.0),
    "scaling by NaN": _step("scale_linear", gain=float("nan")),
    "percentiles beyond 100": _step(
        "scale_range", axes=["y", "x"], min_percentile=5, max_percentile=500
    ),
    "reversed percentiles": _step(
        "scale_range", axes=["y", "x"], min_percentile=90, max_percentile=5
    ),
    "a variance of axes that are not there": _step("zero_mean_unit_variance", axes=["q"]),
    "a thousand steps": _input(
        preprocessing=[{"id": "scale_linear", "kwargs": {"gain": 1.5}}] * 1000
    ),
    "clipping to nothing": _step("clip", min=5, max=1),
    "authors that are text": lambda d: d.update(authors="me"),
    "no authors": lambda d: d.update(authors=[]),
    "a name of a megabyte": lambda d: d.update(name="x" * 900_000),
    "a name of control characters": lambda d: d.update(name="\x1b[2J"),
    "a licence that is a mapping": lambda d: d.update(license={"a": 1}),
    "covers that climb": lambda d: d.update(covers=["../cover.png"]),
    "covers that are missing": lambda d: d.update(covers=["cover.png"]),
    "attachments that climb": lambda d: d.update(attachments=[{"source": "../x"}]),
    "a model of ours that climbs": lambda d: d.update(
        attachments=[{"source": "../m.safetensors"}],
        config={"unetari": {"model": "../m.safetensors"}},
    ),
    "a model of ours that is none": lambda d: d.update(
        attachments=[{"source": "in.npy"}], config={"unetari": {"model": "in.npy"}}
    ),
    "a model of ours that is a list": lambda d: d.update(config={"unetari": {"model": ["x"]}}),
    "options that are a list": lambda d: d.update(config=[1, 2]),
    "a parent that is a list": lambda d: d.update(parent=[1]),
    "documentation from a server": lambda d: d.update(documentation="http://localhost:1/x.md"),
}


# --- test images --------------------------------------------------------------------------------


def npy(text: str, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + content


def _shaped(*shape: int) -> bytes:
    import numpy as np

    return material.npy(np.zeros(shape, np.float32))


def _objects() -> bytes:
    import numpy as np

    return material.npy(np.array([[[[print]]]], dtype=object))


def _filled(number: float) -> Callable[[], bytes]:
    def make() -> bytes:
        import numpy as np

        return material.npy(np.full((1, 1, 24, 24), number, np.float32))

    return make


ARRAYS: dict[str, bytes | Callable[[], bytes]] = {
    "nothing": b"",
    "start alone": b"\x93NUMPY",
    "terabytes": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1048576, 1048576)}"),
    "negative size": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, -4, 4)}"),
    "sizes that are true": npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", bytes(4)
    ),
    "objects": _objects,
    "a structure": npy(
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", bytes(4)
    ),
    "a structure of a million fields": npy(
        "{'descr': [('a', '<f4', (99999999, 99999999))], 'fortran_order': False, 'shape': (1,)}"
    ),
    "code": npy("{'descr': __import__('os').system('touch canary'), 'shape': (1,)}"),
    "brackets": npy("(" * 60_000),
    "header of 4 GB": b"\x93NUMPY\x02\x00" + struct.pack("<L", 2**32 - 1) + b"{}",
    "version of the future": b"\x93NUMPY\x09\x00" + bytes(20),
    "texts": npy("{'descr': '<U100', 'fortran_order': False, 'shape': (1,)}", bytes(400)),
    "dates": npy("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
    "complex numbers": npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
    "cut": lambda: material.package_files()["in.npy"][:-9],
    "bytes after the end": lambda: material.package_files()["in.npy"] + b"more",
    "an archive": material.state_dict,
    "a pickle": pickled(CALLS["os.system"]),
}


def _with_external() -> bytes:
    from onnx import TensorProto

    model = material.onnx_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    content: bytes = model.SerializeToString()
    return content


WEIGHTS: dict[str, bytes | Callable[[], bytes]] = {
    "nothing": b"",
    "noise": bytes(range(256)) * 10,
    "a pickle": pickled(CALLS["os.system"]),
    "TorchScript": material.script,
    "safetensors": material.native,
    "half": lambda: material.onnx()[:100],
    "a package": material.package,
    "weights elsewhere": _with_external,
}


# --- folders ------------------------------------------------------------------------------------


def _changed_folder(change: Callable[[Path], object], folder: Path) -> Path:
    _whole_folder(folder)
    change(folder)
    return folder


def _relinked(name: str, target: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def _piped(folder: Path) -> None:
    (folder / "in.npy").unlink()
    os.mkfifo(folder / "in.npy")


def _as_folder(folder: Path) -> None:
    (folder / "weights.onnx").unlink()
    (folder / "weights.onnx").mkdir()


def _description_as_folder(folder: Path) -> None:
    (folder / "rdf.yaml").unlink()
    (folder / "rdf.yaml").mkdir()


def _description_as_pipe(folder: Path) -> None:
    (folder / "rdf.yaml").unlink()
    os.mkfifo(folder / "rdf.yaml")


FOLDERS: dict[str, Callable[[Path], object]] = {
    "weights by a link out of it": _relinked("weights.onnx", "/etc/passwd"),
    "an image by a link to a device": _relinked("in.npy", "/dev/zero"),
    "an image by a link to nothing": _relinked("in.npy", "nowhere.npy"),
    "an image by a link to itself": _relinked("in.npy", "in.npy"),
    "a description by a link out of it": _relinked("rdf.yaml", "/etc/passwd"),
    "an image that is a pipe": _piped,
    "weights that are a folder": _as_folder,
    "a description that is a folder": _description_as_folder,
    "a description that is a pipe": _description_as_pipe,
    "without weights": lambda folder: (folder / "weights.onnx").unlink(),
    "without its description": lambda folder: (folder / "rdf.yaml").unlink(),
}
