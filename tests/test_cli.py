from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

import unetari
from unetari import Model, Normalization, UNetConfig, load_model, predict, save_model
from unetari.cli import app
from unetari.cli.console import (
    catch_interrupts,
    describe_image,
    parse_settings,
    show_voxel_sizes,
)
from unetari.cli.demo import show_demo, side_by_side
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError
from unetari.storage.images import open_image

rng = np.random.default_rng(0)
PLANE = rng.integers(0, 4000, (50, 70), dtype="uint16")
VOLUME = rng.integers(0, 4000, (9, 30, 34), dtype="uint16")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def words(text: str) -> str:
    """Undo line breaks."""
    return " ".join(text.split())


def build(config: UNetConfig) -> Model:
    return Model.build(config, seed=0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model_2d(folder: Path) -> Path:
    return save_model(build(UNetConfig(n_blocks=2, start_filters=4)), folder / "m2.safetensors")


@pytest.fixture
def model_3d(folder: Path) -> Path:
    config = UNetConfig(dim=3, n_blocks=2, start_filters=4)
    return save_model(build(config), folder / "m3.safetensors")


@pytest.fixture
def plane(folder: Path) -> Path:
    np.save(folder / "plane.npy", PLANE)
    return folder / "plane.npy"


@pytest.fixture
def volume(folder: Path) -> Path:
    tifffile.imwrite(
        folder / "volume.tif",
        VOLUME,
        imagej=True,
        resolution=(1 / 0.5, 1 / 0.8),
        metadata={"axes": "ZYX", "spacing": 1.75, "unit": "um"},
    )
    return folder / "volume.tif"


# The program


def test_version() -> None:
    assert succeed("--version").stdout == f"unetari {unetari.__version__}\n"


@pytest.mark.parametrize("command", ["", "predict", "check", "info", "export", "train", "demo"])
def test_help_fits_a_terminal_of_80_columns(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = succeed(*command.split(), "--help").stdout.splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= 80


def test_starts_quickly_without_heavy_imports() -> None:
    code = (
        "import sys, unetari.cli;"
        "print(sorted({'torch', 'numpy', 'napari', 'scipy', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [["predict"], ["check", "a.tif"], ["info", "--what"], ["export"], ["train"], ["frobnicate"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_errors_are_one_block_on_stderr(folder: Path, model_2d: Path) -> None:
    result = run("predict", "none.tif", "-m", model_2d, "-o", "labels.tif")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: none.tif does not exist.")
    assert "Traceback" not in result.stderr
    assert not (folder / "labels.tif").exists()


def test_debug_shows_the_traceback(model_2d: Path) -> None:
    result = run("--debug", "predict", "none.tif", "-m", model_2d, "-o", "labels.tif")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


# predict


def test_predict_gives_what_python_gives(folder: Path, plane: Path, model_2d: Path) -> None:
    result = succeed("predict", plane, "--model", model_2d, "--out", "labels.npy")
    assert result.stdout == "labels.npy\n"
    expected = predict(PLANE, str(model_2d)).labels
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), expected)


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".zarr"])
def test_predict_keeps_voxel_size_and_axes(volume: Path, model_3d: Path, suffix: str) -> None:
    succeed("predict", volume, "-m", model_3d, "-o", f"labels{suffix}")
    labels = open_image(f"labels{suffix}")
    assert (labels.axes, labels.shape, labels.unit) == ("ZYX", VOLUME.shape, "micrometer")
    assert labels.voxel_size == pytest.approx({"Z": 1.75, "Y": 0.8, "X": 0.5}, rel=1e-5)


def test_predict_writes_its_record(folder: Path, plane: Path, model_2d: Path) -> None:
    succeed("predict", plane, "-m", model_2d, "-o", "labels.tif", "--device", "cpu")
    record = json.loads((folder / "labels.tif.json").read_text(encoding="utf-8"))
    assert (record["status"], record["device"]) == ("finished", "cpu")
    assert record["image_shape"] == [50, 70]
    assert len(record["model_sha256"]) == 64


