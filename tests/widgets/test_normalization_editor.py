"""The editor shows every normalization exactly, and says where limits are wrong."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytestqt.qtbot import QtBot

from unetari.core.normalization import METHODS, SCOPES, Method, Normalization, Scope
from unetari.errors import ConfigError
from unetari.widgets.messages import is_marked
from unetari.widgets.normalization_editor import NormalizationEditor

LIMITS = st.floats(-1e12, 1e12).filter(lambda value: value == 0 or abs(value) > 1e-30)


@pytest.fixture
def editor(qtbot: QtBot) -> NormalizationEditor:
    widget = NormalizationEditor()
    qtbot.addWidget(widget.native)
    return widget


def test_every_method_and_scope_is_offered(editor: NormalizationEditor) -> None:
    assert tuple(METHODS) == get_args(Method) == editor.method.choices
    assert tuple(SCOPES) == get_args(Scope) == editor.scope.choices


def test_it_begins_with_the_default(editor: NormalizationEditor) -> None:
    assert editor.value() == Normalization()


@pytest.mark.parametrize("scope", get_args(Scope))
@pytest.mark.parametrize("method", ["percentile", "zscore", "minmax"])
def test_statistics_round_trip(editor: NormalizationEditor, method: Method, scope: Scope) -> None:
    normalization = Normalization(method=method, scope=scope)
    editor.set_value(normalization)
    assert editor.value() == normalization


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(LIMITS, min_size=2, max_size=2, unique=True))
def test_a_range_round_trips_exactly(editor: NormalizationEditor, limits: list[float]) -> None:
    normalization = Normalization(method="range", low=min(limits), high=max(limits))
    editor.set_value(normalization)
    assert editor.value() == normalization


@pytest.mark.parametrize("low", [0.0, 0.125, 1e-7, 12.3456789])
def test_percentiles_round_trip_exactly(editor: NormalizationEditor, low: float) -> None:
    normalization = Normalization(low=low, high=99.9995)
    editor.set_value(normalization)
    assert editor.value() == normalization


@pytest.mark.parametrize("text", ["99.8", "100", "0", "99.9995", "12.25"])
def test_numbers_have_the_decimals_they_need(editor: NormalizationEditor, text: str) -> None:
    _, high = editor.limits["percentile"]
    high.value = float(text)
    line = high.native.lineEdit()
    assert line.text() == text
    line.setText("99.1234")  # as if typed: finer than what was shown
    high.native.interpretText()
    assert high.value == 99.1234
    assert line.text() == "99.1234"


def test_setting_a_value_emits_changed_once(editor: NormalizationEditor) -> None:
    seen: list[Normalization] = []
    editor.changed.connect(lambda: seen.append(editor.value()))
    normalization = Normalization(method="range", low=-2, high=4, scope="image")
    editor.set_value(normalization)
    assert seen == [normalization]
    editor.method.value = "none"
    assert seen[1:] == [Normalization(method="none")]


def test_only_what_the_method_uses_is_shown(editor: NormalizationEditor) -> None:
    editor.show()
    shown = {}
    for method in METHODS:
        editor.method.value = method
        limits = [name for name, (low, _) in editor.limits.items() if low.visible]
        shown[method] = (limits, editor.scope.visible)
    assert shown == {
        "percentile": (["percentile"], True),
        "zscore": ([], True),
        "minmax": ([], True),
        "range": (["range"], False),
        "none": ([], False),
    }


@pytest.mark.parametrize("method", ["percentile", "range"])
def test_limits_in_the_wrong_order_are_marked_with_the_reason(
    editor: NormalizationEditor, method: Method
) -> None:
    editor.method.value = method
    low, high = editor.limits[method]
    high.value = low.value
    assert "low smaller than high" in editor.problem
    assert is_marked(low.native)
    assert is_marked(high.native)
    with pytest.raises(ConfigError):
        editor.value()
    # What another method does not use does not block it.
    editor.method.value = "zscore"
    assert editor.problem == ""
    assert editor.value() == Normalization(method="zscore")
    editor.method.value = method
    high.value = low.value + 1
    assert editor.problem == ""
    assert not is_marked(low.native)


def test_a_file_may_bring_its_own(qtbot: QtBot) -> None:
    editor = NormalizationEditor(unset="as the file says")
    qtbot.addWidget(editor.native)
    assert (editor.is_set, editor.value()) == (False, Normalization())
    editor.method.value = "none"
    assert (editor.is_set, editor.value()) == (True, Normalization(method="none"))


def test_what_only_files_declare_is_kept_with_its_method(editor: NormalizationEditor) -> None:
    declared = Normalization(method="zscore", channels="together", eps=1e-6)
    editor.set_value(declared)
    assert editor.value() == declared
    editor.method.value = "minmax"
    assert editor.value() == Normalization(method="minmax")
