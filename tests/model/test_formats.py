"""File formats: options from weights, and every way a file can be wrong."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import socket
import zipfile
from collections.abc import Callable
from contextlib import chdir, suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from unetari.core.config import UP_MODES, UNetConfig
from unetari.core.normalization import Normalization
from unetari.errors import ConfigError, ModelFileError
from unetari.model.checkpoint import Model, load_model, save_model
from unetari.model.notes import Assumed
from unetari.model.unet import UNet

SMALL = UNetConfig(n_blocks=2, start_filters=4)
Weights = dict[str, Tensor]


def weights_of(config: UNetConfig = SMALL) -> Weights:
    return dict(UNet(config).state_dict())


def save_pt(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def save_bare(weights: Weights, path: Path) -> Path:
    path.write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
    return path


@pytest.fixture(params=["model.pt", "model.safetensors"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Weights], Path]:
    writer = save_pt if request.param.endswith("pt") else save_bare
    return lambda weights: writer(weights, tmp_path / request.param)


# Options from the weights alone


@pytest.mark.parametrize(("dim", "up_mode"), [(d, m) for d in UP_MODES for m in UP_MODES[d]])
def test_told_by_the_weights(tmp_path: Path, dim: int, up_mode: str) -> None:
    for normalization, n_blocks in product(["none", "batch", "instance", "group2"], [1, 2, 3]):
        config = UNetConfig(
            in_channels=3,
            out_channels=5,
            n_blocks=n_blocks,
            start_filters=6,
            normalization=normalization,
            dim=dim,
            up_mode=up_mode if n_blocks > 1 else "transposed",
        )
        # What weights cannot tell is given; what they can tell must need no option.
        options: dict[str, Any] = {"activation": "relu", "conv_mode": "same"}
        options["block_order"] = "conv-act-norm"
        if normalization != "batch":
            options["normalization"] = normalization
        if config.up_mode != "transposed":
            options["up_mode"] = up_mode
        model = load_model(save_pt(weights_of(config), tmp_path / "m.pt"), **options)
        assert model.spec.config == config
        assert len(model.notes) == 1
        assert "Intensity normalization is assumed" in model.notes[0]


def test_what_is_assumed_is_said(save: Callable[[Weights], Path]) -> None:
    config = UNetConfig(n_blocks=2, start_filters=12, normalization="group3", up_mode="bicubic")
    model = load_model(save(weights_of(config)))
    assert model.spec.config == config.replace(normalization="group4", up_mode="nearest")
    said = " ".join(model.notes)
    for assumption in ("activation='relu'", "conv_mode='same'", "'group4'", "up_mode='nearest'"):
        assert f"{assumption} is assumed" in said or f"={assumption} is assumed" in said
    assert "'group3'" in said
    assumed = {note.option: note.choices for note in model.notes if isinstance(note, Assumed)}
    assert len(assumed) == len(model.notes)
    assert assumed["conv_mode"] == ("same", "valid")
    assert assumed["normalization"][0] == "group4"
    assert "group3" in assumed["normalization"]


def test_weights_without_normalization(save: Callable[[Weights], Path]) -> None:
    path = save(weights_of(SMALL.replace(normalization="instance")))
    assert load_model(path).spec.config.normalization == "none"
    assert load_model(path, normalization="instance").spec.config.normalization == "instance"


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ({"up_mode": "nearest"}, "transposed"),
        ({"normalization": "instance"}, "batch"),
        ({"normalization": "group2"}, "batch"),
    ],
)
def test_options_against_the_weights(tmp_path: Path, option: dict[str, Any], choices: str) -> None:
    path = save_pt(weights_of(), tmp_path / "m.pt")
    with pytest.raises(ConfigError, match=f"contradicts the weights, which allow {choices}"):
        load_model(path, **option)


def test_described_by_options(save: Callable[[Weights], Path]) -> None:
    intensity = Normalization(method="range", low=0, high=255)
    model = load_model(save(weights_of()), normalization=intensity, class_names=("a", "b"))
    assert model.spec.normalization == intensity
    assert model.spec.labels == ("a", "b")
    assert not any("Intensity" in note for note in model.notes)


# Ways that files are saved


def halve(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"epoch": 3, "model_state_dict": weights, "loss": [0.1]},
        lambda weights: {"state_dict": weights},
        lambda weights: {"model": weights, "epoch": 3},
        lambda weights: {name: tensor.double() for name, tensor in weights.items()},
        lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {name: halve(tensor) for name, tensor in weights.items()},
        lambda weights: {
            name: torch.nn.Parameter(t, t.is_floating_point()) for name, t in weights.items()
        },
    ],
    ids=["model_state_dict", "state_dict", "model", "all double", "module", "half", "parameters"],
)
def test_variants_of_state_dicts(tmp_path: Path, wrap: Callable[[Weights], Any]) -> None:
    weights = {name: halve(tensor).to(tensor.dtype) for name, tensor in weights_of().items()}
    model = load_model(save_pt(wrap(weights), tmp_path / "m.pt"))
    loaded = model.network.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert all(parameter.dtype == torch.float32 for parameter in model.network.parameters())


def test_legacy_torch_file(tmp_path: Path) -> None:
    torch.save(weights_of(), tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    assert load_model(tmp_path / "m.pt").spec.config == SMALL


def test_content_counts_more_than_the_suffix(tmp_path: Path) -> None:
    assert load_model(save_pt(weights_of(), tmp_path / "a.safetensors")).spec.config == SMALL
    assert load_model(save_bare(weights_of(), tmp_path / "b.pt")).spec.config == SMALL
    assert load_model(save_bare(weights_of(), tmp_path / "c")).spec.config == SMALL


def test_saved_from_cuda(tmp_path: Path) -> None:
    path = save_pt(weights_of(), tmp_path / "cpu.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "cuda.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                assert b"X\x03\x00\x00\x00cpu" in content
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            new.writestr(name, content)
    model = load_model(tmp_path / "cuda.pt")
    assert {parameter.device.type for parameter in model.network.parameters()} == {"cpu"}


# Files of others


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("bioimageio_unet2d_multi_tensor/weights.pt", "encoder.blocks.0.block.0.weight"),
        ("bioimageio_unet2d_nuclei_broad/weights_state_dict.derived.pth", "encoders.0.0.weight"),
    ],
)
def test_other_architectures(shared: Path, name: str, found: str) -> None:
    with pytest.raises(ModelFileError, match="another architecture") as caught:
        load_model(shared / "models" / name)
    for part in (name, found, "expected"):
        assert part in str(caught.value)


def test_other_kinds_of_file(shared: Path) -> None:
    folder = shared / "models" / "bioimageio_unet2d_nuclei_broad"
    for name in ("test_input.npy", "test_input.png"):
        with pytest.raises(ModelFileError, match="no known format"):
            load_model(folder / name)


# Damaged files


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated(save: Callable[[Weights], Path], fraction: float) -> None:
    path = save(weights_of())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    with pytest.raises(ModelFileError, match=r"truncated.* again"):
        load_model(path)


def test_every_damage_is_reported(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    native = save_model(Model.build(SMALL, seed=0), tmp_path / "m.safetensors")
    legacy = tmp_path / "legacy.pt"
    torch.save(weights_of(), legacy, _use_new_zipfile_serialization=False)
    for path in (native, legacy, save_pt(weights_of(), tmp_path / "m.pt")):
        whole = path.read_bytes()
        for position in torch.randint(2000, (60,), generator=generator).tolist():
            path.write_bytes(
                whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
            )
            with suppress(ModelFileError):  # and no other error; some bytes do not matter
                load_model(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the special files of Unix")
@pytest.mark.parametrize("kind", ["device", "pipe", "socket"])
def test_special_files_are_refused_without_being_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    if kind == "device":
        path.symlink_to(os.devnull)
    elif kind == "pipe":
        os.mkfifo(path)  # who opens it waits for a writer
    with socket.socket(socket.AF_UNIX) as server, chdir(tmp_path):
        if kind == "socket":
            server.bind(path.name)
        with pytest.raises(ModelFileError, match="a device, pipe or socket, not a file"):
            load_model(path)


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors", "m.bin"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelFileError, match="empty"):
        load_model(tmp_path / name)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        load_model(tmp_path / "nothing.pt")
    with pytest.raises(ModelFileError, match="an empty folder"):
        load_model(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ModelFileError, match="a folder, not a file"):
        load_model(tmp_path)
    with pytest.raises(ModelFileError, match="The name of the model is empty"):
        load_model("")
    with pytest.raises(ModelFileError):
        load_model("x" * 5000)


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors", "m"])
def test_web_page_instead_of_a_model(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(ModelFileError, match=name):
        load_model(tmp_path / name)


@pytest.mark.parametrize("length", [2**40, 2**63, 10**6])
def test_header_that_claims_terabytes(tmp_path: Path, length: int) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":')
    with pytest.raises(ModelFileError, match="truncated or damaged") as caught:
        load_model(path)
    assert f"claims {length:,} bytes, and the file holds 5" in str(caught.value)


def test_tensors_that_claim_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    told = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    header = json.dumps({"a": told}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    with pytest.raises(ModelFileError, match=r"claim 4,398,046,511,104 bytes.* holds 12\)"):
        load_model(path)


def test_tensor_that_claims_terabytes(tmp_path: Path) -> None:
    weights = weights_of()
    first = weights["down_blocks.0.conv1.weight"]
    weights["down_blocks.0.conv1.weight"] = first[:1].as_strided((2**36, 1, 3, 3), (0, 0, 3, 1))
    with pytest.raises(ModelFileError, match="claim"):
        load_model(save_pt(weights, tmp_path / "m.pt"))


def test_archive_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(ModelFileError, match="archive is compressed"):
        load_model(tmp_path / "m.pt")


def test_empty_axes_with_huge_ones(tmp_path: Path) -> None:
    weights = weights_of(SMALL.replace(normalization="group2"))
    weights["down_blocks.0.conv1.weight"] = torch.empty(2**40, 0, 3, 3)
    with pytest.raises(ModelFileError, match="cannot be built"):
        load_model(save_bare(weights, tmp_path / "m.safetensors"))


# Wrong contents


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(save: Callable[[Weights], Path], value: float) -> None:
    weights = weights_of()
    weights["up_blocks.0.conv1.weight"][0, 0, 0, 0] = value
    with pytest.raises(ModelFileError, match=r"up_blocks\.0\.conv1\.weight has 1 values of"):
        load_model(save(weights))


def test_float64_beyond_float32(save: Callable[[Weights], Path]) -> None:
    weights = {name: t.double() if t.is_floating_point() else t for name, t in weights_of().items()}
    assert load_model(save(weights)).spec.config == SMALL
    weights["conv_final.bias"][0] = 1e300
    with pytest.raises(ModelFileError, match="infinite in float32"):
        load_model(save(weights))


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64])
def test_weights_that_are_not_floats(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = weights_of()
    weights["conv_final.bias"] = weights["conv_final.bias"].to(dtype)
    with pytest.raises(ModelFileError, match=f"{dtype} values"):
        load_model(save_pt(weights, tmp_path / "m.pt"))


def test_weights_without_values(tmp_path: Path) -> None:
    weights = {name: tensor.to("meta") for name, tensor in weights_of().items()}
    with pytest.raises(ModelFileError, match="claim"):
        load_model(save_pt(weights, tmp_path / "m.pt"))


def test_missing_keys(save: Callable[[Weights], Path]) -> None:
    weights = weights_of()
    del weights["down_blocks.1.conv2.bias"]
    with pytest.raises(ModelFileError, match=r"missing down_blocks\.1\.conv2\.bias"):
        load_model(save(weights))


def test_extra_keys(save: Callable[[Weights], Path]) -> None:
    weights = weights_of()
    weights["auxiliary.weight"] = torch.zeros(1)
    with pytest.raises(ModelFileError, match=r"not expected auxiliary\.weight"):
        load_model(save(weights))


def test_wrong_shapes(save: Callable[[Weights], Path]) -> None:
    weights = weights_of()
    weights["down_blocks.1.conv1.bias"] = torch.zeros(5)
    with pytest.raises(ModelFileError, match=r"conv1\.bias has shape \(5,\) instead of \(8,\)"):
        load_model(save(weights))


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1, 2], {"a": 1}, {1: torch.zeros(1)}, {}, None]
)
def test_contents_that_are_no_state_dict(tmp_path: Path, content: object) -> None:
    with pytest.raises(ModelFileError, match=r"state_dict|another architecture"):
        load_model(save_pt(content, tmp_path / "m.pt"))


# Native metadata


def native_file(path: Path, **metadata: str) -> Path:
    spec = Model.build(SMALL).spec.model_dump_json()
    all_metadata = {"format": "unetari", "format_version": "1", "spec": spec, **metadata}
    path.write_bytes(safetensors.torch.save(weights_of(), all_metadata))
    return path


@pytest.mark.parametrize("version", ["2", "10", "", "one", "-1"])
def test_newer_or_strange_format_version(tmp_path: Path, version: str) -> None:
    path = native_file(tmp_path / "m.safetensors", format_version=version)
    with pytest.raises(ModelFileError, match=f"format_version is '{version}'.*pip install"):
        load_model(path)


@pytest.mark.parametrize(
    "spec",
    ["", "{", "[]", "3", '{"unknown": 1}', '{"config": {"dim": 4}}', "[" * 100_000],
    ids=["empty", "cut", "list", "number", "unknown", "dim", "deep"],
)
def test_broken_description(tmp_path: Path, spec: str) -> None:
    path = native_file(tmp_path / "m.safetensors", spec=spec)
    with pytest.raises(ModelFileError, match="description of the model"):
        load_model(path)


def test_description_of_another_network(tmp_path: Path) -> None:
    spec = Model.build(SMALL.replace(n_blocks=3)).spec.model_dump_json()
    with pytest.raises(ModelFileError, match="missing"):
        load_model(native_file(tmp_path / "m.safetensors", spec=spec))


# Files that would run code


class Bomb:
    """Pickles as a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin"])
