"""ONNX: what is opened through onnxruntime, and what is refused before it gets there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from unetari.core.network import ForeignConfig
from unetari.errors import MissingExtraError, ModelFileError
from unetari.inference.predict import Prediction, predict
from unetari.model.checkpoint import Model, load_model
from unetari.model.formats import onnx_checks
from unetari.model.formats.onnx_session import OnnxNetwork

Shape = tuple[int | str, ...]
OPEN: Shape = ("n", 1, "y", "x")
RNG = np.random.default_rng(0)
KERNEL = numpy_helper.from_array(RNG.normal(size=(3, 1, 5, 5)).astype(np.float32), "kernel")
CONVOLUTION = helper.make_node("Conv", ["image", "kernel"], ["scores"], pads=[2, 2, 2, 2])


def value(name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def make(
    nodes: Iterable[Any] = (CONVOLUTION,),
    *,
    shape: Shape = OPEN,
    inputs: Iterable[Any] | None = None,
    outputs: Iterable[Any] | None = None,
    weights: Iterable[Any] = (KERNEL,),
    opset: int = 18,
) -> Any:
    inputs = [value("image", shape)] if inputs is None else list(inputs)
    outputs = [value("scores", (shape[0], 3, *shape[2:]))] if outputs is None else list(outputs)
    graph = helper.make_graph(list(nodes), "network", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Any], Path]:
    def write(model: Any) -> Path:
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


Save = Callable[[Any], Path]


def scores_of(prediction: Prediction) -> NDArray[np.float32]:
    assert prediction.scores is not None
    return prediction.scores


def config_of(model: Model) -> ForeignConfig:
    assert isinstance(model.spec.config, ForeignConfig)
    return model.spec.config


def expected(image: torch.Tensor) -> torch.Tensor:
    kernel = torch.from_numpy(numpy_helper.to_array(KERNEL).copy())
    return torch.nn.functional.conv2d(image, kernel, padding=2)


# What is opened


def test_open_sizes_are_measured(save: Save) -> None:
    model = load_model(save(make()))
    config = config_of(model)
    assert (config.dim, config.in_channels, config.out_channels) == (2, 1, 3)
    assert {(reach.multiple, reach.halo, reach.largest) for reach in config.reach} == {(1, 2, None)}
    assert (config.classes, config.output, config.tiles_exactly) == ("exclusive", "logits", True)
    assert config.parameters == 75
    assert model.sha256 == load_model(model.source).sha256


def test_gives_what_the_graph_says(save: Save) -> None:
    network = load_model(save(make())).network
    image = torch.randn((2, 1, 21, 34))
    with torch.inference_mode():
        torch.testing.assert_close(network(image), expected(image), atol=1e-4, rtol=0)
        torch.testing.assert_close(network(image.double()), expected(image), atol=1e-4, rtol=0)


def test_tiles_give_what_one_pass_gives(save: Save) -> None:
    model = load_model(save(make()))
    image = RNG.random((61, 83))
    tiled = predict(image, model, tile_shape=(24, 24), scores=True)
    whole = predict(image, model, scores=True)
    assert tiled.record.n_tiles > 4
    np.testing.assert_allclose(scores_of(tiled), scores_of(whole), atol=1e-6)


def test_a_fixed_size_is_planned_with(save: Save) -> None:
    model = load_model(save(make(shape=(1, 1, 32, 48))))
    assert [reach.largest for reach in config_of(model).reach] == [32, 48]
    image = RNG.random((61, 83))
    tiled = predict(image, model, scores=True)
    assert tiled.record.tile_shape == (32, 48)
    whole = predict(image, load_model(save(make())), scores=True)
    np.testing.assert_allclose(scores_of(tiled), scores_of(whole), atol=1e-6)


def test_three_dimensions(save: Save) -> None:
    kernel = numpy_helper.from_array(RNG.normal(size=(2, 3, 3, 3, 3)).astype(np.float32), "kernel")
    node = helper.make_node("Conv", ["image", "kernel"], ["scores"], pads=[1] * 6)
    shape: Shape = ("n", "c", "z", "y", "x")
    config = config_of(load_model(save(make([node], shape=shape, weights=[kernel]))))
    assert (config.dim, config.in_channels, config.out_channels) == (3, 3, 2)


def test_half_precision(save: Save) -> None:
    kernel = numpy_helper.from_array(numpy_helper.to_array(KERNEL).astype(np.float16), "kernel")
    kind = TensorProto.FLOAT16
    graph = make(
        inputs=[value("image", OPEN, kind)],
        outputs=[value("scores", ("n", 3, "y", "x"), kind)],
        weights=[kernel],
    )
    path = save(graph)
    network = OnnxNetwork(_program(path))
    image = torch.randn((1, 1, 16, 16))
    assert network(image).dtype == torch.float32
    torch.testing.assert_close(network(image), expected(image), atol=0.05, rtol=0)


def _program(path: Path) -> Any:
    from unetari.model.formats.onnx_file import make_program

    return make_program(path, onnx_checks.read_graph(path))


def test_copies_share_their_sessions(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = importlib.import_module("onnxruntime")
    network = load_model(save(make())).network
    image = torch.randn((1, 1, 8, 8))
    opened: list[int] = []
    original = runtime.InferenceSession

    def count(source: Any, options: Any, **given: Any) -> Any:
        opened.append(options.intra_op_num_threads)
        return original(source, options, **given)

    monkeypatch.setattr(runtime, "InferenceSession", count)
    copy = deepcopy(network)
    assert copy is not network
    assert torch.equal(copy(image), network(image))
    assert not opened
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        copy(image)
        network(image)
    finally:
        torch.set_num_threads(before)
    assert opened == [before + 1]


def test_every_gpu_has_a_session_of_its_own(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = importlib.import_module("onnxruntime")
    program = _program(save(make()))
    gpu = "CUDAExecutionProvider"
    monkeypatch.setattr(runtime, "get_available_providers", lambda: [gpu])
    opened: list[Any] = []

    def open_session(*_: Any, providers: list[Any]) -> object:
        opened.extend(providers)
        return object()

    monkeypatch.setattr(runtime, "InferenceSession", open_session)
    devices = ["cuda:0", "cuda:1", "cuda:1", "cuda"]
    sessions = [program.session(torch.device(name)) for name in devices]
    assert opened == [(gpu, {"device_id": 0}), (gpu, {"device_id": 1})]
    assert sessions[1] is sessions[2] is not sessions[0] is sessions[3]


def test_weights_in_a_file_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(make(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").is_file()
    image = torch.randn((1, 1, 8, 8))
    model = load_model(path)
    torch.testing.assert_close(model.network(image), expected(image), atol=1e-4, rtol=0)
    other = -numpy_helper.to_array(KERNEL)
    (tmp_path / "w.bin").write_bytes(other.tobytes())
    assert load_model(path).sha256 != model.sha256


def test_without_the_package_the_extra_is_named(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(make())

    original = importlib.import_module

    def missing(name: str) -> Any:
        if name == "onnx":
            raise ModuleNotFoundError(name)
        return original(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"unetari\[onnx\]"):
        load_model(path)


@pytest.mark.slow
def test_bioimageio_onnx(shared: Path) -> None:
    folder = shared / "models" / "bioimageio_unet2d_nuclei_broad"
    model = load_model(folder / "weights.onnx")
    assert [reach.largest for reach in config_of(model).reach] == [512, 512]
    image = np.load(folder / "test_input.npy")
    image = (image - image.mean()) / image.std()
    scores = model.network(torch.from_numpy(image)).sigmoid().numpy(force=True)
    np.testing.assert_allclose(scores, np.load(folder / "test_output.npy"), atol=1e-4)


# What is refused


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (make(shape=(4, 1, "y", "x")), "exactly 4 images"),
        (make(shape=("n", 1, "x")), "has 3 axes"),
        (make(inputs=[value("image", OPEN), value("mask", OPEN)]), "2 inputs"),
        (make(inputs=[]), "0 inputs"),
        (make(outputs=[value("scores", OPEN), value("kernel", (3, 1, 5, 5))]), "2 outputs"),
        (make(inputs=[value("image", OPEN, TensorProto.UINT8)]), "onnxruntime"),
        (make(opset=9999), "version 9999"),
        (make([helper.make_node("Strange", ["image"], ["scores"])]), "onnxruntime"),
        (make([helper.make_node("A", ["image"], ["scores"], domain="other")]), "onnxruntime"),
        (make([helper.make_node("ArgMax", ["image"], ["scores"])]), "onnxruntime|int64"),
    ],
)
def test_graphs_that_are_no_network_for_images(save: Save, model: Any, reason: str) -> None:
    path = save(model)
    with pytest.raises(ModelFileError, match=reason) as refusal:
        load_model(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "content", [b"\x08\x0a", b"no protobuf", b"\x08\x0a\x12\x07pytorch", b"\x08\x0a\x12\xff\xff"]
)
def test_what_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="no complete ONNX file"):
        load_model(path)


def test_damaged(save: Save) -> None:
    content = make().SerializeToString()
    path = save(make())
    for end in range(2, len(content), 23):
        path.write_bytes(content[:end])
        with pytest.raises(ModelFileError):
            load_model(path)
    for start in range(0, len(content), 31):
        path.write_bytes(content[:start] + bytes(8) + content[start + 8 :])
        try:
            load_model(path)  # what was damaged may not matter
        except ModelFileError as error:
            assert str(path) in str(error)  # noqa: PT017 (it may also load)


def endless() -> Any:
    """A loop that goes on while its condition holds, which is always."""
    yes = numpy_helper.from_array(np.array(True), "yes")
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["again"], ["still"]),
            helper.make_node("Identity", ["before"], ["after"]),
        ],
        "body",
        [
            value("count", (), TensorProto.INT64),
            value("again", (), TensorProto.BOOL),
            value("before", OPEN),
        ],
        [value("still", (), TensorProto.BOOL), value("after", OPEN)],
    )
    loop = helper.make_node("Loop", ["", "yes", "image"], ["scores"], body=body)
    return loop, yes


def test_loops_are_refused(save: Save) -> None:
    loop, yes = endless()
    with pytest.raises(ModelFileError, match="holds a Loop"):
        load_model(save(make([loop], weights=[yes])))
    branch = helper.make_graph([loop], "branch", [], [value("scores", OPEN)])
    node = helper.make_node("If", ["yes"], ["scores"], then_branch=branch, else_branch=branch)
    with pytest.raises(ModelFileError, match="holds a Loop"):
        load_model(save(make([node], weights=[yes])))


def test_tensors_that_claim_terabytes_are_refused(save: Save) -> None:
    model = make()
    model.graph.initializer[0].dims[:] = [2**20, 2**20, 5, 5]
    with pytest.raises(ModelFileError, match="claims 27,487,790,694,400 values"):
        load_model(save(model))
    model.graph.initializer[0].dims[:] = [-1, 1, 5, 5]
    with pytest.raises(ModelFileError, match="negative"):
        load_model(save(model))


def sizes(*numbers: int) -> Any:
    return numpy_helper.from_array(np.array(numbers, np.int64), "sizes")


@pytest.mark.parametrize(
    ("operator", "inputs", "shape"),
    [
        ("ConstantOfShape", ["sizes"], sizes(2**20, 2**20)),
        ("Expand", ["image", "sizes"], sizes(1, 1, 2**20, 2**20)),
        ("Tile", ["image", "sizes"], sizes(1, 1, 2**16, 2**16)),
        ("Resize", ["image", "", "", "sizes"], sizes(1, 1, 2**20, 2**20)),
    ],
)
def test_operators_that_fill_the_memory_are_refused(
    save: Save, operator: str, inputs: list[str], shape: Any
) -> None:
    node = helper.make_node(operator, inputs, ["large"])
    add = helper.make_node("Add", ["large", "image"], ["scores"])
    with pytest.raises(ModelFileError, match=f"{operator}.* would make"):
        load_model(save(make([node, add], weights=[shape])))


def external(location: str, **entries: object) -> Any:
    model = make()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, **entries}.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=str(text)))
    return model


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "..\\secret.bin", "C:\\a", ""],
)
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(300))
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    path = folder / "m.onnx"
    path.write_bytes(external(location).SerializeToString())
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        load_model(path)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(300))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    path = folder / "m.onnx"
    path.write_bytes(external("w.bin").SerializeToString())
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        load_model(path)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"length": 400}, "do not belong together"),
        ({"offset": -1}, "do not belong together"),
        ({"offset": "many"}, "no valid part"),
        ({"length": 4}, "claims 75 values"),
    ],
)
def test_parts_that_are_not_there(
    save: Save, tmp_path: Path, entries: dict[str, object], reason: str
) -> None:
    path = save(external("w.bin", **entries))
    with pytest.raises(ModelFileError, match="missing"):
        load_model(path)
    (tmp_path / "w.bin").write_bytes(bytes(300))
    with pytest.raises(ModelFileError, match=reason):
        load_model(path)
