"""Packages that we write: complete, readable by others, and equal when they come back."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from unetari import Model, UNetConfig, load_model, predict, save_model
from unetari.core.normalization import Normalization
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError, ShapeError
from unetari.model.export import export_model
from unetari.model.formats.bioimageio.card import write_description, write_documentation
from unetari.model.formats.bioimageio.cover import draw_cover
from unetari.model.formats.bioimageio.description import read_description
from unetari.model.formats.bioimageio.examples import make_example
from unetari.model.formats.bioimageio.processing import read_preprocessing
from unetari.model.formats.bioimageio.yaml_text import read_yaml
from unetari.model.formats.foreign import Told, as_foreign

CARD: dict[str, Any] = {
    "name": "nuclei for tests",
    "description": "Nuclei in images that do not exist.",
    "authors": ("A. Author", "B. Author"),
    "license": "CC-BY-4.0",
    "citations": ("A paper, doi 10.1007/978-3-319-24574-4_28.", "A talk without an address"),
    "tags": ("nuclei",),
    "data_credit": "Generated images.",
    "training": {"steps": 100, "validation_iou": 0.87, "sizes": [64, 64]},
}
SMALL = UNetConfig(n_blocks=2, start_filters=4)


def build(config: UNetConfig = SMALL, **changes: Any) -> Model:
    model = Model.build(config, seed=0)
    return model.replace(**{**CARD, **changes})


def read(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(build(voxel_size=(0.5, 0.25)), tmp_path_factory.mktemp("p") / "p.zip")


def test_everything_is_in_it(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        assert set(archive.namelist()) == {
            "rdf.yaml",
            "README.md",
            "cover.png",
            "model.safetensors",
            "test_input.npy",
            "test_output.npy",
            "weights.onnx",
            "weights.pt",
        }
    described = read_description(read_yaml(read(package, "rdf.yaml")))
    assert described.card["authors"] == CARD["authors"]
    assert described.card["license"] == "CC-BY-4.0"
    assert "nuclei" in described.card["tags"]
    assert described.config["unetari"]["training"]["validation_iou"] == 0.87
    assert described.inputs[0].axes[2].scale == 0.5
    assert described.inputs[0].axes[2].unit == "micrometer"


def test_the_documentation_says_what_people_need(package: Path) -> None:
    text = read(package, "README.md").decode()
    for words in (
        "# nuclei for tests",
        "Generated images.",
        '"steps": 100',
        "## Validation",
        "IoU 0.870",
        "CC-BY-4.0",
        "A talk without an address",
        "0.5 x 0.25 micrometre",
    ):
        assert words in text


def test_the_cover_shows_image_and_result(package: Path) -> None:
    cover = iio.imread(read(package, "cover.png"))
    assert cover.shape == (256, 512, 3)
    image = np.zeros((1, 8, 8), np.float32)
    image[0, 2:4] = 1
    labels = image[0].astype(np.uint8)
    left, right = np.split(iio.imread(draw_cover(image, labels)), 2, axis=1)
    assert (left[..., 0] == left[..., 2]).all(), "the image is grey"
    coloured = right[..., 0] != right[..., 2]
    assert coloured[64:128].all()
    assert not coloured[:64].any()
    assert not coloured[128:].any()


def test_it_comes_back_as_it_was(package: Path) -> None:
    model, back = build(voxel_size=(0.5, 0.25)), load_model(package)
    assert back.spec == model.spec
    image = make_example(SMALL, None)[0]
    expected = predict(image, model, scores=True).scores
    np.testing.assert_array_equal(predict(image, back, scores=True).scores, expected)


def test_others_get_the_same(package: Path, tmp_path: Path) -> None:
    """Without our own file in it, the ONNX weights and the description must do."""
    import yaml

    fields = yaml.safe_load(read(package, "rdf.yaml"))
    del fields["config"], fields["attachments"]
    path = tmp_path / "foreign.zip"
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = yaml.safe_dump(fields).encode() if name == "rdf.yaml" else source.read(name)
            target.writestr(name, content)
    foreign = load_model(path)
    assert any("is reproduced to" in note for note in foreign.notes)
    assert not any("it states" in note for note in foreign.notes), foreign.notes
    image = make_example(SMALL, None)[0]
    expected = predict(image, build(), scores=True).scores
    found = predict(image, foreign, tile_shape=(64, 64), scores=True).scores
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "missing", [("description",), ("authors", "license"), ("name", "description")]
)
def test_what_is_missing_is_asked_for(missing: tuple[str, ...], tmp_path: Path) -> None:
    model = build().replace(**{name: () if name == "authors" else "" for name in missing})
    with pytest.raises(ConfigError) as caught:
        export_model(model, tmp_path / "p.zip")
    for name in missing:
        assert f"{name.rstrip('s')}" in str(caught.value)
        assert f"--{name.rstrip('s')}" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_licence_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="license"):
        export_model(build(license="do what you like"), tmp_path / "p.zip")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Zellkörner im Gehirn: Maus", "not 'ö:'"),
        ("n2d", "3 letters, and 5 to 64 fit"),
        ("nuclei " * 10, "70 letters, and 5 to 64 fit"),
    ],
)
def test_names_that_packages_cannot_hold_are_not_repaired(
    name: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason):
        export_model(build(name=name), tmp_path / "p.zip")
    assert not list(tmp_path.iterdir())


def test_other_networks_are_not_taken_for_the_u_net_of_the_article(package: Path) -> None:
    config = as_foreign(SMALL, Told("ONNX"))
    spec = ModelSpec(config=config, **CARD).replace(citations=("A talk without an address",))
    described = write_description(spec, defaultdict(str), 18)
    assert described["cite"] == []
    assert "unet2d" not in described["tags"]
    assert "Ronneberger" not in write_documentation(spec)
    assert "unet2d" in read_yaml(read(package, "rdf.yaml"))["tags"]


def test_a_test_image_of_ones_own(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 4000, (1, 71, 999), np.uint16)
    path = export_model(build(), tmp_path / "p.zip", image=image)
    kept = np.load(io.BytesIO(read(path, "test_input.npy")))
    assert kept.shape == (1, 1, 70, 512)
    np.testing.assert_array_equal(kept[0, :, :, :], image[:, :70, 243:755])
    with pytest.raises(ShapeError, match="the network takes"):
        export_model(build(), tmp_path / "q.zip", image=image[0])
    with pytest.raises(ConfigError, match="holds no test image"):
        export_model(build(), tmp_path / "q.pth", image=image)


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(n_blocks=2, start_filters=2, conv_mode="valid", up_mode="bilinear"),
        UNetConfig(n_blocks=2, start_filters=2, dim=3, in_channels=2, out_channels=3),
        UNetConfig(n_blocks=2, start_filters=2, out_channels=1),
        UNetConfig(n_blocks=1, start_filters=2, normalization="instance"),
    ],
)
def test_every_kind_of_network_is_described(config: UNetConfig, tmp_path: Path) -> None:
    path = export_model(build(config), tmp_path / "p.zip")
    described = read_description(read_yaml(read(path, "rdf.yaml")))
    given, made = (np.load(io.BytesIO(read(path, f"test_{n}.npy"))) for n in ("input", "output"))
    model = load_model(path)
    assert model.config == config
    for axis, size in zip(described.inputs[0].axes[2:], given.shape[2:], strict=True):
        assert (size - axis.smallest) % (axis.step or 1) == 0
    for axis, before, after in zip(
        described.outputs[0].axes[2:], given.shape[2:], made.shape[2:], strict=True
    ):
        assert after == before + axis.offset


@pytest.mark.parametrize(
    "normalization",
    [
        Normalization(),
        Normalization(method="zscore", scope="frame"),
        Normalization(method="minmax", channels="together"),
        Normalization(method="range", low=100, high=4095),
        Normalization(method="none"),
    ],
)
def test_normalizations_come_back(normalization: Normalization) -> None:
    from unetari.model.formats.bioimageio.card import write_description

    config = SMALL.replace(in_channels=2)
    spec = build(config).spec.replace(normalization=normalization)
    names = ("weights.onnx", "weights.pt", "test_input.npy", "test_output.npy")
    written = write_description(spec, dict.fromkeys(names, "0" * 64), 18)
    back = read_preprocessing(read_description(written).inputs[0])
    assert not back.steps
    found = back.normalization
    assert (found.method, found.channels) == (normalization.method, normalization.channels)
    assert found.low == pytest.approx(normalization.low)
    assert found.high == pytest.approx(normalization.high)


@pytest.mark.parametrize("name", ["nuclei-2d", "nuclei-3d"])
def test_the_bundled_models_make_valid_descriptions(name: str) -> None:
    """The halo of 48 voxels of 0.8 micrometre is 48.00000000000001 voxels to bioimageio.spec."""
    from unetari.model.formats.bioimageio.card import write_description

    spec = load_model(name).spec
    names = ("weights.onnx", "weights.pt", "test_input.npy", "test_output.npy")
    described = read_description(write_description(spec, dict.fromkeys(names, "0" * 64), 18))
    sizes = [axis.scale for axis in described.inputs[0].axes[2:]]
    assert sizes == pytest.approx(spec.voxel_size or (1, 1), rel=1e-15)


def run(*arguments: str) -> Any:
    from typer.testing import CliRunner

    from unetari.cli import app

    return CliRunner().invoke(app, ["export", *arguments])


def test_the_command_line_asks_and_writes(tmp_path: Path) -> None:
    source = str(save_model(Model.build(SMALL, seed=0), tmp_path / "m.safetensors"))
    out = str(tmp_path / "p.zip")
    asked = run(source, "--to", "bioimageio", "--out", out)
    assert asked.exit_code == 1
    for flag in ("--name", "--description", "--author", "--license"):
        assert flag in asked.stderr
    image = np.arange(80 * 90, dtype=np.uint16).reshape(80, 90)
    np.save(tmp_path / "image.npy", image)
    card = ["--name", "a test", "--description", "nothing", "--license", "MIT", "--tag", "x"]
    people = ["--author", "A", "--author", "B", "--cite", "C, https://example.com/c"]
    test_image = ["--image", str(tmp_path / "image.npy")]
    done = run(source, "--out", out, *card, *people, *test_image)
    assert done.exit_code == 0, done.stderr
    described = read_description(read_yaml(read(Path(out), "rdf.yaml")))
    assert described.card["authors"] == ("A", "B")
    assert "x" in described.card["tags"]
    assert described.card["citations"][0] == "C, https://example.com/c https://example.com/c"
    kept = np.load(io.BytesIO(read(Path(out), "test_input.npy")))
    np.testing.assert_array_equal(kept[0, 0], image)


def test_on_a_terminal_what_is_missing_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from unetari.cli import app, export

    monkeypatch.setattr(export, "is_interactive", lambda: True)
    source = str(save_model(Model.build(SMALL, seed=0), tmp_path / "m.safetensors"))
    out = tmp_path / "p.zip"
    lines = [
        "",
        "Nuclei in nothing",
        "A. One; B. Two",
        "do what you like",
        "MIT",
        "",
        "C, 10.1000/182",
    ]
    done = CliRunner().invoke(
        app,
        ["export", source, "--out", str(out), "--name", "a test"],
        input="\n".join([*lines, ""]),
    )
    assert done.exit_code == 0, done.stderr
    assert "Name (" not in done.stderr
    assert "is no SPDX identifier" in done.stderr
    described = read_description(read_yaml(read(out, "rdf.yaml")))
    assert described.card["name"] == "a test"
    assert described.card["authors"] == ("A. One", "B. Two")
    assert described.card["license"] == "MIT"
    assert "C, 10.1000/182" in described.card["citations"][0]
    again = CliRunner().invoke(app, ["export", str(out), "--out", str(tmp_path / "q.zip")])
    assert again.exit_code == 0, again.stderr
    assert "(" not in again.stderr, "nothing is missing now"


PNG = iio.imwrite("<bytes>", np.zeros((8, 16, 3), np.uint8), extension=".png")
JPEG = iio.imwrite("<bytes>", np.zeros((8, 16, 3), np.uint8), extension=".jpg")


@pytest.mark.parametrize("picture", [PNG, JPEG], ids=["PNG", "JPEG"])
def test_cover_documentation_and_test_image_are_handed_on(tmp_path: Path, picture: bytes) -> None:
    image = np.random.default_rng(0).integers(0, 4000, (1, 64, 96), np.uint16)
    given: dict[str, Any] = {"cover": picture, "documentation": "# Of my own\n", "image": image}
    first = load_model(export_model(build(), tmp_path / "p.zip", **given))
    assert not first.notes
    changed = first.replace(license="MIT")
    second = load_model(export_model(changed, tmp_path / "q.zip"))
    assert second.spec == changed.spec
    assert second.attachments.cover == picture
    assert second.attachments.documentation == "# Of my own\n"
    assert second.attachments.image is not None
    np.testing.assert_array_equal(second.attachments.image, image)
    suffix = "png" if picture is PNG else "jpg"
    assert read(tmp_path / "q.zip", f"cover.{suffix}") == picture
    assert read(tmp_path / "q.zip", "README.md") == b"# Of my own\n"


def test_what_was_made_of_the_card_is_made_anew(package: Path, tmp_path: Path) -> None:
    model = load_model(package).replace(description="Something else.", voxel_size=())
    assert not model.attachments.cover
    path = export_model(model, tmp_path / "p.zip")
    assert "Something else." in read(path, "README.md").decode()
    assert read(path, "cover.png") == read(package, "cover.png"), "of the same test image"


@pytest.mark.parametrize(
    ("option", "content", "reason"),
    [
        ("--cover", b"GIF89a", "no PNG or JPEG"),
        ("--cover", b"\x89PNG\r\n\x1a\n" + bytes(2**22), "Make it smaller"),
        ("--cover", None, "no file"),
        ("--documentation", b"\xff\xfe", "no text"),
        ("--documentation", b" \n", "is empty"),
    ],
)
def test_files_that_cannot_come_along(
    tmp_path: Path, option: str, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    done = run("nuclei-2d", "--out", str(tmp_path / "p.zip"), option, str(path))
    assert done.exit_code == 1
    assert reason in done.stderr
    assert not (tmp_path / "p.zip").exists()


def test_what_a_package_lacks_is_said(draft: Any, tmp_path: Path) -> None:
    model = load_model(draft.zip(tmp_path / "onnx.zip")).replace(**CARD)
    with pytest.warns(UserWarning, match=r"holds no weights\.pt: It is an ONNX graph, .* knows\."):
        export_model(model, tmp_path / "p.zip")
    notes: list[str] = []
    export_model(model, tmp_path / "q.zip", on_note=notes.append)
    assert len(notes) == 1
    export_model(build(), tmp_path / "whole.zip", on_note=notes.append)
    assert len(notes) == 1


@pytest.mark.parametrize("single", [True, False])
def test_graphs_of_one_image_are_described_so(tmp_path: Path, draft: Any, single: bool) -> None:
    model = load_model(draft.zip(tmp_path / "onnx.zip")).replace(**CARD) if single else build()
    path = export_model(model, tmp_path / "p.zip", on_note=lambda _: None)
    described = read_yaml(read(path, "rdf.yaml"))
    for tensor in (*described["inputs"], *described["outputs"]):
        assert tensor["axes"][0] == {"type": "batch", **({"size": 1} if single else {})}


def test_other_formats_hold_no_papers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no cover"):
        export_model(build(), tmp_path / "m.pth", "state_dict", cover=PNG)
    with pytest.raises(ConfigError, match="holds no documentation"):
        export_model(build(), tmp_path / "m.pth", "state_dict", documentation="# Words")
    with pytest.raises(ConfigError, match="no PNG or JPEG"):
        export_model(build(), tmp_path / "m.zip", cover=b"GIF89a")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["2d", "3d", "nuclei-2d", "nuclei-3d", "panseg", "", "weights.onnx"]
)
def test_bioimageio_core_finds_nothing_wrong(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("bioimageio.core")
    if kind.startswith("nuclei"):
        model = load_model(kind)
    elif kind == "panseg":
        folder = request.getfixturevalue("shared") / "models" / "panseg_unet3d_checkpoint"
        model = load_model(folder / "best_checkpoint.pytorch").replace(**CARD)
    elif kind in ("", "weights.onnx"):  # whose graph takes one image at a time
        folder = request.getfixturevalue("shared") / "models" / "bioimageio_unet2d_nuclei_broad"
        model = load_model(folder / kind).replace(**CARD)
    else:
        dim = int(kind[0])
        model = build(UNetConfig(n_blocks=2, start_filters=4, dim=dim, up_mode="nearest"))
    path = export_model(model, tmp_path / "p.zip", on_note=lambda _: None)
    done = subprocess.run(
        [sys.executable, "-m", "bioimageio.core", "test", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "BIOIMAGEIO_CACHE_PATH": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Reproduce test outputs from test inputs (onnx)" in done.stdout + done.stderr
