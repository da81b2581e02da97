"""The lean way to run a network gives the numbers of the plain one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unetari import predict
from unetari.core.config import UP_MODES, UNetConfig
from unetari.core.network import reach_of
from unetari.core.sizes import axis_levels
from unetari.core.spec import ModelSpec
from unetari.core.stencils import plan_decoder
from unetari.errors import OutOfMemoryError
from unetari.inference import runner
from unetari.inference.job import prepare
from unetari.inference.layer import Layer
from unetari.inference.lean import LeanUNet
from unetari.inference.predict import run
from unetari.model.checkpoint import Model
from unetari.model.unet import UNet


def make_network(config: UNetConfig) -> UNet:
    """Return a network whose normalizations do something, with scales of both signs."""
    torch.manual_seed(0)
    network = UNet(config).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.4, 2)  # type: ignore[arg-type]
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, std=0.3)
    return network


@st.composite
def configs(draw: st.DrawFn, dim: int) -> UNetConfig:
    n_blocks = draw(st.integers(1, 4 if dim == 2 else 3))
    planar = draw(st.sets(st.integers(0, n_blocks - 1))) if dim == 3 else ()
    return UNetConfig(
        dim=dim,
        n_blocks=n_blocks,
        in_channels=draw(st.integers(1, 2)),
        start_filters=4,
        out_channels=draw(st.integers(1, 3)),
        up_mode=draw(st.sampled_from(UP_MODES[dim])),
        conv_mode=draw(st.sampled_from(["same", "valid"])),
        normalization=draw(st.sampled_from(["none", "batch", "instance", "group2"])),
        activation=draw(st.sampled_from(["relu", "leaky", "elu"])),
        block_order=draw(st.sampled_from(["conv-act-norm", "conv-norm-act"])),
        planar_blocks=tuple(sorted(planar)),
    )


def check(config: UNetConfig, data: st.DataObject) -> None:
    network = make_network(config)
    rules = [reach.rule for reach in reach_of(config)]
    sizes = [rule.above(rule.smallest + data.draw(st.integers(1, 24))) for rule in rules]
    image = torch.randn(1, config.in_channels, *sizes)
    with torch.inference_mode():
        expected = network(image)
        part = []
        for size in expected.shape[2:]:
            start = data.draw(st.integers(0, size - 1))
            part.append(slice(start, data.draw(st.integers(start + 1, size))))
        lean = LeanUNet(network)
        torch.testing.assert_close(lean(image), expected, atol=2e-5, rtol=1e-5)
        cut = expected[(..., *part)]
        torch.testing.assert_close(lean(image, part), cut, atol=2e-5, rtol=1e-5)


@given(config=configs(2), data=st.data())
@settings(max_examples=60)
def test_2d(config: UNetConfig, data: st.DataObject) -> None:
    check(config, data)


@given(config=configs(3), data=st.data())
@settings(max_examples=40)
def test_3d(config: UNetConfig, data: st.DataObject) -> None:
    check(config, data)


def test_neither_image_nor_network_is_changed() -> None:
    network = make_network(UNetConfig(n_blocks=3, start_filters=4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    image = torch.randn(1, 1, 32, 32)
    copy = image.clone()
    with torch.inference_mode():
        LeanUNet(network)(image)
    assert torch.equal(image, copy)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(getattr(module, "inplace", False) for module in network.modules())


@given(config=configs(2), size=st.integers(1, 12), data=st.data())
@settings(max_examples=60)
def test_the_decoder_keeps_no_more_than_it_needs(
    config: UNetConfig, size: int, data: st.DataObject
) -> None:
    config = config.replace(conv_mode="same", n_blocks=max(config.n_blocks, 2))
    full = reach_of(config)[0].multiple * size
    start = data.draw(st.integers(0, full - 1))
    stop = data.draw(st.integers(start + 1, full))
    step = plan_decoder(axis_levels(config), full, slice(start, stop)).steps[0]
    assert step.skip == slice(max(start - 2, 0), min(stop + 2, full))  # two 3x3 convolutions
    assert step.result == slice(start - step.skip.start, stop - step.skip.start)


class Wrong(LeanUNet):
    """A lean network with an error."""

    def forward(self, x: Tensor, part: Any = None) -> Tensor:
        return super().forward(x, part) + 0.01


def test_falls_back_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network(UNetConfig(n_blocks=2, start_filters=4))
    model = Model.from_network(network, ModelSpec(config=network.config))
    image = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    expected = predict(image, model, scores=True)
    assert expected.record.findings == ()
    monkeypatch.setattr(runner, "LeanUNet", Wrong)
    model = Model.from_network(network, ModelSpec(config=network.config))
    found = predict(image, model, scores=True)
    assert len(found.record.findings) == 1
    assert "gave other numbers" in found.record.findings[0]
    assert expected.scores is not None
    assert found.scores is not None
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_faster_formats_are_left_alone_then(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network(UNetConfig(n_blocks=2, start_filters=4))
    model = Model.from_network(network, ModelSpec(config=network.config))
    image = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    exact = predict(image, model, scores=True, device="cpu")
    monkeypatch.setattr(runner, "LeanUNet", Wrong)
    found = predict(image, model, scores=True, device="cpu", precision="bf16")
    assert found.record.precision == "float32"
    assert found.record.precision_checks == ()
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-5)  # type: ignore[arg-type]


def test_the_comparison_can_be_stopped() -> None:
    model = Model.build(UNetConfig(n_blocks=2, start_filters=4), seed=0)
    job = prepare(np.zeros((40, 50), np.uint8), model, device="cpu")
    run_ = run(job, should_stop=lambda: True)
    with pytest.raises(StopIteration) as end:
        next(run_)
    assert end.value.value.status == "cancelled"


def test_the_comparison_may_run_short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> bool:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(runner, "agree", full)
    model = Model.build(UNetConfig(n_blocks=2, start_filters=4), seed=0)
    with pytest.raises(OutOfMemoryError, match="The network does not fit on cpu"):
        predict(np.zeros((40, 50), np.uint8), model, device="cpu")


@pytest.mark.parametrize("normalization", ["instance", "group2"])
@pytest.mark.parametrize("n_blocks", [4, 5, 6])
def test_deep_networks_of_few_voxels_are_lean(normalization: str, n_blocks: int) -> None:
    """Statistics of four voxels make much of rounding, in the plain network, too."""
    config = UNetConfig(n_blocks=n_blocks, start_filters=8, normalization=normalization)
    for seed in range(3):
        model = Model.build(config, seed=seed)
        made = runner.Runner(model.network, torch.device("cpu"), lambda: False, frozen=True)
        assert made.is_lean


def test_the_fallback_keeps_to_the_memory_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "agree", lambda *_: False)
    model = Model.build(UNetConfig(n_blocks=2, start_filters=8), seed=0)
    image = np.zeros((900, 900), np.uint8)
    job = prepare(image, model, device="cpu", max_memory=2**23)
    assert job.strip < 900
    found = predict(image, model, device="cpu", max_memory=2**23)
    assert max(found.record.tile_shape) < 400


@pytest.mark.parametrize("channels", [8, 64])
@pytest.mark.parametrize("dim", [2, 3])
def test_batch_normalization_in_16_bits(dim: int, channels: int) -> None:
    """However few channels there are, and wherever the result goes."""
    convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dim == 2 else (nn.Conv3d, nn.BatchNorm3d)
    last = torch.channels_last if dim == 2 else torch.channels_last_3d
    normalization: Any = norm(channels)
    nn.init.normal_(normalization.running_mean)
    nn.init.normal_(normalization.bias)
    layer = Layer(
        convolution(1, channels, 3), nn.ReLU(), normalization.eval(), norm_first=False, frozen=False
    ).bfloat16()
    shape = (2, channels, 3, 5, 7)[: dim + 2]
    x = torch.randn(shape).bfloat16().contiguous(memory_format=last)
    with torch.inference_mode():
        expected = normalization(x.float())
        wide = x.new_zeros(shape[0], 2 * channels, *shape[2:]).contiguous(memory_format=last)
        found = [layer.finish(x.clone(), wide[:, :channels]), layer.finish(x)]
    for each in found:
        torch.testing.assert_close(each.float(), expected, atol=0.03, rtol=0.02)
    assert not wide[:, channels:].any()
