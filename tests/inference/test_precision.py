"""Faster formats than float32: chosen when the labels stay the same, and never in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unetari import Model, UNetConfig, load_model, predict
from unetari.errors import DeviceError
from unetari.inference import precision
from unetari.inference.job import prepare
from unetari.inference.precision import find_precisions
from unetari.inference.runner import Runner
from unetari.samples import nuclei_2d

MakeModel = Callable[..., Model]


@pytest.fixture
def fast_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any CPU look as if it was fast in bf16."""
    monkeypatch.setattr(precision, "_has_fast_bf16", lambda: True)


@pytest.fixture(scope="module")
def image() -> NDArray[Any]:
    return nuclei_2d().image


@pytest.mark.usefixtures("fast_bf16")
def test_auto_takes_bf16_where_labels_stay_the_same(image: NDArray[Any]) -> None:
    exact = predict(image, "nuclei-2d", device="cpu", tile_shape=(256, 256))
    fast = predict(image, "nuclei-2d", device="cpu", tile_shape=(256, 256), precision="auto")
    assert fast.record.precision == "bf16"
    (check,) = fast.record.precision_checks
    assert check.passes
    changed = (fast.labels != exact.labels).mean()
    assert changed < 5 * precision.MOST_CHANGED
    assert "bf16 changes" in fast.record.findings[0]


@pytest.mark.usefixtures("fast_bf16")
def test_auto_stays_exact_where_they_do_not(
    image: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "MOST_CHANGED", -1.0)
    exact = predict(image, "nuclei-2d", device="cpu", tile_shape=(256, 256))
    found = predict(image, "nuclei-2d", device="cpu", tile_shape=(256, 256), precision="auto")
    assert found.record.precision == "float32"
    assert [check.precision for check in found.record.precision_checks] == ["bf16"]
    np.testing.assert_array_equal(found.labels, exact.labels)


@pytest.mark.usefixtures("fast_bf16")
def test_auto_refuses_numbers_that_are_not_finite(image: NDArray[Any]) -> None:
    model = load_model("nuclei-2d")
    network: Any = model.network
    with torch.no_grad():
        network.conv_final.bias[0] = torch.finfo(torch.float32).max
    found = predict(image, model, device="cpu", tile_shape=(256, 256), precision="auto")
    assert found.record.precision == "float32"
    assert not found.record.precision_checks[0].is_finite


def test_few_tiles_are_not_worth_a_check(image: NDArray[Any]) -> None:
    found = predict(image, "nuclei-2d", device="cpu", precision="auto")
    assert found.record.precision == "float32"
    assert found.record.precision_checks == ()


def test_a_named_format_is_used_and_checked(image: NDArray[Any]) -> None:
    found = predict(image, "nuclei-2d", device="cpu", precision="bf16")
    assert found.record.precision == "bf16"
    assert len(found.record.precision_checks) == 1


@pytest.mark.parametrize(
    ("name", "reason"), [("fp16", "does not exist on cpu"), ("half", "is unknown")]
)
def test_formats_that_are_not_there(name: str, reason: str) -> None:
    model = Model.build(UNetConfig(n_blocks=2, start_filters=2), seed=0)
    with pytest.raises(DeviceError, match=f"{reason}. Choose one of: auto, bf16, float32"):
        prepare(np.zeros((40, 40)), model, device="cpu", precision=name)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), ("fp16", "float32")), ((8, 0), ("fp16", "bf16", "tf32", "float32"))],
)
def test_formats_that_a_card_has(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    card = torch.device("cuda:1")
    network = Model.build(UNetConfig(n_blocks=2, start_filters=2), seed=0).network
    assert find_precisions("auto", card, network) == expected
    if "bf16" not in expected:
        with pytest.raises(DeviceError, match="Choose one of: auto, fp16, float32"):
            find_precisions("bf16", card, network)


@pytest.mark.usefixtures("fast_bf16")
def test_a_format_that_the_device_cannot_run(
    image: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Runner:
        raise DeviceError("No engine.")

    monkeypatch.setattr(Runner, "in_precision", refuse)
    plan: dict[str, Any] = {"device": "cpu", "tile_shape": (256, 256)}
    found = predict(image, "nuclei-2d", precision="auto", **plan)
    assert found.record.precision == "float32"
    assert found.record.precision_checks == ()
    with pytest.raises(DeviceError, match="No engine"):
        predict(image, "nuclei-2d", precision="bf16", **plan)
