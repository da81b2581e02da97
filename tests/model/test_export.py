"""Export: read again by each format's own library, and by unetari, with the same result."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import unetari
from unetari.core.config import UNetConfig
from unetari.core.network import reach_of
from unetari.errors import ConfigError, ModelFileError, OutputExistsError
from unetari.inference.predict import Prediction, predict
from unetari.model.checkpoint import Model, load_model
from unetari.model.export import export_model
from unetari.model.kinds import ONNX, PT2, TORCHSCRIPT

Image = NDArray[np.float32]
Run = Callable[[Path, Image], Image]
PROGRAMS = (TORCHSCRIPT.key, PT2.key, ONNX.key)
SMALL = UNetConfig(n_blocks=2, start_filters=4)


def run_onnx(path: Path, image: Image) -> Image:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": image})
    return np.asarray(scores)


def run_torchscript(path: Path, image: Image) -> Image:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        network = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return np.asarray(network(torch.from_numpy(image)).numpy(force=True))


def run_pt2(path: Path, image: Image) -> Image:
    network = torch.export.load(path).module()
    return np.asarray(network(torch.from_numpy(image)).numpy(force=True))


def run_weights(weights: dict[str, Any], config: UNetConfig, image: Image) -> Image:
    network = unetari.UNet(config)
    network.load_state_dict(weights)
    return np.asarray(network.eval()(torch.from_numpy(image)).numpy(force=True))


def run_state_dict(path: Path, image: Image) -> Image:
    weights = torch.load(path, weights_only=True)
    return run_weights(weights, load_model("nuclei-2d").network.config, image)  # type: ignore[arg-type]


def run_safetensors(path: Path, image: Image) -> Image:
    import safetensors
    import safetensors.torch

    with safetensors.safe_open(path, framework="pt") as file:
        spec = json.loads(file.metadata()["spec"])
    return run_weights(safetensors.torch.load_file(path), UNetConfig(**spec["config"]), image)


LIBRARIES: dict[str, Run] = {
    "onnx": run_onnx,
    "torchscript": run_torchscript,
    "pt2": run_pt2,
    "state_dict": run_state_dict,
    "safetensors": run_safetensors,
}


def scores_of(prediction: Prediction) -> Image:
    assert prediction.scores is not None
    return prediction.scores


@pytest.fixture(scope="module")
def nuclei() -> Model:
    return load_model("nuclei-2d")


@pytest.fixture(scope="module")
def exported(nuclei: Model, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Export the bundled model, each format once."""
    folder = tmp_path_factory.mktemp("exported")
    done: dict[str, Path] = {}

    def export(key: str) -> Path:
        if key not in done:
            done[key] = export_model(nuclei, folder / key, key)
        return done[key]

    return export


@pytest.fixture(scope="module")
def photo(shared: Path) -> NDArray[Any]:
    """Return a real image, (Y, X)."""
    folder = shared / "data" / "dsb2018_fluo" / "images"
    image = iio.imread(sorted(folder.glob("*.png"))[0])
    return np.ascontiguousarray(image[..., 0] if image.ndim == 3 else image)


@pytest.mark.parametrize("key", LIBRARIES)
def test_its_own_library_gives_the_same(
    nuclei: Model, exported: Callable[[str], Path], photo: NDArray[Any], key: str
) -> None:
    for height, width in ((256, 256), (80, 136)):
        image = (photo[:height, :width] / 255).astype(np.float32)[None, None]
        expected = nuclei.network(torch.from_numpy(image)).numpy(force=True)
        found = LIBRARIES[key](exported(key), image)
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("key", LIBRARIES)
def test_unetari_predicts_the_same(
    nuclei: Model, exported: Callable[[str], Path], photo: NDArray[Any], key: str
) -> None:
    model = load_model(exported(key), trust=True)
    image = photo[:201, :147]
    options: dict[str, Any] = {"tile_shape": (128, 128), "scores": True}
    expected, found = predict(image, nuclei, **options), predict(image, model, **options)
    assert found.record.n_tiles == expected.record.n_tiles > 1
    np.testing.assert_allclose(scores_of(found), scores_of(expected), atol=1e-4)


@pytest.mark.parametrize("key", PROGRAMS)
def test_the_description_comes_along(
    nuclei: Model, exported: Callable[[str], Path], key: str
) -> None:
    model = load_model(exported(key), trust=True)
    assert model.notes == ()
    assert model.spec.replace(config=nuclei.spec.config) == nuclei.spec
    assert margins(model) == margins(nuclei)
    with pytest.raises(ConfigError, match="contradicts the file"):
        load_model(exported(key), trust=True, in_channels=2)


