"""Frozen statistics: tiles leave no trace in networks with instance and group normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from unetari import Model, UNetConfig, predict
from unetari.core.samples import sample_boxes
from unetari.core.tiles import Span
from unetari.errors import ConfigError, OutOfMemoryError
from unetari.inference.job import prepare
from unetari.inference.lean import LeanUNet
from unetari.inference.record import RunRecord
from unetari.inference.runner import Runner
from unetari.model.unet import UNet

MakeModel = Callable[..., Model]
NORMS = ["instance", "group2"]


def noise(*shape: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    steps = np.indices(shape).sum(axis=0) / sum(shape)  # so that parts of the image differ
    image: np.ndarray[Any, Any] = (rng.normal(size=shape) + 3 * steps).astype(np.float32)
    return image


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("order", ["conv-act-norm", "conv-norm-act"])
@pytest.mark.parametrize("conv_mode", ["same", "valid"])
def test_results_do_not_depend_on_tiles(
    make_model: MakeModel, norm: str, order: str, conv_mode: str
) -> None:
    model = make_model(normalization=norm, block_order=order, conv_mode=conv_mode, n_blocks=3)
    image = noise(150, 170)
    found = [
        predict(image, model, tile_shape=tile, scores=True, norm_statistics="sampled", device="cpu")
        for tile in [(100, 108), (116, 200), None]
    ]
    assert [result.record.n_tiles > 1 for result in found] == [True, True, False]
    for result in found[:2]:
        assert result.scores is not None
        np.testing.assert_allclose(result.scores, found[2].scores, atol=1e-5)  # type: ignore[arg-type]
        assert result.record.seams is not None
        assert result.record.seams.largest_difference < 1e-5
        assert result.record.norm_statistics == "sampled"


def test_tiles_do_show_without_it(make_model: MakeModel) -> None:
    model = make_model(normalization="instance", n_blocks=3)
    with pytest.warns(UserWarning, match="borders"):
        found = predict(noise(150, 170), model, tile_shape=(100, 108), device="cpu")
    assert found.record.seams is not None
    assert found.record.seams.largest_difference > 1e-3


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dim", [2, 3])
def test_frozen_on_one_image_is_the_network_on_that_image(dim: int, norm: str) -> None:
    torch.manual_seed(0)
    network = UNet(UNetConfig(dim=dim, n_blocks=2, start_filters=4, normalization=norm)).eval()
    image = torch.randn(1, 1, *(16, 20, 24)[-dim:]) * 3 + 1
    with torch.inference_mode():
        expected = network(image)
        lean = LeanUNet(network, frozen=True)
        lean.freeze(image)
        torch.testing.assert_close(lean(image), expected, atol=1e-5, rtol=1e-5)
        lean.freeze(image * 2)  # anew
        assert not torch.allclose(lean(image), expected, atol=1e-3)


def test_each_plane_has_statistics_of_its_own(make_model: MakeModel) -> None:
    model = make_model(normalization="instance", n_blocks=2)
    planes = np.stack([noise(60, 70), 40 * noise(60, 70) ** 2])
    together = predict(
        planes, model, axes="TYX", scores=True, norm_statistics="sampled", device="cpu"
    )
    # Intensities are mapped by statistics of the whole image: the same for both runs.
    again = predict(
        planes[::-1], model, axes="TYX", scores=True, norm_statistics="sampled", device="cpu"
    )
    assert together.scores is not None
    assert again.scores is not None
    np.testing.assert_allclose(together.scores[:, ::-1], again.scores, atol=1e-5)


def test_samples_lie_in_the_image() -> None:
    boxes = sample_boxes((1000, 700), UNetConfig(normalization="instance"))
    assert len(boxes) == 9
    assert boxes[0] == (Span(0, 256), Span(0, 256))
    assert boxes[-1] == (Span(744, 1000), Span(444, 700))
    assert len(sample_boxes((30, 40, 50), UNetConfig(dim=3, normalization="instance"))) == 1


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_only_for_networks_that_need_it(make_model: MakeModel, norm: str) -> None:
    with pytest.raises(ConfigError, match="instance or group normalization"):
        predict(noise(60, 60), make_model(normalization=norm), norm_statistics="sampled")


def test_samples_that_do_not_fit(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OutOfMemoryError("full.")

    monkeypatch.setattr(Runner, "freeze", full)
    monkeypatch.setattr(Runner, "push", full)
    with pytest.raises(OutOfMemoryError, match=r"thinnest strip\. Free memory\."):
        predict(noise(90, 90), make_model(normalization="instance"), norm_statistics="sampled")


@pytest.mark.parametrize(("was", "is_now"), [(True, "sampled"), (False, "tile")])
def test_older_records_load(make_model: MakeModel, was: bool, is_now: str) -> None:
    record = prepare(noise(30, 30), make_model(), device="cpu").record().model_dump(mode="json")
    del record["norm_statistics"]
    loaded = RunRecord.model_validate({**record, "frozen_norm": was})
    assert loaded.norm_statistics == is_now


def test_unknown_statistics(make_model: MakeModel) -> None:
    with pytest.raises(ConfigError, match=r"'batch' is unknown\. Choose one of: tile, sampled"):
        prepare(noise(60, 60), make_model(), norm_statistics="batch")
