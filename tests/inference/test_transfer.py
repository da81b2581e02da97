"""What is sent to a device arrives, and is normalized there as it would be on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from unetari import Model, predict
from unetari.core.normalization import Normalization, fit_intensity
from unetari.inference import reader
from unetari.inference.engine import one_behind
from unetari.inference.transfer import Transfer, maps_on_device

MakeModel = Callable[..., Model]
NARROW = ["bool", "uint8", "int8", "uint16", "int16", "float16"]


def noise(dtype: str, *shape: int) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(0).normal(100, 30, shape)
    return values.clip(0, 250).astype(dtype)


@pytest.mark.parametrize("method", ["percentile", "zscore", "minmax", "range", "none"])
@pytest.mark.parametrize("dtype", NARROW)
def test_the_device_maps_intensities_as_the_host_does(dtype: str, method: Any) -> None:
    image = noise(dtype, 2, 20, 30)
    image[1] = 1  # constant
    if dtype == "float16":
        image[0, 0, :3] = np.nan, np.inf, -np.inf
    intensity = fit_intensity(Normalization(method=method), [image])
    transfer = Transfer(torch.device("cpu"))
    found = transfer.receive(transfer.send(image[np.newaxis], intensity))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found[0].numpy(), intensity(image))


def test_what_is_sent_stays_as_it_is() -> None:
    image = noise("float32", 1, 1, 20, 30)
    image.flags.writeable = False
    transfer = Transfer(torch.device("cpu"))
    sent = transfer.receive(transfer.send(image[..., ::-1]))
    np.testing.assert_array_equal(sent.numpy(), image[..., ::-1])
    sent += 1
    np.testing.assert_array_equal(image, noise("float32", 1, 1, 20, 30))


def test_results_come_back() -> None:
    values = torch.arange(12, dtype=torch.uint8).view(3, 4)
    np.testing.assert_array_equal(Transfer(torch.device("cpu")).fetch(values)(), values.numpy())


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("uint16", "cuda", True),
        ("uint8", "cuda", True),
        ("uint8", "mps", False),
        ("uint16", "cpu", False),
        (">u2", "cuda", False),
        ("int32", "mps", False),
        ("float32", "cuda", False),
    ],
)
def test_only_what_float32_holds_is_mapped_there(dtype: str, device: str, expected: bool) -> None:
    assert maps_on_device(np.dtype(dtype), torch.device(device)) == expected


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("axes", ["YX", "TYX", "CYX"])
def test_a_run_that_sends_raw_values(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, axes: str, dtype: str
) -> None:
    model = make_model(method="percentile", in_channels=2 if "C" in axes else 1)
    image = noise(dtype, *[2] * (len(axes) - 2), 70, 90)
    options: dict[str, Any] = {"axes": axes, "scores": True, "device": "cpu"}
    expected = predict(image, model, **options)
    sent: list[Any] = []
    send = Transfer.send

    def noting(self: Transfer, block: np.ndarray[Any, Any], intensity: Any = None) -> Any:
        sent.append((block.dtype, intensity))
        return send(self, block, intensity)

    monkeypatch.setattr(Transfer, "send", noting)
    monkeypatch.setattr(reader, "maps_on_device", lambda *_: True)
    found = predict(image, model, **options)
    assert {block for block, _ in sent} == {np.dtype(dtype)}
    assert all(intensity is not None for _, intensity in sent)
    assert found.scores is not None
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_one_behind_keeps_everything() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for item in range(3):
            asked.append(item)
            yield item
        raise OSError("broken")

    results = one_behind(items())
    assert next(results) == 0
    assert asked == [0, 1]
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(OSError, match="broken"):
        next(results)


def test_a_run_on_another_device_is_one_behind(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes out, and what is kept at a stop, is the same; the order, too."""
    image = noise("uint16", 80, 200)
    model, plan = make_model(n_blocks=2), {"tile_shape": (40, 64), "device": "cpu"}
    expected = predict(image, model, **plan)
    monkeypatch.setattr("unetari.inference.engine._KEEPS_UP", ())
    found = predict(image, model, **plan)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.record.tiles_done == expected.record.tiles_done