@pytest.mark.parametrize("key", PROGRAMS)
def test_no_folder_of_this_machine_is_written(exported: Callable[[str], Path], key: str) -> None:
    home = str(Path(unetari.__file__).parents[1]).encode()
    assert home not in exported(key).read_bytes()


def margins(model: Model) -> list[tuple[int, int]]:
    return [(reach.multiple, reach.margin) for reach in reach_of(model.spec.config)]


@pytest.mark.slow
@pytest.mark.parametrize("key", PROGRAMS)
@pytest.mark.parametrize(
    "config",
    [
        SMALL.replace(n_blocks=1),
        SMALL.replace(conv_mode="valid", up_mode="bilinear", activation="elu"),
        SMALL.replace(in_channels=2, normalization="instance", up_mode="bicubic"),
        SMALL.replace(dim=3, normalization="group2", up_mode="trilinear", activation="leaky"),
        SMALL.replace(dim=3, conv_mode="valid", out_channels=1),
    ],
    ids=lambda config: f"{config.dim}D-{config.conv_mode}-{config.normalization}-{config.up_mode}",
)
def test_every_kind_of_network(tmp_path: Path, key: str, config: UNetConfig) -> None:
    model = Model.build(config, seed=0)
    loaded = load_model(export_model(model, tmp_path / "m", key), trust=True)
    assert margins(loaded) == margins(model)
    rule = reach_of(config)[0].rule
    sizes = [rule.above(rule.smallest + (4 - axis) * rule.multiple) for axis in range(config.dim)]
    image = torch.randn((1, config.in_channels, *sizes))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(image), model.network(image), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("key", [*PROGRAMS, "state_dict"])
def test_networks_of_other_programs(shared: Path, tmp_path: Path, key: str) -> None:
    model = load_model(shared / "models" / "panseg_unet3d_checkpoint" / "best_checkpoint.pytorch")
    loaded = load_model(export_model(model, tmp_path / "m", key), trust=True)
    assert margins(loaded) == margins(model)
    image = iio.imread(shared / "data" / "bbbc050_mouse_embryo3d" / "images" / "Emb01_t151.tif")
    block = image[:24, :32, :40].astype(np.float32)
    batch = torch.from_numpy((block - block.mean()) / block.std())[None, None]
    with torch.inference_mode():
        found, expected = loaded.network(batch).sigmoid(), model.network(batch).sigmoid()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("key", PROGRAMS)
def test_what_was_exported_is_handed_on(
    exported: Callable[[str], Path], tmp_path: Path, key: str
) -> None:
    model = load_model(exported(key), trust=True)
    if key == ONNX.key:
        with pytest.raises(ModelFileError, match="no weights"):
            export_model(model, tmp_path / "m.pth", "state_dict")
        with pytest.raises(ModelFileError, match="Choose onnx"):
            export_model(model, tmp_path / "m", PT2.key)
        assert list(tmp_path.iterdir()) == []
        return
    again = load_model(export_model(model, tmp_path / "m", TORCHSCRIPT.key), trust=True)
    image = torch.randn((1, 1, 64, 48))
    assert again.spec == model.spec
    torch.testing.assert_close(again.network(image), model.network(image))


# Files


def small() -> Model:
    return Model.build(SMALL, seed=0)


@pytest.mark.parametrize(
    ("name", "to", "written"),
    [
        ("m", "safetensors", "m.safetensors"),
        ("m.safetensors", None, "m.safetensors"),
        ("m.v2.PTH", "state_dict", "m.v2.PTH"),
        ("m", "torchscript", "m.ts"),
        ("m.ts", None, "m.ts"),
    ],
)
def test_names(tmp_path: Path, name: str, to: str | None, written: str) -> None:
    assert export_model(small(), tmp_path / name, to) == tmp_path / written
    assert [path.name for path in tmp_path.iterdir()] == [written]