def test_predict_in_tiles_with_scores(plane: Path, model_2d: Path) -> None:
    result = succeed(
        *("predict", plane, "-m", model_2d, "-o", "labels.tif"),
        *("--tile", "32x40", "--scores", "scores.tif"),
    )
    assert result.stdout.split() == ["labels.tif", "scores.tif"]
    assert "9 tiles" in result.stderr
    whole = predict(PLANE, str(model_2d), scores=True)
    assert whole.scores is not None
    np.testing.assert_array_equal(open_image("labels.tif").data, whole.labels)
    scores = open_image("scores.tif")
    assert scores.axes == "CYX"
    np.testing.assert_allclose(scores.data, whole.scores, atol=1e-5)


def test_predict_channel_and_axes(folder: Path, model_2d: Path) -> None:
    data = rng.integers(0, 255, (3, 2, 30, 40), dtype="uint8")
    np.save(folder / "a.npy", data)
    succeed("predict", "a.npy", "-m", model_2d, "-o", "b.npy", "--axes", "TCYX", "--channel", "1")
    expected = predict(data, str(model_2d), axes="TCYX", channel=1).labels
    np.testing.assert_array_equal(np.load(folder / "b.npy"), expected)


def test_predict_grey(folder: Path, model_2d: Path) -> None:
    iio.imwrite(folder / "rgb.png", rng.integers(0, 255, (30, 40, 3), dtype="uint8"))
    refused = run("predict", "rgb.png", "-m", model_2d, "-o", "b.npy")
    assert refused.exit_code == 1
    assert "grey" in refused.stderr
    succeed("predict", "rgb.png", "-m", model_2d, "-o", "b.npy", "--grey")
    assert np.load(folder / "b.npy").shape == (30, 40)


@pytest.mark.parametrize("existing", ["labels.tif", "labels.tif.json", "scores.npy"])
def test_predict_never_overwrites_unasked(
    folder: Path, plane: Path, model_2d: Path, existing: str
) -> None:
    (folder / existing).write_text("precious")
    command = ("predict", plane, "-m", model_2d, "-o", "labels.tif", "--scores", "scores.npy")
    result = run(*command)
    assert result.exit_code == 1
    assert "--overwrite" in result.stderr
    assert (folder / existing).read_text() == "precious"
    succeed(*command, "--overwrite")
    assert (folder / existing).read_bytes() != b"precious"


def test_predict_never_replaces_its_input(plane: Path, model_2d: Path) -> None:
    result = run("predict", plane, "-m", model_2d, "-o", plane, "--overwrite")
    assert result.exit_code == 1
    np.testing.assert_array_equal(np.load(plane), PLANE)
    result = run("predict", plane, "-m", model_2d, "-o", "a.npy", "--scores", "a.npy")
    assert "both labels and scores" in result.stderr


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--tile large", "no size"),
        ("--tile 0x32", "no size"),
        ("--device abacus", "abacus"),
        ("--channel 3", "channel"),
        ("--axes ZYX", "axes"),
        ("--out labels.doc", r".tif, .tiff, .npy, .zarr"),
        ("--assume activation", "NAME=VALUE"),
        ("--model nuclei-9d", "nuclei-9d"),
    ],
)
def test_predict_names_what_is_wrong(
    folder: Path, plane: Path, model_2d: Path, option: str, reason: str
) -> None:
    before = set(folder.iterdir())
    result = run("predict", plane, "-m", model_2d, "-o", "labels.tif", *option.split())
    assert result.exit_code == 1
    assert reason in result.stderr
    assert set(folder.iterdir()) == before


def test_predict_reports_before_it_works(plane: Path, model_2d: Path) -> None:
    messages = succeed("predict", plane, "-m", model_2d, "-o", "labels.npy").stderr
    assert "plane.npy: YX, 50 x 70, uint16, voxel size unknown" in messages
    assert "background" in messages.splitlines()[-1]