@pytest.mark.parametrize(
    "writer", ["zip", "legacy", "protocol 0", "protocol 2", "protocol 4", "protocol 5"]
)
def test_no_code_runs(tmp_path: Path, writer: str, suffix: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / f"bomb{suffix}"
    content = {**weights_of(), "bomb": Bomb(trace)}
    if writer.startswith("protocol"):
        path.write_bytes(pickle.dumps(Bomb(trace), protocol=int(writer[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "zip")
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert not trace.exists()
    if suffix == ".pt":
        assert "would run code" in str(caught.value)
        assert f"{os.name}.mkdir" in str(caught.value)
        assert "tries to run" in str(caught.value)
        assert "weights_only" not in str(caught.value), "no recipe to run it after all"


def test_names_that_run_code_are_found_behind_harmless_ones(tmp_path: Path) -> None:
    content = {"args": argparse.Namespace(), "bomb": Bomb(tmp_path / "trace")}
    with pytest.raises(ModelFileError, match=rf"asks for {os.name}\.mkdir.* tries to run"):
        load_model(save_pt(content, tmp_path / "m.pt"))


def test_whole_modules_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"asks for unetari\.model\.unet\.UNet"):
        load_model(save_pt(UNet(SMALL), tmp_path / "m.pt"))


def test_torch_advice_to_switch_protection_off_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"\x80\x02\x85R.")
    with pytest.raises(ModelFileError) as caught:
        load_model(tmp_path / "m.pt")
    assert "weights_only" not in str(caught.value)
