"""Packages that load: what they say becomes what we predict with."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unetari import UNetConfig, load_model, predict
from unetari.core.network import ForeignConfig
from unetari.core.normalization import Normalization
from unetari.core.sizes import Reach, SizeRule
from unetari.errors import ConfigError, MissingExtraError, ModelFileError, UntrustedModelError
from unetari.model.formats.bioimageio.axes import Layout, combine
from unetari.model.formats.bioimageio.pointwise import from_package, to_package
from unetari.model.unet import UNet


def scores_of(package: Path, image: Any, tile: int, **options: Any) -> Any:
    model = load_model(package, **options)
    return predict(image, model, axes="YX", tile_shape=(tile, tile), scores=True).scores


def test_zip_folder_and_description_are_the_same_model(draft: Any, tmp_path: Path) -> None:
    archive = load_model(draft.zip(tmp_path / "package.zip"))
    folder = load_model(draft.folder(tmp_path / "package"))
    description = load_model(tmp_path / "package" / "rdf.yaml")
    assert archive.spec == folder.spec == description.spec
    assert archive.sha256 == hashlib.sha256((tmp_path / "package.zip").read_bytes()).hexdigest()
    assert folder.sha256 == description.sha256 != archive.sha256
    (tmp_path / "package" / "unrelated.txt").write_text("changes nothing")
    assert load_model(tmp_path / "package").sha256 == folder.sha256


def test_the_test_output_comes_out_of_tiles(draft: Any, tmp_path: Path) -> None:
    path = draft.zip(tmp_path / "package.zip")
    image = np.load(io.BytesIO(draft.files["test_input.npy"]))[0, 0]
    expected = np.load(io.BytesIO(draft.files["test_output.npy"]))[0]
    np.testing.assert_allclose(scores_of(path, image, 16), expected, atol=1e-5)
    assert any("is reproduced to" in note for note in load_model(path).notes)


def test_what_the_package_says_of_itself(draft: Any, tmp_path: Path) -> None:
    for tensor in (draft.input, draft.output):
        for axis in tensor["axes"][2:]:
            axis |= {"scale": 250.0, "unit": "nanometer"}
    spec = load_model(draft.zip(tmp_path / "package.zip")).spec
    assert spec.name == "one convolution"
    assert spec.authors == ("A. Author", "B. Author")
    assert spec.license == "MIT"
    assert spec.citations == ("A paper https://doi.org/10.1007/978-3-319-24574-4_28",)
    assert spec.tags == ("test", "nuclei")
    assert spec.class_names == ("background", "nucleus")
    assert spec.voxel_size == (0.25, 0.25)
    assert spec.normalization == Normalization(method="zscore", scope="frame", eps=1e-6)


def test_sizes_and_surroundings_are_measured(draft: Any, tmp_path: Path) -> None:
    del draft.output["axes"][3]["halo"]
    model = load_model(draft.zip(tmp_path / "package.zip"))
    assert isinstance(model.config, ForeignConfig)
    assert [reach.halo for reach in model.config.reach] == [1, 1]
    assert model.config.reach[0].rule.smallest == 8, "what is stated holds where it is stricter"
    assert model.config.origin == "measured"
    assert model.config.parameters == 10
    assert any("Along x it states that 0 voxels" in note for note in model.notes)


def test_what_the_caller_says_holds(draft: Any, tmp_path: Path) -> None:
    path = draft.zip(tmp_path / "package.zip")
    intensities = Normalization(method="none")
    model = load_model(path, normalization=intensities, class_names=("sea", "land"))
    assert model.spec.normalization == intensities
    assert model.spec.labels == ("sea", "land")
    with pytest.raises(ConfigError, match="in_channels=3 contradicts the file"):
        load_model(path, in_channels=3)


def test_a_missing_extra_is_named(
    draft: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bioimageio.spec", None)
    with pytest.raises(MissingExtraError, match=r'pip install "unetari\[bioimageio\]"'):
        load_model(draft.zip(tmp_path / "package.zip"))


def test_an_older_description(draft: Any, tmp_path: Path) -> None:
    """Version 0.4: axes as letters, shapes, files by name."""
    fields = {name: draft.fields[name] for name in ("type", "name", "description", "authors")}
    fields |= {name: draft.fields[name] for name in ("cite", "license", "tags", "timestamp")}
    fields |= {
        "format_version": "0.4.10",
        "documentation": "README.md",
        "test_inputs": ["test_input.npy"],
        "test_outputs": ["test_output.npy"],
        "inputs": [
            {
                "name": "raw",
                "axes": "bcyx",
                "data_type": "float32",
                "shape": {"min": [1, 1, 8, 8], "step": [0, 0, 4, 4]},
                "preprocessing": [
                    {
                        "name": "zero_mean_unit_variance",
                        "kwargs": {"mode": "per_sample", "axes": "cyx"},
                    }
                ],
            }
        ],
        "outputs": [
            {
                "name": "probability",
                "axes": "bcyx",
                "data_type": "float32",
                "shape": {
                    "reference_tensor": "raw",
                    "scale": [1, 1, 1, 1],
                    "offset": [0, 0, 0, 0],
                },
                "halo": [0, 0, 1, 1],
                "postprocessing": [{"name": "sigmoid"}],
            }
        ],
        "weights": {"onnx": {"source": "weights.onnx", "opset_version": 18}},
    }
    draft.fields = fields
    model = load_model(draft.zip(tmp_path / "package.zip"))
    assert isinstance(model.config, ForeignConfig)
    assert model.config.reach[0].rule == SizeRule(4, 8, 0)
    assert model.spec.normalization.scope == "frame"
    assert any("is reproduced to" in note for note in model.notes)


# What the scores mean


def test_scores_without_activation_are_taken_by_their_values(draft: Any, tmp_path: Path) -> None:
    draft.output["postprocessing"] = []
    model = load_model(draft.zip(tmp_path / "package.zip"))
    assert isinstance(model.config, ForeignConfig)
    assert (model.config.output, model.config.classes) == ("probabilities", "independent")
    assert any("its test output lies between 0 and 1" in note for note in model.notes)
    told = load_model(tmp_path / "package.zip", output="logits")
    assert isinstance(told.config, ForeignConfig)
    assert told.config.output == "logits"


def test_a_wrong_test_output_is_said(draft: Any, tmp_path: Path) -> None:
    draft.output["postprocessing"] = [{"id": "scale_linear", "kwargs": {"gain": 2.0}}]
    model = load_model(draft.zip(tmp_path / "package.zip"))
    assert any("is not reproduced" in note for note in model.notes)


def test_several_classes_by_softmax(draft: Any, tmp_path: Path) -> None:
    kernel = np.zeros((3, 1, 3, 3), np.float32)
    kernel[:, 0, 1, 1] = (1, 0, -1)
    draft.files["weights.onnx"] = _onnx(kernel, np.zeros(3, np.float32))
    draft.output["axes"][1]["channel_names"] = ["paper", "ink", "hole"]
    draft.output["postprocessing"] = [{"id": "softmax", "kwargs": {"axis": "channel"}}]
    del draft.input["test_tensor"], draft.output["test_tensor"]
    model = load_model(draft.zip(tmp_path / "package.zip"))
    assert isinstance(model.config, ForeignConfig)
    assert (model.config.output, model.config.classes) == ("logits", "exclusive")
    assert model.spec.labels == ("paper", "ink", "hole")
    assert any("could not be tested: it has no test tensors" in note for note in model.notes)
    image = np.array([[-5.0, 5.0] * 8] * 16, np.float32)
    assert set(np.unique(predict(image, model, axes="YX").labels)) == {0, 2}


def _onnx(kernel: Any, bias: Any) -> bytes:
    import onnx

    shape = ["n", kernel.shape[1], "h", "w"]
    node = onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    value = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "network",
        [onnx.helper.make_tensor_value_info("x", value, shape)],
        [onnx.helper.make_tensor_value_info("y", value, ["n", kernel.shape[0], "h", "w"])],
        [onnx.numpy_helper.from_array(kernel, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return bytes(model.SerializeToString())


# Weights


def test_programs_need_trust(draft: Any, torchscript: Callable[[], bytes], tmp_path: Path) -> None:
    draft.files["weights.pt"] = torchscript()
    draft.fields["weights"] = {"torchscript": {"source": "weights.pt", "pytorch_version": "2.6.0"}}
    path = draft.zip(tmp_path / "package.zip")
    with pytest.raises(UntrustedModelError, match=r"weights.pt .*SHA-256.*TorchScript") as caught:
        load_model(path)
    assert caught.value.sha256 == hashlib.sha256(draft.files["weights.pt"]).hexdigest()
    image = np.load(io.BytesIO(draft.files["test_input.npy"]))[0, 0]
    expected = np.load(io.BytesIO(draft.files["test_output.npy"]))[0]
    np.testing.assert_allclose(scores_of(path, image, 16, trust=True), expected, atol=1e-5)


def test_the_safest_weights_are_taken(
    draft: Any, torchscript: Callable[[], bytes], tmp_path: Path
) -> None:
    draft.files["weights.pt"] = torchscript()
    draft.fields["weights"] = {
        "torchscript": {"source": "weights.pt", "pytorch_version": "2.6.0"},
        "onnx": {"source": "weights.onnx", "opset_version": 18, "parent": "torchscript"},
    }
    model = load_model(draft.zip(tmp_path / "package.zip"), trust=True)
    assert isinstance(model.config, ForeignConfig)
    assert "ONNX" in model.config.architecture


CODE = """
from pathlib import Path
import torch

