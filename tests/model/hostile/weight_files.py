"""Weights in PyTorch's files that belong to no network, or to one that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.model.hostile import material
from tests.model.hostile.cases import Case, file

FIRST = "down_blocks.0.conv1.weight"


def cases() -> Iterator[Case]:
    for name, make in CONTENTS.items():
        yield file(name, "m.pt", _saved, make)


def _saved(make: Callable[[], Any]) -> bytes:
    return material.torch_file(make())


def _weights(**changes: Any) -> dict[str, Any]:
    return {**material.weights(), **changes}


def _with(name: str, make: Callable[[Any], Any]) -> Callable[[], Any]:
    return lambda: {**material.weights(), name: make(material.weights()[name])}


def _sparse() -> Any:
    import torch

    return _weights(**{FIRST: material.weights()[FIRST].to_sparse()}) | {"t": torch.zeros(1)}


def _quantized() -> Any:
    import torch

    whole = torch.quantize_per_tensor(torch.ones(4, 1, 3, 3), 0.1, 0, torch.qint8)
    return {**material.weights(), FIRST: whole}


def _expanded() -> Any:
    import torch

    return {FIRST: torch.zeros(1).expand(2**20, 2**10, 3, 3)}


def _nan() -> Any:
    import torch

    return {**material.weights(), FIRST: torch.full((4, 1, 3, 3), float("nan"))}


def _zeros(*shape: int) -> Any:
    import torch

    return torch.zeros(shape)


def _meta() -> Any:
    import torch

    return {**material.weights(), FIRST: torch.empty((4, 1, 3, 3), device="meta")}


def _objects() -> Any:
    import numpy as np

    return {"a": np.array([{"a": 1}], dtype=object)}


def _numpy() -> Any:
    return {name: tensor.numpy() for name, tensor in material.weights().items()}


def _foreign(marker: str, *shape: int) -> Callable[[], Any]:
    """Weights that begin like another program's, and go on as nothing does."""
    return lambda: {marker: _zeros(*shape), "final_conv.weight": _zeros(1, 1, 1, 1, 1)}


CONTENTS: dict[str, Callable[[], Any]] = {
    "blocks without end": lambda: _weights(**{"down_blocks.999999999.conv1.weight": _zeros(1)}),
    "blocks of a googol": lambda: _weights(**{f"down_blocks.{10**100}.conv1.weight": _zeros(1)}),
    "blocks of many digits": lambda: _weights(**{f"down_blocks.{'9' * 5000}.x": _zeros(1)}),
    "names that are numbers": lambda: {1: _zeros(3)},
    "names of a megabyte": lambda: {"x" * 2**20: _zeros(3)},
    "names of control characters": lambda: {"\x1b[2J\x07" * 20: _zeros(3)},
    "thousands of tensors": lambda: {f"t{n}": _zeros(1) for n in range(5000)},
    "an object beside": lambda: {**_weights(), "epoch": 3},
    "dictionaries in dictionaries": lambda: {"state_dict": {"state_dict": {"a": {"b": 1}}}},
    "lists of tensors": lambda: [_zeros(3), _zeros(3)],
    "a tensor": lambda: _zeros(3, 3),
    "text": lambda: "weights",
    "nothing": lambda: {},
    "a scalar": _with(FIRST, lambda t: t.sum()),
    "an axis too many": _with(FIRST, lambda t: t[None, None]),
    "an axis too few": _with(FIRST, lambda t: t[0]),
    "no channels": lambda: _weights(**{FIRST: _zeros(4, 0, 3, 3)}),
    "no filters": lambda: _weights(**{FIRST: _zeros(0, 1, 3, 3)}),
    "no classes": lambda: _weights(**{"conv_final.weight": _zeros(0, 4, 1, 1)}),
    "other kernels": lambda: _weights(**{FIRST: _zeros(4, 1, 5, 5)}),
    "huge kernels of nothing": lambda: _weights(**{FIRST: _zeros(0, 2**30, 3, 3)}),
    "sparse": _sparse,
    "quantized": _quantized,
    "expanded": _expanded,
    "NaN": _nan,
    "on no device": _meta,
    "complex": _with(FIRST, lambda t: t.to(dtype=__import__("torch").complex64)),
    "booleans": _with(FIRST, lambda t: t.bool()),
    "integers": _with(FIRST, lambda t: t.long()),
    "infinite": _with(FIRST, lambda t: t / 0),
    "beyond float32": _with(FIRST, lambda t: t.double() * 1e300),
    "numpy arrays": _numpy,
    "numpy objects": _objects,
    "two networks": lambda: {"g": material.weights(), "d": material.weights()},
    "networks by prefix": lambda: {
        **{f"a.{n}": t for n, t in material.weights().items()},
        "b.other": _zeros(3),
    },
    "pytorch-3dunet of nothing": _foreign(
        "encoders.0.basic_module.SingleConv1.conv.weight", 0, 0, 0, 0, 0
    ),
    "pytorch-3dunet of a vector": _foreign("encoders.0.basic_module.SingleConv1.conv.weight", 3),
    "pytorch-3dunet without end": lambda: {
        f"encoders.{n}.basic_module.SingleConv1.conv.weight": _zeros(1, 1, 3, 3, 3)
        for n in (0, 10**9)
    },
    "residual of nothing": _foreign("encoders.0.basic_module.conv1.conv.weight", 0, 0, 3, 3, 3),
    "elektronn3 of nothing": _foreign("down_convs.0.conv1.weight", 0, 0, 0, 0, 0),
    "elektronn3 of a vector": _foreign("down_convs.0.conv1.weight", 3),
    "elektronn3 without end": lambda: {
        f"down_convs.{n}.conv1.weight": _zeros(1, 1, 3, 3, 3) for n in (0, 10**9)
    },
    "elektronn3 of one weight": _foreign("down_convs.0.conv1.weight", 2, 1, 3, 3, 3),
}
