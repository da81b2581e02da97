"""Models: built, saved, loaded, by path and by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from unetari.core.config import UNetConfig
from unetari.core.normalization import Normalization
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError, ModelFileError, OutOfMemoryError, OutputExistsError
from unetari.model.checkpoint import Model, bundled_models, load_model, save_model
from unetari.model.unet import UNet

CONFIG = UNetConfig(n_blocks=2, start_filters=2, activation="elu", conv_mode="valid")


@pytest.fixture
def model() -> Model:
    return Model.build(
        CONFIG,
        normalization=Normalization(method="zscore"),
        class_names=("background", "nucleus"),
        seed=1,
    )


def same_weights(one: Model, other: Model) -> bool:
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_round_trip(model: Model, tmp_path: Path) -> None:
    path = save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(path)
    assert loaded.spec == model.spec
    assert same_weights(loaded, model)
    assert loaded.sha256 == model.sha256
    assert loaded.source == str(path)
    assert loaded.notes == ()
    assert not loaded.network.training
    assert all(parameter.requires_grad for parameter in loaded.network.parameters())


def test_round_trip_of_a_model_card(model: Model, tmp_path: Path) -> None:
    card = {
        "name": "nuclei-2d",
        "description": "Zellkerne, 細胞核",
        "voxel_size": (0.5, 0.25),
        "authors": ("A", "B"),
        "license": "CC0-1.0",
        "data_credit": "somebody",
        "training": {"iou": 0.93, "options": {"lr": 1e-3}},
    }
    described = model.replace(**card)
    assert load_model(save_model(described, tmp_path / "m")).spec == described.spec


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    paths = [
        save_model(Model.build(CONFIG, seed=3), tmp_path / f"{number}") for number in range(20)
    ]
    assert len({path.read_bytes() for path in paths}) == 1


def test_hash_changes_with_weights_and_spec(model: Model) -> None:
    assert Model.build(CONFIG, seed=1).sha256 == Model.build(CONFIG, seed=1).sha256
    assert Model.build(CONFIG, seed=2).sha256 != Model.build(CONFIG, seed=1).sha256
    assert model.replace(normalization=Normalization()).sha256 != model.sha256


def test_build_is_repeatable_and_leaves_the_random_state(model: Model) -> None:
    before = torch.get_rng_state()
    again = Model.build(CONFIG, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert same_weights(again, model)
    assert "untrained" in again.notes[0]
    assert again.source == "built in memory"


def test_network_and_spec_must_agree() -> None:
    with pytest.raises(ConfigError, match="n_blocks=3"):
        Model.from_network(UNet(CONFIG), ModelSpec(config=UNetConfig(n_blocks=3)))


def test_network_with_other_memory_layout_is_saved(model: Model, tmp_path: Path) -> None:
    before = model.sha256
    for parameter in model.network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    loaded = load_model(save_model(model, tmp_path / "m"))
    assert loaded.sha256 == before


def test_loaded_network_does_not_depend_on_the_file(model: Model, tmp_path: Path) -> None:
    path = save_model(model, tmp_path / "m")
    loaded = load_model(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert same_weights(loaded, model)


def test_suffix_is_added(model: Model, tmp_path: Path) -> None:
    assert save_model(model, tmp_path / "mine") == tmp_path / "mine.safetensors"


def test_nothing_is_overwritten_unasked(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_text("precious")
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        save_model(model, path)
    assert path.read_text() == "precious"
    save_model(model, path, overwrite=True)
    assert load_model(path).sha256 == model.sha256
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_failed_save_leaves_the_old_file(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_model(model, tmp_path / "m")
    before = path.read_bytes()

    def fail(*_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ModelFileError, match="No space left"):
        save_model(model.replace(name="new"), path, overwrite=True)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_diverged_weights_are_not_saved(model: Model, tmp_path: Path) -> None:
    model.network.state_dict()["conv_final.bias"][0] = float("nan")
    with pytest.raises(ModelFileError, match=r"conv_final\.bias"):
        save_model(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_bare_network_is_refused_with_the_way_to_a_model(tmp_path: Path) -> None:
    network = UNet(CONFIG)
    with pytest.raises(ConfigError, match=r"bare UNet, .* Model\.from_network"):
        save_model(network, tmp_path / "m")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"bare UNet, .* Model\.from_network"):
        load_model(network)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model is None, .* must be a Model\. "):
        save_model(None, tmp_path / "m")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"model is 3, .* a path or the name"):
        load_model(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("m.pt", r"m\.safetensors"),
        ("none/m.safetensors", "does not exist"),
        ("d.safetensors", "folder"),
    ],
)
def test_bad_targets(model: Model, tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(ModelFileError, match=reason):
        save_model(model, tmp_path / name)


def test_bundled_models_load_by_name(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    save_model(model, tmp_path / "models" / "beta")
    save_model(model, tmp_path / "models" / "alpha")
    (tmp_path / "models" / "README.md").write_text("not a model")
    monkeypatch.setattr("unetari.model.bundled.resources.files", lambda _: tmp_path)
    assert bundled_models() == ("alpha", "beta")
    loaded = load_model("alpha")
    assert loaded.source == "alpha"
    assert loaded.sha256 == model.sha256
    with pytest.raises(ModelFileError, match="bundled models: alpha, beta"):
        load_model("gamma")


def test_every_bundled_model_is_complete() -> None:
    for name in bundled_models():
        loaded = load_model(name)
        assert loaded.notes == ()
        assert loaded.spec.name == name
        assert loaded.spec.license
        assert loaded.spec.data_credit
        assert loaded.spec.class_names


def test_listing_bundled_models_needs_no_torch() -> None:
    code = (
        "import sys; from unetari.model.bundled import bundled_models; bundled_models();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"activation": "relu"}, "says activation='elu'"),
        ({"normalization": "instance"}, "says normalization='batch'"),
        ({"activations": "relu"}, "activations='relu': unknown option"),
        ({"activation": "gelu"}, "activation='gelu'"),
        ({"class_names": ("one", "two", "three")}, "class_names has 3"),
    ],
)
def test_options_that_contradict_are_refused(
    model: Model, tmp_path: Path, option: dict[str, Any], reason: str
) -> None:
    path = save_model(model, tmp_path / "m")
    with pytest.raises(ConfigError, match=reason):
        load_model(path, **option)


def test_options_that_describe_replace_the_spec(model: Model, tmp_path: Path) -> None:
    path = save_model(model, tmp_path / "m")
    intensity = Normalization(method="minmax")
    loaded = load_model(path, normalization=intensity, class_names=("no", "yes"), activation="elu")
    assert loaded.spec.normalization == intensity
    assert loaded.spec.labels == ("no", "yes")


def test_a_seed_leaves_other_random_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeds.append)
    before = torch.get_rng_state()
    Model.build(CONFIG, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert seeds == []


def test_a_network_too_large_for_the_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetari.model.summary.free_host_memory", lambda: 2**20)
    with pytest.raises(OutOfMemoryError, match="n_blocks=4 and start_filters=32 make 1,971,554"):
        Model.build()
