"""unetari's own format: headers that lie, and descriptions that cannot be."""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

from tests.model.hostile import material
from tests.model.hostile.cases import Case, file

HARMLESS = (
    "a tensor twice",  # the same
    "weights of F8_E4M3",  # floats, of other widths
    "weights of F8_E5M2",
    "weights of F8_E8M0",
    "a description of control characters",  # written out
)
FIRST = "down_blocks.0.conv1.weight"


def cases() -> Iterator[Case]:
    for name, content in HEADERS.items():
        yield file(name, "m.safetensors", content, may_load=name in HARMLESS)
    for name, entry in ENTRIES.items():
        yield file(f"tensor with {name}", "m.safetensors", with_entry, entry)
    for name, text in DESCRIPTIONS.items():
        yield file(f"description: {name}", "m.safetensors", described, text)
    for name, change in FIELDS.items():
        harmless = name in HARMLESS
        yield file(f"description with {name}", "m.safetensors", changed, change, may_load=harmless)
    for name, version in VERSIONS.items():
        yield file(f"version {name}", "m.safetensors", versioned, version)
    yield file("untouched", "m.safetensors", material.native, loads=True)
    yield file("other suffix", "m.onnx", material.native, loads=True, like="safetensors: untouched")


def with_entry(entry: object) -> bytes:
    return material.safetensors({**material.header(), FIRST: entry})


def raw(text: str) -> bytes:
    return material.safetensors(text.encode())


def twice(key: str) -> bytes:
    text = json.dumps(material.header())
    return raw(f"{text[:-1]}, {json.dumps(key)}: {json.dumps(material.header()[key])}}}")


def header_with(**entries: object) -> bytes:
    return material.safetensors({**material.header(), **entries})


def only(dtype: str) -> bytes:
    """The first tensor in another type, of as many bytes as it takes."""
    bits = {"F8_E4M3": 8, "F8_E5M2": 8, "BOOL": 8, "U64": 64, "C64": 64, "F4": 4, "F8_E8M0": 8}
    head = material.header()
    count = 36 * bits[dtype] // 8
    others = {name: e for name, e in head.items() if "data_offsets" in e and name != FIRST}
    moved, at, data = {}, count, bytes(count)
    for name, entry in others.items():
        low, high = entry["data_offsets"]
        moved[name] = {**entry, "data_offsets": [at, at + high - low]}
        data += material.values()[low:high]
        at += high - low
    first = {"dtype": dtype, "shape": [4, 1, 3, 3], "data_offsets": [0, count]}
    head = {"__metadata__": head["__metadata__"], FIRST: first, **moved}
    return material.safetensors(head, data)


HEADERS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "a byte": lambda: b"\x08",
    "seven bytes": lambda: bytes(7),
    "a length alone": lambda: struct.pack("<Q", 100),
    "empty header": lambda: material.safetensors(b"", b""),
    "header longer than the file": lambda: material.native()[:200],
    "header of a terabyte": lambda: material.safetensors(material.header(), length=2**40),
    "header of 2**63 bytes": lambda: material.safetensors(material.header(), length=2**63),
    "header of 2**64 - 1 bytes": lambda: material.safetensors(material.header(), length=2**64 - 1),
    "header that is cut": lambda: material.safetensors(material.header(), length=100),
    "header that is no JSON": lambda: raw("{" * 500),
    "header nested without end": lambda: raw('{"a":' * 100_000),
    "header of lists within lists": lambda: raw('{"a":' + "[" * 100_000),
    "header that is a list": lambda: raw("[1, 2]"),
    "header that is null": lambda: raw("null"),
    "header of broken UTF-8": lambda: material.safetensors(b'{"\xff\xfe": 1}'),
    "no tensors": lambda: raw("{}"),
    "a tensor twice": lambda: twice(FIRST),
    "metadata twice": lambda: twice("__metadata__"),
    "metadata that is a list": lambda: header_with(__metadata__=[1]),
    "metadata that is text": lambda: header_with(__metadata__="unetari"),
    "metadata of numbers": lambda: header_with(__metadata__={"format": 1}),
    "metadata of metadata": lambda: header_with(__metadata__={"spec": {"a": "b"}}),
    "bytes after the end": lambda: material.native() + b"more",
    "half of it": lambda: material.native()[: len(material.native()) // 2],
    "without its last byte": lambda: material.native()[:-1],
    "many tensors": lambda: header_with(
        **{f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(50_000)}
    ),
    "a name of a megabyte": lambda: header_with(
        **{"x" * 2**20: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    ),
    "a thousand axes": lambda: with_entry(
        {**material.header()[FIRST], "shape": [4, 1, 3, 3] + [1] * 1000}
    ),
    **{
        f"weights of {t}": functools.partial(only, t)
        for t in ("F8_E4M3", "F8_E5M2", "BOOL", "U64", "C64", "F4", "F8_E8M0")
    },
}

_SHAPE, _PLACE = {"dtype": "F32", "shape": [4, 1, 3, 3]}, {"data_offsets": [0, 144]}
ENTRIES: dict[str, object] = {
    "unknown dtype": {"dtype": "F1024", "shape": [4, 1, 3, 3], **_PLACE},
    "dtype that is a number": {"dtype": 32, "shape": [4, 1, 3, 3], **_PLACE},
    "no dtype": {"shape": [4, 1, 3, 3], **_PLACE},
    "no shape": {"dtype": "F32", **_PLACE},
    "no place": _SHAPE,
    "negative size": {"dtype": "F32", "shape": [-4, -1, 3, 3], **_PLACE},
    "size that is no integer": {"dtype": "F32", "shape": [4.5, 1, 3, 3], **_PLACE},
    "size that is text": {"dtype": "F32", "shape": ["4", 1, 3, 3], **_PLACE},
    "sizes whose product overflows": {"dtype": "F32", "shape": [2**62, 4], **_PLACE},
    "terabytes": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]},
    "terabytes of nothing": {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]},
    "end before its start": {**_SHAPE, "data_offsets": [144, 0]},
    "bytes of another tensor": {**_SHAPE, "data_offsets": [16, 160]},
    "gap before it": {**_SHAPE, "data_offsets": [1000, 1144]},
    "place beyond the file": {**_SHAPE, "data_offsets": [10**9, 10**9 + 144]},
    "negative place": {**_SHAPE, "data_offsets": [-144, 0]},
    "huge place": {**_SHAPE, "data_offsets": [2**64 - 144, 2**64]},
    "three places": {**_SHAPE, "data_offsets": [0, 144, 288]},
    "place that is text": {**_SHAPE, "data_offsets": "0-144"},
    "fewer bytes than its shape": {**_SHAPE, "data_offsets": [0, 140]},
    "no dictionary": 7,
    "null": None,
}


