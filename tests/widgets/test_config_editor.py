"""The editor shows every valid config, and says where an invalid one is wrong."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytestqt.qtbot import QtBot

from unetari.core.config import UP_MODES, UNetConfig
from unetari.errors import ConfigError
from unetari.widgets.config_editor import TITLES, UNetConfigEditor
from unetari.widgets.messages import is_marked


@pytest.fixture
def editor(qtbot: QtBot) -> UNetConfigEditor:
    widget = UNetConfigEditor()
    qtbot.addWidget(widget.native)
    return widget


def test_every_option_has_a_field() -> None:
    assert set(TITLES) == set(UNetConfig.model_fields)


def test_every_field_is_explained(editor: UNetConfigEditor) -> None:
    assert all(field.tooltip for field in editor.fields.values())


def test_every_combination_of_choices_round_trips(editor: UNetConfigEditor) -> None:
    choices = product(
        [(dim, mode) for dim in (2, 3) for mode in UP_MODES[dim]],
        ("relu", "leaky", "elu"),
        ("none", "batch", "instance", "group1", "group4"),
        ("same", "valid"),
    )
    for (dim, up_mode), activation, normalization, conv_mode in choices:
        config = UNetConfig(
            dim=dim,
            up_mode=up_mode,
            activation=activation,
            normalization=normalization,
            conv_mode=conv_mode,
        )
        editor.set_value(config)
        assert editor.value() == config


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    in_channels=st.integers(1, 4096),
    out_channels=st.integers(1, 65535),
    n_blocks=st.integers(1, 5),
    start_filters=st.integers(1, 4096),
)
def test_every_number_round_trips(editor: UNetConfigEditor, **numbers: Any) -> None:
    config = UNetConfig(**numbers)
    editor.set_value(config)
    assert editor.value() == config


def test_setting_a_value_emits_changed_once(editor: UNetConfigEditor) -> None:
    seen: list[UNetConfig] = []
    editor.changed.connect(lambda: seen.append(editor.value()))
    config = UNetConfig(dim=3, up_mode="trilinear", n_blocks=3, normalization="group8")
    editor.set_value(config)
    assert seen == [config]
    editor.fields["n_blocks"].value = 2
    assert seen[1:] == [config.replace(n_blocks=2)]


def test_upsampling_follows_the_dimensions(editor: UNetConfigEditor) -> None:
    for dim in (3, 2):
        editor.fields["dim"].value = dim
        assert editor.fields["up_mode"].choices == UP_MODES[dim]


def test_linear_upsampling_stays_linear(editor: UNetConfigEditor) -> None:
    editor.set_value(UNetConfig(up_mode="bilinear"))
    editor.fields["dim"].value = 3
    assert editor.value().up_mode == "trilinear"
    editor.fields["dim"].value = 2
    assert editor.value().up_mode == "bilinear"


@pytest.mark.parametrize(
    ("wrong", "marked", "reason"),
    [
        ({"normalization": "group5"}, {"normalization", "start_filters"}, "5 groups do not divide"),
        ({"n_blocks": 10, "start_filters": 4096}, {"n_blocks", "start_filters"}, "at most 65536"),
    ],
)
def test_an_impossible_combination_is_marked_where_it_stands(
    editor: UNetConfigEditor, wrong: dict[str, Any], marked: set[str], reason: str
) -> None:
    for name, value in wrong.items():
        editor.fields[name].value = value
    assert reason in editor.problem
    assert {name for name in TITLES if is_marked(editor.fields[name].native)} == marked
    assert reason in editor.reason_of(next(iter(wrong)))
    with pytest.raises(ConfigError):
        editor.value()
    editor.set_value(UNetConfig())
    assert editor.problem == ""
    assert not any(is_marked(editor.fields[name].native) for name in TITLES)


def test_the_summary_follows(editor: UNetConfigEditor) -> None:
    assert "1,971,554 parameters" in editor.summary
    assert "multiples of 8" in editor.summary
    assert "100 x 100" in editor.summary
    editor.fields["n_blocks"].value = 1
    assert "any size" in editor.summary


def test_a_wrong_entry_of_a_list_is_marked(editor: UNetConfigEditor) -> None:
    editor.fields["dim"].value = 3
    editor.fields["planar_blocks"].value = "0, x"
    assert is_marked(editor.fields["planar_blocks"].native)
    assert "'x'" in editor.reason_of("planar_blocks")


def test_a_network_too_large_for_the_machine_is_marked(
    editor: UNetConfigEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetari.model.summary.free_host_memory", lambda: 2**24)
    editor.fields["n_blocks"].value = 5
    assert is_marked(editor.fields["n_blocks"].native)
    assert "GiB of memory are free. Use fewer blocks" in editor.reason_of("n_blocks")
    editor.fields["n_blocks"].value = 3
    assert not editor.problem
