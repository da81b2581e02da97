"""A small package, made by hand: one 3x3 convolution, whose results torch tells."""

from __future__ import annotations

import copy
import hashlib
import io
import socket
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pydantic
import pytest
import torch
from numpy.typing import NDArray
from packaging.version import Version


@pytest.fixture(autouse=True, scope="session")
def needs_the_extra() -> None:
    """Skip what cannot work here."""
    for package in ("yaml", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    spec = pytest.importorskip("bioimageio.spec")
    is_new = Version(pydantic.VERSION) >= Version("2.14")
    if is_new and Version(spec.__version__) < Version("0.5.13"):
        pytest.skip("bioimageio.spec before 0.5.13 fails with pydantic 2.14")


KERNEL = np.array([[[[0.1, 0.2, -0.1], [0.3, 1.5, 0.2], [-0.2, 0.1, 0.4]]]], np.float32)
BIAS = np.array([-0.3], np.float32)


def onnx_of(kernel: NDArray[np.float32], bias: NDArray[np.float32], *, pads: int = 1) -> bytes:
    """An ONNX file with one convolution."""
    import onnx

    helper = onnx.helper
    dim = kernel.ndim - 2
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[pads] * 2 * dim)
    names = [None] * dim
    value = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "network",
        [helper.make_tensor_value_info("x", value, [1, kernel.shape[1], *names])],
        [helper.make_tensor_value_info("y", value, [1, kernel.shape[0], *names])],
        [
            onnx.numpy_helper.from_array(kernel, "w"),
            onnx.numpy_helper.from_array(bias, "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


@dataclass
class Draft:
    """A package that is not written yet."""

    fields: dict[str, Any]
    files: dict[str, bytes]
    hashed: bool = True
    name: str = "rdf.yaml"
    extra: dict[str, bytes] = field(default_factory=dict)

    def copy(self) -> Draft:
        return copy.deepcopy(self)

    @property
    def input(self) -> dict[str, Any]:
        found: dict[str, Any] = self.fields["inputs"][0]
        return found

    @property
    def output(self) -> dict[str, Any]:
        found: dict[str, Any] = self.fields["outputs"][0]
        return found

    def _contents(self) -> dict[str, bytes]:
        import yaml

        fields = copy.deepcopy(self.fields)
        if self.hashed:
            _add_hashes(fields, self.files)
        return {self.name: yaml.safe_dump(fields).encode(), **self.files, **self.extra}

    def zip(self, path: Path) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in self._contents().items():
                archive.writestr(name, content)
        return path

    def folder(self, path: Path) -> Path:
        path.mkdir(parents=True)
        for name, content in self._contents().items():
            (path / name).write_bytes(content)
        return path


def _add_hashes(value: Any, files: dict[str, bytes]) -> None:
    """State the hash of every file that is there and has none stated."""
    if isinstance(value, dict):
        content = files.get(str(value.get("source", "")))
        if content is not None:
            value.setdefault("sha256", hashlib.sha256(content).hexdigest())
        for inner in value.values():
            _add_hashes(inner, files)
    elif isinstance(value, list):
        for inner in value:
            _add_hashes(inner, files)


def example() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A test image, (1, 1, Y, X), and what the network makes of it."""
    image = np.random.default_rng(0).gamma(2, 300, (1, 1, 40, 48)).astype(np.float32)
    scaled = (image - image.mean()) / (image.std() + 1e-6)
    logits = torch.nn.functional.conv2d(
        torch.from_numpy(scaled), torch.from_numpy(KERNEL), torch.from_numpy(BIAS), padding=1
    )
    return image, logits.sigmoid().numpy()


def space(name: str, size: Any) -> dict[str, Any]:
    return {"type": "space", "id": name, "size": size}


def same(name: str, offset: int = 0) -> dict[str, Any]:
    return {"tensor_id": "raw", "axis_id": name, "offset": offset}


@pytest.fixture
def draft() -> Draft:
    """A package with ONNX weights and test tensors."""
    image, scores = example()
    sizes = {"min": 8, "step": 1}
    fields = {
        "type": "model",
        "format_version": "0.5.4",
        "name": "one convolution",
        "description": "A network for tests.",
        "authors": [{"name": "A. Author"}, {"name": "B. Author"}],
        "cite": [{"text": "A paper", "doi": "10.1007/978-3-319-24574-4_28"}],
        "license": "MIT",
        "tags": ["test", "nuclei"],
        "timestamp": "2026-01-01T00:00:00",
        "inputs": [
            {
                "id": "raw",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["dapi"]},
                    space("y", sizes),
                    space("x", sizes),
                ],
                "test_tensor": {"source": "test_input.npy"},
                "preprocessing": [
                    {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}
                ],
            }
        ],
        "outputs": [
            {
                "id": "probability",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["nucleus"]},
                    {**space("y", same("y")), "halo": 1},
                    {**space("x", same("x")), "halo": 1},
                ],
                "test_tensor": {"source": "test_output.npy"},
                "postprocessing": [{"id": "sigmoid"}],
            }
        ],
        "weights": {"onnx": {"source": "weights.onnx", "opset_version": 18}},
    }
    files = {
        "weights.onnx": onnx_of(KERNEL, BIAS),
        "test_input.npy": npy(image),
        "test_output.npy": npy(scores),
    }
    return Draft(fields, files)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where anything is looked up or fetched."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        pytest.fail("something was looked up on the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def nothing_left_over(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fail where a temporary file stays."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield
    # torch keeps a cache of its own there.
    left = [path.name for path in folder.iterdir() if not path.name.startswith("torchinductor")]
    assert not left, f"left over: {left}"


@pytest.fixture
def torchscript() -> Callable[[], bytes]:
    """Weights as a program."""

    def make() -> bytes:
        network = torch.nn.Conv2d(1, 1, 3, padding=1).eval()
        network.load_state_dict(
            {"weight": torch.from_numpy(KERNEL), "bias": torch.from_numpy(BIAS)}
        )
        stream = io.BytesIO()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own advice to use torch.export
            program = torch.jit.trace(network, torch.zeros(1, 1, 16, 16))  # type: ignore[no-untyped-call]
            torch.jit.save(program, stream)
        return stream.getvalue()

    return make