def test_interrupted_prediction_leaves_nothing(
    folder: Path, plane: Path, model_2d: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[object]:
        yield from ()
        raise KeyboardInterrupt

    before = set(folder.iterdir())
    monkeypatch.setattr("unetari.inference.predict.run", interrupted)
    result = run("predict", plane, "-m", model_2d, "-o", "labels.zarr", "--scores", "scores.tif")
    assert result.exit_code == 130
    assert "No labels were written" in result.stderr
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_prediction_interrupted_while_it_is_written_leaves_nothing(
    folder: Path,
    plane: Path,
    model_2d: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    before = set(folder.iterdir())
    monkeypatch.setattr("tifffile.imwrite", lambda *_, **__: signal.raise_signal(number))
    result = run("predict", plane, "-m", model_2d, "-o", "labels.tif")
    assert result.exit_code == 130
    assert set(folder.iterdir()) == before


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with catch_interrupts("Stopping.") as stopped:
            signal.raise_signal(signal.SIGINT)
        assert not stopped.is_set()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_record_has_the_voxel_size_and_another_order_is_said(
    folder: Path, model_2d: Path
) -> None:
    stack = np.zeros((2, 3, 50, 70), np.uint8)
    metadata = {"axes": "TZYX", "spacing": 2.0, "unit": "micron"}
    tifffile.imwrite("stack.tif", stack, imagej=True, resolution=(2, 2), metadata=metadata)
    succeed("predict", "stack.tif", "-m", model_2d, "-o", "labels.npy")
    record = json.loads((folder / "labels.npy.json").read_text(encoding="utf-8"))
    assert record["voxel_size"] == pytest.approx({"Z": 2.0, "Y": 0.5, "X": 0.5})
    assert record["unit"] == "micrometer"
    told = succeed(
        "predict", "stack.tif", "-m", model_2d, "-o", "labels.tif", "--scores", "scores.tif"
    ).stderr
    assert "scores.tif has its axes in the order TZCYX" in words(told)
    assert "labels.tif has its axes" not in words(told)


@pytest.mark.parametrize("option", ["--rescale", "--scale"])
def test_predict_rescales(folder: Path, volume: Path, model_3d: Path, option: str) -> None:
    spec = load_model(model_3d).spec.replace(voxel_size=(1.75, 1.6, 0.25))
    save_model(Model(load_model(model_3d).network, spec, "", ""), folder / "other.safetensors")
    how = [option] if option == "--rescale" else [option, "1x0.5x2"]
    result = succeed("predict", volume, "-m", "other.safetensors", "-o", "labels.tif", *how)
    messages = words(result.stderr)
    assert "sees the image rescaled: Y from 30 to 15 px and X from 34 to 68 px" in messages
    assert "was trained at" not in messages
    expected = predict(VOLUME, "other.safetensors", axes="ZYX", scale=(1, 0.5, 2)).labels
    np.testing.assert_array_equal(open_image("labels.tif").data, expected)
    record = json.loads((folder / "labels.tif.json").read_text(encoding="utf-8"))
    assert record["scale"] == pytest.approx([1, 0.5, 2])


def test_predict_rescales_only_what_is_known(
    folder: Path, plane: Path, volume: Path, model_2d: Path, model_3d: Path
) -> None:
    outputs = ("-o", "labels.tif")
    result = run("predict", plane, "-m", model_2d, *outputs, "--rescale")
    assert "The model does not say at which voxel size" in words(result.stderr)
    spec = load_model(model_2d).spec.replace(voxel_size=(0.5, 0.5))
    save_model(Model(load_model(model_2d).network, spec, "", ""), folder / "sized.safetensors")
    result = run("predict", plane, "-m", "sized.safetensors", *outputs, "--rescale")
    assert "unknown along Y, X (known: none)" in words(result.stderr)
    result = run("predict", volume, "-m", model_3d, *outputs, "--scale", "half")
    assert "--scale 'half' holds no factors. Write them as 0.5x0.5" in words(result.stderr)
    result = run("predict", volume, "-m", model_3d, *outputs, "--scale", "0x1x1")
    assert "holds 0.0, and a factor is a number from 0.05 to 20" in words(result.stderr)
    result = run("predict", volume, "-m", model_3d, *outputs, "--scale", "1x1x1", "--rescale")
    assert result.exit_code == 2
    assert not (folder / "labels.tif").exists()


# check and info


def test_check_says_yes(plane: Path, volume: Path, model_2d: Path) -> None:
    for image in (plane, volume):
        result = succeed("check", image, "--model", model_2d)
        assert image.name in result.stdout
        assert "fits" in result.stdout


def test_check_says_what_padding_does(folder: Path, model_2d: Path) -> None:
    np.save(folder / "odd.npy", PLANE[:, :51])
    text = words(succeed("check", "odd.npy", "-m", model_2d).stdout)
    assert "51 px is not a multiple of 2" in text
    assert "What you can do: - Pad X by 1 px" in text


def test_check_says_no_with_3(folder: Path, plane: Path, model_3d: Path, model_2d: Path) -> None:
    result = run("check", plane, "-m", model_3d)
    assert result.exit_code == 3
    assert "no Z axis" in words(result.stdout)
    iio.imwrite(folder / "rgb.png", np.zeros((30, 40, 3), "uint8"))
    result = run("check", "rgb.png", "-m", model_2d)
    assert result.exit_code == 3
    assert "Convert RGB to grey" in result.stdout
    succeed("check", "rgb.png", "-m", model_2d, "--grey")


def test_check_real_images(shared: Path, model_2d: Path, model_3d: Path) -> None:
    picture = next((shared / "data/dsb2018_fluo/images").glob("*.png"))
    volume = shared / "data/bbbc050_mouse_embryo3d/images/Emb01_t451.tif"
    plate = shared / "data/omezarr_cardiomyocyte/cardiomyocyte_mip_small.zarr"
    succeed("check", picture, "-m", model_2d)
    succeed("check", volume, "-m", model_3d)
    assert run("check", plate, "-m", model_2d).exit_code == 3
    text = words(succeed("check", plate, "-m", model_2d, "--channel", 0).stdout)
    assert "ZYX 1 x 0.65 x 0.65" in text


def test_info_shows_card_and_notes(folder: Path) -> None:
    config = UNetConfig(n_blocks=2, start_filters=4)
    spec = ModelSpec(
        config=config,
        normalization=Normalization(method="range", low=0, high=255),
        name="dots",
        class_names=("background", "dot"),
        voxel_size=(0.5, 0.5),
        license="CC0-1.0",
        training={"validation_iou": 0.9123},
    )
    save_model(Model(build(config).network, spec, "", ""), folder / "dots.safetensors")
    text = words(succeed("info", "dots.safetensors").stdout)
    for fact in (
        "name dots",
        "0 background, 1 dot",
        "0.5 x 0.5 µm",
        "2 blocks of",
        "range 0 and 255 to 0 and 1",
        "CC0-1.0",
        "IoU 0.912",
    ):
        assert fact in text


def test_info_takes_assumptions(folder: Path) -> None:
    import torch

    torch.save(build(UNetConfig(n_blocks=2, start_filters=4)).network.state_dict(), folder / "a.pt")
    assert ", ReLU," in words(succeed("info", "a.pt").stdout)
    assert "note" in succeed("info", "a.pt").stdout
    text = words(succeed("info", "a.pt", "--assume", "activation=elu").stdout)
    assert ", ELU," in text


@pytest.mark.parametrize("arguments", [[], ["--list"]])
def test_info_lists_bundled_models(arguments: list[str]) -> None:
    assert tuple(succeed("info", *arguments).stdout.split()) == unetari.bundled_models()


def test_info_draws_the_network(folder: Path, model_2d: Path, model_3d: Path) -> None:
    result = succeed("info", model_2d, "--diagram", "net.svg")
    assert "2 blocks of" in words(result.stdout)
    assert "net.svg" in result.stderr
    assert (folder / "net.svg").read_text(encoding="utf-8") == unetari.draw_svg(
        UNetConfig(n_blocks=2, start_filters=4)
    )
    succeed("info", model_3d, "--diagram", "volume.svg", "--shape", "51,132,134")
    assert "Z odd" in (folder / "volume.svg").read_text(encoding="utf-8")


def test_info_overwrites_no_drawing_unasked(folder: Path, model_2d: Path) -> None:
    (folder / "net.svg").write_text("mine")
    result = run("info", model_2d, "--diagram", "net.svg")
    assert result.exit_code == 1
    assert "exists already" in words(result.stderr)
    assert (folder / "net.svg").read_text() == "mine"
    succeed("info", model_2d, "--diagram", "net.svg", "--overwrite")
    assert "<svg" in (folder / "net.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--diagram", "net.png"], 1, "Use net.svg"),
        (["--diagram", "net.svg", "--shape", "3,64,64"], 1, "the network is 2D"),
        (["--diagram", "net.svg", "--shape", "64 by 64"], 1, "is no size"),
        (["--shape", "64,64"], 2, "Give --diagram"),
        (["--list", "--diagram", "net.svg"], 2, "needs the MODEL"),
    ],
)
def test_info_refuses_drawings_that_cannot_be(
    folder: Path, model_2d: Path, arguments: list[str], code: int, reason: str
) -> None:
    result = run("info", model_2d, *arguments)
    assert result.exit_code == code
    assert reason in words(re.sub(r"[\W]*\n[\W]*", " ", result.stderr))
    assert not (folder / "net.svg").exists()