@pytest.mark.parametrize(
    ("name", "to", "error", "reason"),
    [
        ("m.pt", None, ConfigError, "torchscript, state_dict"),
        ("m", None, ConfigError, "safetensors, "),
        ("m.onnx", "keras", ConfigError, "no format"),
        ("m.onnx", "pt2", ModelFileError, "Use m.pt2"),
        ("nowhere/m.pt2", None, ModelFileError, "does not exist"),
    ],
)
def test_names_that_do_not_fit(
    tmp_path: Path, name: str, to: str | None, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        export_model(small(), tmp_path / name, to)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(b"the work of a week")
    with pytest.raises(OutputExistsError, match="not overwritten"):
        export_model(small(), path, "state_dict")
    assert path.read_bytes() == b"the work of a week"
    export_model(small(), path, "state_dict", overwrite=True)
    assert load_model(path).notes


@pytest.mark.parametrize("key", ["state_dict", "torchscript", "safetensors"])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    path = export_model(small(), tmp_path / "m", key)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ModelFileError, match="No space left"):
        export_model(small(), path, key, overwrite=True)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_useless_weights_are_not_written(tmp_path: Path) -> None:
    model = small()
    with torch.no_grad():
        next(model.network.parameters()).fill_(float("nan"))
    with pytest.raises(ModelFileError, match="NaN or infinite"):
        export_model(model, tmp_path / "m.ts")
    assert list(tmp_path.iterdir()) == []


# What is written beside a network


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change what unetari wrote into an ONNX file."""
    import onnx

    model = onnx.load(path)
    (entry,) = model.metadata_props
    content = json.loads(entry.value)
    spec = json.loads(content["spec"])
    change(spec)
    entry.value = json.dumps({**content, "spec": json.dumps(spec)})
    edited = path.with_name("edited.onnx")
    onnx.save(model, edited)
    return edited


def declare(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda spec: spec["config"].update(values)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (declare(conv_mode="valid"), "gives scores"),
        (declare(in_channels=3), "does not take"),
        (declare(n_blocks=99), "not valid"),
        (lambda spec: spec.clear() or spec.update(config={"architecture": "x"}), "not valid"),
    ],
)
def test_descriptions_that_are_not_true_are_refused(
    exported: Callable[[str], Path], change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    with pytest.raises(ModelFileError, match=reason):
        load_model(edit(exported("onnx"), change))


@pytest.mark.parametrize(
    "values",
    [
        {"halo": 2**40},
        {"halo": -8},
        {"trim": 2**30},
        {"largest": 1},
        {"rule": {"multiple": 0, "smallest": 8, "loss": 0}},
        {"rule": {"multiple": 8, "smallest": 2**50, "loss": 0}},
    ],
)
def test_sizes_that_cannot_be_are_refused(
    exported: Callable[[str], Path], values: dict[str, Any]
) -> None:
    config = load_model(exported("onnx")).spec.config.model_dump(mode="json")
    config["reach"] = [{**axis, **values} for axis in config["reach"]]
    with pytest.raises(ModelFileError, match="sizes that are written"):
        load_model(edit(exported("onnx"), lambda spec: spec.update(config=config)))


@pytest.mark.parametrize("normalization", ["group4", "instance"])
def test_statistics_of_large_images_are_exact(tmp_path: Path, normalization: str) -> None:
    """onnxruntime's own sums over a large image leave errors that whole networks enlarge."""
    import onnx

    config = SMALL.replace(dim=3, normalization=normalization)
    model = Model.build(config, seed=0)
    path = export_model(model, tmp_path / "m.onnx")
    assert "InstanceNormalization" not in {node.op_type for node in onnx.load(path).graph.node}
    image = 5 + torch.rand((1, 1, 32, 64, 96), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.network(image).numpy()
    np.testing.assert_allclose(run_onnx(path, image.numpy()), expected, atol=1e-4)


@pytest.mark.parametrize("to", ["pt2", "state_dict", "torchscript"])
def test_archives_do_not_tell_where_they_were_written(tmp_path: Path, to: str) -> None:
    model = Model.build(SMALL, seed=0)
    first, second = (export_model(model, tmp_path / name, to) for name in ("first", "second"))
    with zipfile.ZipFile(first) as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {"archive"}
    if to != "torchscript":  # which numbers the classes of a process
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_weights_of_unknown_networks_are_said_to_be_of_no_use_here(
    tmp_path: Path, exported: Callable[[str], Path]
) -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 1))
    torch.jit.save(torch.jit.trace(layers.eval(), torch.zeros(1, 1, 8, 8)), tmp_path / "m.ts")  # type: ignore[no-untyped-call]
    notes: list[str] = []
    foreign = load_model(tmp_path / "m.ts", trust=True)
    export_model(foreign, tmp_path / "m.pth", "state_dict", on_note=notes.append)
    assert len(notes) == 1
    assert "cannot open it" in notes[0]
    ours = load_model(exported("torchscript"), trust=True)
    export_model(ours, tmp_path / "ours.pth", "state_dict", on_note=notes.append)
    assert len(notes) == 1, "unetari knows these weights"