def make(marker, channels):
    Path(marker).write_text("code was run")
    return torch.nn.Conv2d(channels, 1, 3, padding=1)
"""


def with_code(draft: Any, marker: Path) -> None:
    network = torch.nn.Conv2d(1, 1, 3, padding=1)
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    architecture = {
        "source": "network.py",
        "callable": "make",
        "kwargs": {"marker": str(marker), "channels": 1},
    }
    entry = {"source": "weights.pth", "pytorch_version": "2.6.0", "architecture": architecture}
    draft.fields["weights"] = {"pytorch_state_dict": entry}
    draft.files |= {"weights.pth": stream.getvalue(), "network.py": CODE.encode()}


def test_code_runs_only_with_trust(draft: Any, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with_code(draft, marker)
    path = draft.zip(tmp_path / "package.zip")
    with pytest.raises(UntrustedModelError, match=r"Python code \(make of the file 'network.py'\)"):
        load_model(path)
    assert not marker.exists()
    model = load_model(path, trust=True)
    assert marker.exists()
    assert isinstance(model.config, ForeignConfig)
    assert "code of the package" in model.config.architecture


def test_code_of_another_hash_is_refused(draft: Any, tmp_path: Path) -> None:
    with_code(draft, tmp_path / "marker")
    architecture = draft.fields["weights"]["pytorch_state_dict"]["architecture"]
    architecture["sha256"] = "0" * 64
    with pytest.raises(ModelFileError, match=r"'network.py' is not the file that was described"):
        load_model(draft.zip(tmp_path / "package.zip"), trust=True)
    assert not (tmp_path / "marker").exists()


def test_a_known_network_needs_no_code(draft: Any, tmp_path: Path) -> None:
    config = UNetConfig(n_blocks=2, start_filters=4, out_channels=1, normalization="none")
    torch.manual_seed(0)
    network = UNet(config).eval()
    with_code(draft, tmp_path / "marker")
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    draft.files["weights.pth"] = stream.getvalue()
    image = np.load(io.BytesIO(draft.files["test_input.npy"]))
    scaled = torch.from_numpy((image - image.mean()) / (image.std() + 1e-6))
    with torch.no_grad():
        draft.files["test_output.npy"] = _npy(network(scaled).sigmoid().numpy())
    model = load_model(draft.zip(tmp_path / "package.zip"))
    assert isinstance(model.config, ForeignConfig)
    assert model.config.origin == "declared"
    assert model.config.reach[0].halo == Reach.of(config).halo
    assert not (tmp_path / "marker").exists()


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_our_own_network_needs_no_test_tensors(draft: Any, tmp_path: Path) -> None:
    config = UNetConfig(n_blocks=2, start_filters=4, out_channels=1, activation="elu")
    stream = io.BytesIO()
    torch.save(UNet(config).state_dict(), stream)
    architecture = {"import_from": "unetari", "callable": "UNet", "kwargs": dict(config)}
    entry = {"source": "weights.pth", "pytorch_version": "2.6.0", "architecture": architecture}
    draft.fields["weights"] = {"pytorch_state_dict": entry}
    draft.files["weights.pth"] = stream.getvalue()
    del draft.input["test_tensor"], draft.output["test_tensor"]
    model = load_model(draft.zip(tmp_path / "package.zip"))
    assert isinstance(model.config, ForeignConfig)
    assert model.config.origin == "declared"
    architecture["kwargs"] = {"n_blocks": 99}
    with pytest.raises(UntrustedModelError, match="of the library 'unetari'"):
        load_model(draft.zip(tmp_path / "package.zip"))


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (
            {"onnx": {"source": "https://example.com/weights.onnx", "opset_version": 18}},
            "onnx lies on a server .* and nothing is fetched",
        ),
        ({"onnx": {"source": "lost.onnx", "opset_version": 18}}, "onnx is not in the package"),
        (
            {"keras_hdf5": {"source": "weights.onnx", "tensorflow_version": "2.0"}},
            "keras_hdf5 needs TensorFlow",
        ),
        (
            {"onnx": {"source": "test_input.npy", "opset_version": 18}},
            "onnx cannot be used: It is no complete ONNX file",
        ),
    ],
)
def test_weights_that_cannot_be_used(
    draft: Any, tmp_path: Path, weights: dict[str, Any], reason: str
) -> None:
    draft.fields["weights"] = weights
    with pytest.raises(ModelFileError, match=f"None of its weights can be used: {reason}"):
        load_model(draft.zip(tmp_path / "package.zip"))


# Axes


@pytest.mark.parametrize("letters", ["ncyx", "nyxc", "yx", "cyx", "1cxy", "nczyx", "zyxc", "nzcxy"])
def test_axes_in_any_order(letters: str) -> None:
    layout = Layout(letters, 2 if "c" in letters else 1)
    sizes = {"n": 1, "c": layout.channels, "z": 3, "y": 4, "x": 5}
    image = torch.rand([1, layout.channels, *(sizes[axis] for axis in layout.space)])
    packaged = to_package(image, layout)
    assert list(packaged.shape) == [sizes.get(letter, 1) for letter in letters]
    assert torch.equal(from_package(packaged, layout), image)


def rule(multiple: int, smallest: int, *, halo: int = 0, largest: int | None = None) -> Reach:
    return Reach(SizeRule(multiple, smallest, 0), halo, 0, largest)


@pytest.mark.parametrize(
    ("declared", "measured", "expected"),
    [
        (rule(16, 64, halo=32), rule(8, 8, halo=48), rule(16, 64, halo=48)),
        (rule(1, 30, halo=8), rule(8, 8, halo=48), rule(8, 32, halo=48)),
        (rule(16, 64, halo=64), rule(8, 8, halo=48), rule(16, 64, halo=64)),
        (rule(1, 512, halo=32, largest=512), rule(8, 512, halo=48, largest=512),
         rule(8, 512, halo=48, largest=512)),
        (rule(1, 64, halo=0, largest=64), rule(8, 8, halo=16), rule(8, 64, halo=16, largest=64)),
        (rule(16, 33, halo=8), rule(16, 16, halo=32), rule(16, 16, halo=32)),
    ],
)  # fmt: skip
def test_the_stricter_of_stated_and_measured_counts(
    declared: Reach, measured: Reach, expected: Reach
) -> None:
    assert combine(declared, measured) == expected


# Real packages


@pytest.fixture(scope="module")
def nuclei(shared: Path) -> Path:
    return shared / "models" / "bioimageio_unet2d_nuclei_broad"


@pytest.mark.slow
def test_nuclei_broad_reproduces_its_test_output(nuclei: Path) -> None:
    image, expected = (np.load(nuclei / f"test_{name}.npy")[0, 0] for name in ("input", "output"))
    model = load_model(nuclei)
    assert isinstance(model.config, ForeignConfig)
    assert "ONNX" in model.config.architecture
    assert [reach.largest for reach in model.config.reach] == [512, 512]
    found = predict(image, model, axes="YX", scores=True).scores
    assert found is not None
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


@pytest.mark.slow
def test_nuclei_broad_reproduces_its_test_output_in_tiles(nuclei: Path, tmp_path: Path) -> None:
    import yaml

    # Without the ONNX weights, which take one size only.
    fields = yaml.safe_load((nuclei / "bioimageio.yaml").read_text())
    del fields["weights"]["onnx"]
    for axis in fields["inputs"][0]["axes"][2:]:
        axis["size"] = {"min": 80, "step": 8}
    path = tmp_path / "package.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rdf.yaml", yaml.safe_dump(fields))
        for name in ("weights.pt", "test_input.npy", "test_output.npy"):
            archive.write(nuclei / name, name)
    image, expected = (np.load(nuclei / f"test_{name}.npy")[0, 0] for name in ("input", "output"))
    found = scores_of(path, image, 256, trust=True)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_two_inputs_are_refused(shared: Path) -> None:
    path = shared / "models" / "bioimageio_unet2d_multi_tensor"
    with pytest.raises(ModelFileError, match=r"takes 2 images \(input0, input1\), and exactly one"):
        load_model(path)