# export, and files that could run code


def test_export_writes_what_others_read(folder: Path, model_2d: Path) -> None:
    import torch

    result = succeed("export", model_2d, "--to", "state_dict", "--out", "weights")
    assert result.stdout == "weights.pth\n"
    weights = torch.load(folder / "weights.pth", weights_only=True)
    assert (
        weights.keys() == build(UNetConfig(n_blocks=2, start_filters=4)).network.state_dict().keys()
    )
    succeed("export", model_2d, "--out", "copy.safetensors")
    assert (folder / "copy.safetensors").read_bytes() == model_2d.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--to keras --out m.h5", "Choose one of: safetensors"),
        ("--out m.pt", "torchscript, state_dict"),
        ("--to onnx --out m.pt2", "Use m.onnx"),
        ("--to state_dict --out taken.pth", "not overwritten"),
        ("--to state_dict --out nowhere/m.pth", "does not exist"),
    ],
)
def test_export_names_what_is_wrong(
    folder: Path, model_2d: Path, options: str, message: str
) -> None:
    (folder / "taken.pth").write_bytes(b"the work of a week")
    result = run("export", model_2d, *options.split())
    assert result.exit_code == 1
    assert message in words(result.stderr)
    assert (folder / "taken.pth").read_bytes() == b"the work of a week"


