"""`unetari models` and `unetari info` with the library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import unetari
from unetari import Model, UNetConfig, load_model, save_model
from unetari.cli import app
from unetari.model.keep import open_file, remember
from unetari.model.library import Library


def run(*arguments: object, **options: str) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)  # type: ignore[arg-type]


def succeed(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    config = UNetConfig(n_blocks=2, start_filters=4)
    model = Model.build(config, class_names=("background", "yeast"), seed=0)
    return save_model(model.replace(authors=("Ada Author",)), tmp_path / "net.safetensors")


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_all_models_are_listed(file: Path, arguments: list[str]) -> None:
    succeed("models", "add", file, "--name", "mine")
    text = succeed("models", *arguments).stdout
    for name in (*unetari.bundled_models(), "mine"):
        assert name in text
    (row,) = [words(line) for line in text.splitlines() if "mine" in line]
    assert row.startswith("mine unetari model 2D yeast ")
    assert " kB 20" in row
    assert row.endswith("kept")


@pytest.mark.skipif(sys.platform == "win32", reason="no such names")
def test_names_of_files_cannot_change_the_terminal(file: Path) -> None:
    name = "a\x1b[31mb.safetensors"
    remember(open_file(file.rename(name), {}), Library.default())
    for command in (["models"], ["info", name]):
        assert "a\\x1b[31mb" in succeed(*command).stdout.replace("\n", "")
    for command in (["models"], ["info", name], ["models", "remove", name, "--yes"]):
        assert "\x1b" not in succeed(*command).output


def test_words_search(file: Path) -> None:
    succeed("models", "add", file, "--name", "mine")
    assert "mine" in succeed("models", "ada", "YEAST").stdout
    assert "nuclei-2d" not in succeed("models", "ada").stdout
    result = succeed("models", "elephant")
    assert result.stdout == ""
    assert "No model matches" in result.stderr


def test_a_kept_model_is_used_by_name(file: Path) -> None:
    assert succeed("models", "add", file).stdout == "net\n"
    expected = load_model(file).sha256
    file.unlink()
    assert expected[:20] in succeed("info", "net").stdout
    succeed("export", "net", "--to", "state_dict", "--out", "weights.pth")
    assert succeed("models", "rename", "net", "yeast").stdout == "yeast\n"
    assert run("info", "net").exit_code == 1
    succeed("info", "yeast")


def test_what_is_assumed_is_kept(file: Path, tmp_path: Path) -> None:
    import torch

    torch.save(unetari.UNet(n_blocks=2, start_filters=4).state_dict(), tmp_path / "a.pt")
    succeed("models", "add", "a.pt", "--name", "told", "--assume", "activation=elu")
    assert ", ELU," in words(succeed("info", "told").stdout)


def test_the_same_model_is_kept_once(file: Path) -> None:
    succeed("models", "add", file, "--name", "first")
    result = succeed("models", "add", file, "--name", "second")
    assert result.stdout == "first\n"
    assert "kept already" in result.stderr


def test_removing_asks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed("models", "add", file)
    result = run("models", "remove", "net")
    assert result.exit_code == 1
    assert "say --yes" in words(result.stderr)
    monkeypatch.setattr("unetari.cli.models._is_terminal", lambda: True)
    assert run("models", "remove", "net", input="n\n").exit_code == 1
    assert Library.default().find("net") is not None
    result = run("models", "remove", "net", input="y\n")
    assert result.exit_code == 0
    assert str(file) in result.stderr.replace("\n", "")
    assert Library.default().find("net") is None
    assert file.exists()


def test_recent_files_are_forgotten_by_their_path(file: Path) -> None:
    library = Library.default()
    remember(open_file(file, {}), library)
    assert "recent" in succeed("models").stdout
    succeed("models", "remove", "net.safetensors", "--yes")
    assert library.read().recent == ()
    assert file.exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["remove", "nuclei-2d", "--yes"], "comes with unetari, and stays"),
        (["remove", "nothing", "--yes"], "There is no kept model 'nothing'"),
        (["rename", "nothing", "new"], "There is no kept model 'nothing'"),
        (["add", "net.safetensors", "--name", "nuclei-3d"], "comes with unetari"),
        (["add", "nowhere.pt"], "no such file"),
        (["add", "net.safetensors", "--assume", "trust=true"], "say --trust"),
        (["add", "."], "Pack them as a zip"),
    ],
)
def test_what_cannot_be_is_said(file: Path, arguments: list[str], reason: str) -> None:
    result = run("models", *arguments)
    assert result.exit_code == 1
    assert reason in words(result.stderr)


def test_a_damaged_entry_is_a_warning(file: Path, library_folder: Path) -> None:
    succeed("models", "add", file)
    (library_folder / "kept" / "broken.json").write_text("{")
    result = succeed("models")
    assert "net" in result.stdout
    assert "broken.json" in result.stderr.replace("\n", "")


def test_info_says_that_a_recent_file_has_changed(file: Path) -> None:
    remember(open_file(file, {}), Library.default())
    assert "changed" not in succeed("info", "net.safetensors").stderr
    save_model(Model.build(UNetConfig(n_blocks=1), seed=1), file, overwrite=True)
    assert "has changed since" in words(succeed("info", "net.safetensors").stderr)


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from unetari.cli import app;"
        "app(['models', '--help'], standalone_mode=False);"
        "assert not {'torch', 'numpy', 'napari'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("list", "add", "rename", "remove"):
        assert command in done.stdout
