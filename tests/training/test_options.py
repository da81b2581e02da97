from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import pytest

from unetari.core.config import ConvMode, UNetConfig
from unetari.core.sizes import valid_output_size
from unetari.errors import ConfigError
from unetari.training.options import TrainingOptions, load_options


def test_every_option_has_a_default() -> None:
    assert TrainingOptions().patch == (192, 192)


def test_the_patch_must_suit_the_network() -> None:
    with pytest.raises(ConfigError, match="one per spatial axis"):
        TrainingOptions(patch_size=(64, 64, 64))
    with pytest.raises(ConfigError, match=r"takes 8 and every 8 more, not 100.*size is 104"):
        TrainingOptions(patch_size=(64, 100), network=UNetConfig(n_blocks=4))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("n_blocks", [1, 4, 5, 9])
def test_default_patches_suit_every_network(dim: Literal[2, 3], n_blocks: int) -> None:
    for conv_mode in get_args(ConvMode):
        network = UNetConfig(dim=dim, n_blocks=n_blocks, conv_mode=conv_mode)
        assert all(
            valid_output_size(size, network) > 0 for size in TrainingOptions(network=network).patch
        )


def test_patches_for_valid_convolution_are_checked() -> None:
    network = UNetConfig(n_blocks=2, conv_mode="valid")
    with pytest.raises(ConfigError, match="not 17"):
        TrainingOptions(network=network, patch_size=(32, 17))


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
