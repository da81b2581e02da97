from __future__ import annotations

from pathlib import Path

import pytest

from unetari.core.config import UNetConfig
from unetari.errors import ConfigError
from unetari.training.options import TrainingOptions, load_options


def test_every_option_has_a_default() -> None:
    assert TrainingOptions().patch == (192, 192)


def test_the_patch_must_suit_the_network() -> None:
    with pytest.raises(ConfigError, match="one per spatial axis"):
        TrainingOptions(patch_size=(64, 64, 64))
    with pytest.raises(ConfigError, match="100 is no multiple of 8"):
        TrainingOptions(patch_size=(64, 100), network=UNetConfig(n_blocks=4))


def test_foreground_needs_two_classes() -> None:
    with pytest.raises(ConfigError, match="target='classes'"):
        TrainingOptions(network=UNetConfig(out_channels=3))
    TrainingOptions(network=UNetConfig(out_channels=3), target="classes")
    TrainingOptions(network=UNetConfig(out_channels=1))


def test_a_toml_file_gives_the_options(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('steps = 7\nvalidation = "held-out.txt"\n[network]\ndim = 3\n', "utf-8")
    (tmp_path / "held-out.txt").write_text("# by field of view\nfield 3\n\nfield 5_*\n", "utf-8")
    options = load_options(path)
    assert (options.steps, options.network.dim) == (7, 3)
    assert options.validation == ("field 3", "field 5_*")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stpes = 7", "unknown option"),
        ("steps = ", "no valid TOML"),
        ('validation = "missing.txt"', "missing.txt"),
        ("validation = 1.5", "validation"),
        ("[network]\nn_blocks = 0", "n_blocks"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=message):
        load_options(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_options(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("name", ["nuclei-2d", "nuclei-3d"])
def test_the_recipes_of_the_bundled_models_load(repository: Path, name: str) -> None:
    options = load_options(repository / "recipes" / f"{name}.toml")
    assert options.name == name
    assert isinstance(options.validation, tuple)
    assert len(options.validation) > 1
