"""Options of the network: what is refused, and what the refusal says."""

from __future__ import annotations

import numpy as np
import pytest

from unetari.core.config import UP_MODES, FrozenModel, UNetConfig
from unetari.core.normalization import Normalization
from unetari.core.sizes import Reach
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError, UnetariError


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"n_blocks": 0}, ("n_blocks", "0", "greater than or equal to 1")),
        ({"n_blocks": -3}, ("n_blocks", "-3")),
        ({"n_blocks": 11}, ("n_blocks", "11", "10")),
        ({"n_blocks": 2.5}, ("n_blocks", "2.5")),
        ({"n_blocks": 4.0}, ("n_blocks=4.0", "integer")),
        ({"n_blocks": "4"}, ("n_blocks='4'", "integer")),
        ({"n_blocks": True}, ("n_blocks=True", "integer")),
        ({"in_channels": True}, ("in_channels=True", "integer")),
        ({"out_channels": False}, ("out_channels=False", "integer")),
        ({"start_filters": np.float32(8)}, ("start_filters", "8.0", "integer")),
        ({"in_channels": 0}, ("in_channels", "0")),
        ({"out_channels": 0}, ("out_channels", "0")),
        ({"start_filters": 0}, ("start_filters", "0")),
        ({"n_blocks": 10, "start_filters": 256}, ("131072", "65536", "Lower one")),
        ({"dim": 1}, ("dim", "1")),
        ({"dim": 4}, ("dim", "4")),
        ({"activation": "gelu"}, ("gelu", "relu", "leaky", "elu")),
        ({"conv_mode": "full"}, ("full", "same", "valid")),
        ({"up_mode": "area"}, ("area", "transposed", "nearest")),
        ({"up_mode": "trilinear"}, ("trilinear", "2D", "transposed, nearest, bilinear, bicubic")),
        ({"dim": 3, "up_mode": "bicubic"}, ("bicubic", "3D", "transposed, nearest, trilinear")),
        ({"dim": 3, "up_mode": "bilinear"}, ("bilinear", "3D", "trilinear")),
        ({"normalization": "layer"}, ("layer", "batch", "instance", "groupN")),
        ({"normalization": "group"}, ("'group'", "groupN")),
        ({"normalization": "group0"}, ("group0", "groupN")),
        ({"normalization": "group-2"}, ("group-2", "groupN")),
        ({"normalization": "group08"}, ("group08", "groupN")),
        ({"normalization": "Batch"}, ("Batch", "batch")),
        ({"normalization": "group5"}, ("5 groups", "start_filters=32", "1, 2, 4, 8, 16, 32")),
        ({"normalization": "group64"}, ("64 groups", "start_filters=32")),
        ({"depth": 4}, ("depth", "unknown option")),
        ({"in_channels": None}, ("in_channels", "None")),
    ],
)
def test_refuses_with_value_and_choices(options: dict[str, object], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        UNetConfig(**options)
    for part in parts:
        assert part in str(caught.value)


def test_error_is_a_value_error_and_no_runtime_error() -> None:
    # Generator workers swallow RuntimeError in silence.
    assert issubclass(ConfigError, UnetariError)
    assert issubclass(ConfigError, ValueError)
    assert not issubclass(ConfigError, RuntimeError)


def test_names_every_wrong_option_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)n_blocks.*conv_mode"):
        UNetConfig(n_blocks=0, conv_mode="full")


def test_is_frozen() -> None:
    config = UNetConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.n_blocks = 3  # type: ignore[misc]


def test_defaults_are_those_of_the_article() -> None:
    config = UNetConfig()
    assert (config.in_channels, config.out_channels, config.n_blocks) == (1, 2, 4)
    assert (config.start_filters, config.activation, config.normalization) == (32, "relu", "batch")
    assert (config.conv_mode, config.dim, config.up_mode) == ("same", 2, "transposed")


def test_none_as_normalization_means_none() -> None:
    assert UNetConfig(normalization=None).normalization == "none"