def described(text: str) -> bytes:
    metadata = {"format": "unetari", "format_version": "1", "spec": text}
    return header_with(__metadata__=metadata)


def versioned(version: str) -> bytes:
    metadata = {**material.header()["__metadata__"], "format_version": version}
    return header_with(__metadata__=metadata)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    spec = json.loads(material.header()["__metadata__"]["spec"])
    change(spec)
    return described(json.dumps(spec))


DESCRIPTIONS = {
    "nothing": "",
    "no JSON": "{'a': 1}",
    "a list": "[]",
    "null": "null",
    "a number": "1e400",
    "nested without end": "[" * 100_000,
    "objects nested without end": '{"a":' * 100_000,
    "many digits": '{"name": ' + "9" * 100_000 + "}",
    "surrogates": '{"name": "\\ud800"}',
    "a network of another program": json.dumps(
        {
            "config": {
                "architecture": "x",
                "dim": 2,
                "in_channels": 1,
                "out_channels": 3,
                "reach": [],
                "classes": "exclusive",
                "output": "logits",
            }
        }
    ),
}

VERSIONS = {"999": "999", "-1": "-1", "none": "", "text": "one", "of many digits": "9" * 10_000,
            "in other digits": "\u0663"}  # fmt: skip


def _in_config(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda spec: spec["config"].update(values)


def _nested() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(500):
        found = {"a": found}
    return found


FIELDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a billion blocks": _in_config(n_blocks=10**9),
    "a googol of blocks": _in_config(n_blocks=10**100),
    "negative blocks": _in_config(n_blocks=-1),
    "blocks as text": _in_config(n_blocks="2"),
    "true blocks": _in_config(n_blocks=True),
    "NaN blocks": _in_config(n_blocks=float("nan")),
    "a trillion filters": _in_config(start_filters=10**12),
    "no filters": _in_config(start_filters=0),
    "a billion channels": _in_config(in_channels=10**9),
    "a billion classes": _in_config(out_channels=10**9),
    "four dimensions": _in_config(dim=4),
    "unknown activation": _in_config(activation="os.system"),
    "a list for an option": _in_config(activation=["relu"] * 1000),
    "groups beyond all filters": _in_config(normalization="group99999999999999999999"),
    "zero groups": _in_config(normalization="group0"),
    "unknown option": _in_config(run="rm -rf /"),
    "other kernels": _in_config(start_filters=8),
    "more blocks than weights": _in_config(n_blocks=4),
    "valid convolution of another depth": _in_config(n_blocks=30, conv_mode="valid"),
    "unknown field": lambda spec: spec.update(code="import os"),
    "no config": lambda spec: spec.update(config=None),
    "NaN voxels": lambda spec: spec.update(voxel_size=[float("nan"), 1.0]),
    "infinite voxels": lambda spec: spec.update(voxel_size=[float("inf"), 1.0]),
    "negative voxels": lambda spec: spec.update(voxel_size=[-1, 1]),
    "three voxel sizes": lambda spec: spec.update(voxel_size=[1, 1, 1]),
    "voxels as text": lambda spec: spec.update(voxel_size="0.5"),
    "other class names": lambda spec: spec.update(class_names=["x"] * 100),
    "a name that is a list": lambda spec: spec.update(name=[1, 2]),
    "NaN percentiles": lambda spec: spec.update(normalization={"low": float("nan")}),
    "reversed percentiles": lambda spec: spec.update(normalization={"low": 99, "high": 1}),
    "infinite eps": lambda spec: spec.update(normalization={"eps": float("inf")}),
    "unknown normalization": lambda spec: spec.update(normalization={"method": "eval"}),
    "a training record that is text": lambda spec: spec.update(training="none"),
    "a training record nested without end": lambda spec: spec.update(training=_nested()),
    "a name of ten megabytes": lambda spec: spec.update(name="x" * 10**7),
    "a description of control characters": lambda spec: spec.update(
        description="\x1b[2J\x1b]0;x\x07"
    ),
}