def test_programs_open_only_with_trust(
    folder: Path, model_2d: Path, plane: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unetari.model import trust

    succeed("export", model_2d, "--out", "m.ts")
    commands = (
        ["info", "m.ts"],
        ["check", plane, "-m", "m.ts"],
        ["predict", plane, "-m", "m.ts", "-o", "labels.npy"],
        ["export", "m.ts", "--out", "again.ts"],
        ["demo", "--no-window", "-m", "m.ts", "-o", "demo.png"],
    )
    for command in commands:
        monkeypatch.setattr(trust, "_trusted", set())
        result = run(*command)
        assert result.exit_code == 1
        assert "SHA-256" in result.stderr
        assert "--trust" in result.stderr
        succeed(*command, "--trust")
    expected = predict(PLANE, load_model(model_2d)).labels
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), expected)
    assert run("info", "m.ts", "--assume", "trust=true").exit_code == 1


# train


@pytest.fixture
def pairs(folder: Path) -> Path:
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for name in "abc":
        labels = np.zeros((40, 40), "uint8")
        labels[10:25, 12:30] = 1
        np.save(folder / "labels" / f"{name}.npy", labels)
        np.save(folder / "images" / f"{name}.npy", labels * 100 + rng.integers(0, 20, (40, 40)))
    return folder


SMALL = (
    *("--set", "network.n_blocks=2", "--set", "network.start_filters=4"),
    *("--set", "patch_size=[16, 16]", "--set", "batch_size=2", "--set", "validate_every=2"),
)