@pytest.mark.parametrize("dim", [2, 3])
def test_every_listed_up_mode_is_accepted(dim: int) -> None:
    for mode in UP_MODES[dim]:
        assert UNetConfig(dim=dim, up_mode=mode).up_mode == mode


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_groups_that_divide_the_filters(groups: int) -> None:
    assert UNetConfig(start_filters=8, normalization=f"group{groups}").groups == groups


@pytest.mark.parametrize("normalization", ["none", "batch", "instance"])
def test_no_groups_without_group_normalization(normalization: str) -> None:
    assert UNetConfig(normalization=normalization).groups is None


def test_derived_values() -> None:
    config = UNetConfig(n_blocks=5, start_filters=64, out_channels=1)
    assert config.filters == (64, 128, 256, 512, 1024)
    assert Reach.of(config).multiple == 16
    assert config.n_classes == 2
    assert UNetConfig(out_channels=7).n_classes == 7


def test_one_block_pools_nowhere() -> None:
    config = UNetConfig(n_blocks=1)
    assert Reach.of(config).multiple == 1
    assert config.filters == (32,)


@pytest.mark.parametrize(
    ("normalization", "exact"),
    [("none", True), ("batch", True), ("instance", False), ("group4", False)],
)
def test_which_networks_tile_exactly(normalization: str, exact: bool) -> None:
    assert UNetConfig(normalization=normalization).tiles_exactly is exact


def test_replace_validates_and_leaves_the_original() -> None:
    config = UNetConfig()
    assert config.replace(n_blocks=2).n_blocks == 2
    assert config.n_blocks == 4
    with pytest.raises(ConfigError, match="trilinear"):
        config.replace(up_mode="trilinear")
    with pytest.raises(ConfigError, match="unknown option"):
        config.replace(blocks=2)


def test_survives_a_round_trip_through_json() -> None:
    config = UNetConfig(dim=3, up_mode="trilinear", normalization="group2", conv_mode="valid")
    assert UNetConfig.model_validate_json(config.model_dump_json()) == config


def test_integers_of_numpy_are_integers() -> None:
    config = UNetConfig(n_blocks=np.int64(3), in_channels=np.uint8(2))
    assert config == UNetConfig(n_blocks=3, in_channels=2)
    assert type(config.n_blocks) is int


def test_equal_options_are_equal_and_hash_alike() -> None:
    assert UNetConfig(n_blocks=3) == UNetConfig(n_blocks=3)
    assert hash(UNetConfig(n_blocks=3)) == hash(UNetConfig(n_blocks=3))


@pytest.mark.parametrize("settings", [UNetConfig, Normalization, ModelSpec])
def test_every_option_is_explained(settings: type[FrozenModel]) -> None:
    texts = settings.explain_options()
    assert set(texts) == set(settings.model_fields)
    assert all(texts.values())


def test_settings_without_source_explain_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> str:
        raise OSError("no source")

    monkeypatch.setattr("inspect.getsource", fail)
    assert UNetConfig.explain_options() == {}


def test_options_of_a_class_within_a_function_are_explained() -> None:
    class Local(FrozenModel):
        size: int = 1
        """How large."""

    assert Local.explain_options() == {"size": "How large."}


def test_only_strings_below_options_explain_them() -> None:
    class Odd(FrozenModel):
        called: int = 1
        print  # noqa: B018
        number: int = 2
        3  # noqa: B018
        size: int = 3
        """How large."""

    assert Odd.explain_options() == {"size": "How large."}


def test_inherited_options_are_explained_and_can_be_explained_anew() -> None:
    class Base(FrozenModel):
        size: int = 1
        """How large."""
        colour: str = "red"
        """Which colour."""

    class Derived(Base):
        colour: str = "blue"
        """Which colour, blue by default."""
        depth: int = 2
        """How deep."""

    assert Derived.explain_options() == {
        "size": "How large.",
        "colour": "Which colour, blue by default.",
        "depth": "How deep.",
    }