@pytest.mark.usefixtures("pairs")
def test_train_to_a_model_that_predicts() -> None:
    pytest.importorskip("monai")
    common = ("train", "--images", "images", "--labels", "labels", "-o", "mine.safetensors")
    result = succeed(*common, *SMALL, "--set", "steps=4")
    assert result.stdout == "mine.safetensors\n"
    assert "validation IoU" in result.stderr
    succeed("predict", "images/a.npy", "-m", "mine.safetensors", "-o", "out.npy")
    refused = run(*common, *SMALL)
    assert refused.exit_code == 1
    assert "mine.safetensors exists" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_stops_after_the_step(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    pytest.importorskip("monai")

    def train(*_: object, should_stop: Any, **__: object) -> Iterator[SimpleNamespace]:
        for step in range(1, 100):
            if should_stop():
                return
            if step == 3:
                signal.raise_signal(number)
            yield SimpleNamespace(
                step=step, loss=1.0, score=None, best=None, is_complete=False, path=Path("m")
            )

    monkeypatch.setattr("unetari.training.loop.train", train)
    before = signal.getsignal(number)
    command = ("train", "--images", "images", "--labels", "labels", "-o", "m.safetensors")
    result = run(*command)
    assert result.exit_code == 130
    assert "Stopped after step 3" in result.stderr
    assert "--resume" not in result.stderr, "there is no file to resume from"
    (pairs / "m.resume.pt").touch()
    assert "--resume" in run(*command).stderr
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("pairs")
def test_training_interrupted_before_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("monai")

    def train(*_: object, **__: object) -> Iterator[object]:
        signal.raise_signal(signal.SIGINT)
        yield from ()

    monkeypatch.setattr("unetari.training.loop.train", train)
    result = run("train", "--images", "images", "--labels", "labels", "-o", "m.safetensors")
    assert result.exit_code == 130
    assert "Stopped before a step was done. Nothing was saved." in words(result.stderr)


@pytest.mark.usefixtures("pairs")
@pytest.mark.parametrize("setting", ["nework.dim=3", "steps.x=3", "replace.x=3"])
def test_train_names_a_setting_that_cannot_be(setting: str) -> None:
    pytest.importorskip("monai")
    command = ("--images", "images", "--labels", "labels", "-o", "m.safetensors")
    result = run("train", *command, "--set", setting)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "is no table of options" in result.stderr


def test_train_reads_a_config_file(pairs: Path) -> None:
    pytest.importorskip("monai")
    (pairs / "options.toml").write_text('nonsense = "yes"')
    command = ("--images", "images", "--labels", "labels", "-o", "m.safetensors")
    result = run("train", "options.toml", *command)
    assert result.exit_code == 1
    assert "nonsense" in result.stderr


# demo


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.mark.usefixtures("no_display")
def test_demo_without_a_display_writes_a_picture(folder: Path, model_2d: Path) -> None:
    for name in ("unetari-demo.png", "unetari-demo-1.png"):
        result = succeed("demo", "--model", model_2d)
        assert result.stdout == f"{name}\n"
        assert "no display" in result.stderr
        assert iio.imread(folder / name).shape == (510, 1386, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="Elsewhere windows need no display server")
def test_demo_with_a_display_that_is_gone_writes_a_picture(
    folder: Path, model_2d: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":4711")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("QT_QPA_PLATFORM", "xcb")
    result = succeed("demo", "--model", model_2d)
    assert result.stdout == "unetari-demo.png\n"
    assert "No window can be opened here" in result.stderr
    refused = run("demo", "--model", model_2d, "--window")
    assert refused.exit_code == 1
    assert "Leave --window out" in words(refused.stderr)


def test_demo_overwrites_nothing(folder: Path, model_2d: Path) -> None:
    (folder / "mine.png").write_text("precious")
    assert run("demo", "-m", model_2d, "-o", "mine.png").exit_code == 1
    assert (folder / "mine.png").read_text() == "precious"
    assert run("demo", "-m", model_2d, "-o", "mine.jpg").exit_code == 1
    assert run("demo", "-m", model_2d, "-o", "none/mine.png").exit_code == 1


def test_demo_opens_a_window_or_writes_a_picture(folder: Path, model_2d: Path) -> None:
    result = run("demo", "-m", model_2d, "--window", "--out", "mine.png")
    assert result.exit_code == 1
    assert "one of the two" in result.stderr
    assert not (folder / "mine.png").exists()


def test_demo_predicts_in_the_viewer(
    make_napari_viewer: Callable[[], Any], qtbot: Any, model_2d: Path
) -> None:
    viewer = make_napari_viewer()
    dock = show_demo(viewer, str(model_2d))
    with qtbot.waitSignal(dock.session.ended, timeout=120_000):
        pass
    assert [layer.as_layer_data_tuple()[2] for layer in viewer.layers] == [
        "image",
        "labels",
        "labels",
    ]
    image, _, labels = viewer.layers
    assert labels.data.shape == image.data.shape
    assert tuple(labels.scale) == tuple(image.scale)


def test_demo_fits_the_image_to_the_window_before_the_model_is_there(
    make_napari_viewer: Callable[..., Any], qtbot: Any, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    show_demo(viewer, str(tmp_path / "never.safetensors"))

    def is_fitted() -> bool:
        zoom = viewer.scene.camera.zoom
        viewer.reset_view()
        fitted = viewer.scene.camera.zoom
        viewer.scene.camera.zoom = zoom
        return bool(zoom == fitted)

    qtbot.waitUntil(is_fitted)


def test_picture_shows_where_labels_are() -> None:
    labels = np.zeros(PLANE.shape, "uint8")
    labels[10:20, 10:20] = 1
    picture = side_by_side(PLANE, labels)
    left, right = picture[:, :70], picture[:, -70:]
    changed = (left != right).any(axis=-1)
    np.testing.assert_array_equal(changed, labels > 0)


# What the commands share


def test_settings_are_toml_or_text() -> None:
    settings = ["steps=5", "name=nuclei", "network.dim=3", "network.n_blocks=2", "a=[1, 2]"]
    assert parse_settings(settings) == {
        "steps": 5,
        "name": "nuclei",
        "network": {"dim": 3, "n_blocks": 2},
        "a": [1, 2],
    }
    assert parse_settings(None) == {}
    for wrong in ("steps", "=5"):
        with pytest.raises(ConfigError, match="NAME=VALUE"):
            parse_settings([wrong])
    with pytest.raises(ConfigError, match="network has a value already"):
        parse_settings(["network=1", "network.dim=3"])


def test_voxel_size_far_from_the_training_is_said(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = open_image(volume)
    config = UNetConfig(dim=3, n_blocks=2, start_filters=4)
    network = build(config).network
    for size, warned in (((1.75, 0.8, 0.5), False), ((1.75, 0.3, 0.5), True), ((), False)):
        model = Model(network, ModelSpec(config=config, voxel_size=size), "", "")
        show_voxel_sizes(image, model)
        warning = words(capsys.readouterr().err)
        assert ("was trained at" in warning) is warned
        assert ("unetari predict --rescale does so" in warning) is warned
    assert "ZYX 1.75 x 0.8 x 0.5" in describe_image(image)


# A real process


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONIOENCODING": "utf-8"}


def test_a_real_process(plane: Path, model_2d: Path) -> None:
    command = [sys.executable, "-m", "unetari.cli", "predict", plane, "-m", model_2d]
    done = subprocess.run(
        [*map(str, command), "-o", "labels.tif"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "labels.tif\n"), done.stderr
    assert "\x1b" not in done.stderr, "progress bars and colours are for terminals"
    assert open_image("labels.tif").shape == PLANE.shape


@pytest.fixture
def heard_interrupts() -> Iterator[None]:
    """Let child processes hear of Ctrl-C: what a shell runs in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_interrupts")
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_real_prediction(
    folder: Path, model_2d: Path, number: signal.Signals
) -> None:
    np.save(folder / "large.npy", np.zeros((4000, 4000), "uint8"))
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "unetari.cli", "predict", "large.npy", "-m", str(model_2d)]
    with subprocess.Popen(
        [*command, "-o", "labels.tif", "--tile", "48x48"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        assert process.stderr is not None
        while "large.npy: YX" not in process.stderr.readline():
            assert process.poll() is None
        while set(folder.iterdir()) == before:  # until the file of the labels is begun
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(number)
        messages = process.stderr.read()
        watchdog.cancel()
    assert process.returncode == 130, messages
    assert "Traceback" not in messages
    assert "No labels were written" in messages or "Interrupted" in messages
    assert set(folder.iterdir()) == before
