"""The network: golden numbers, every option, sizes, input errors."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from unetari.core.config import UP_MODES, BlockOrder, UNetConfig
from unetari.core.sizes import Reach
from unetari.errors import ConfigError, ShapeError
from unetari.model.checkpoint import Model, load_model, save_model
from unetari.model.unet import UNet, autocrop

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_OPTIONS = json.loads((GOLDEN / "index.json").read_text())


def evaluate(config: UNetConfig, *sizes: int) -> torch.Tensor:
    network = UNet(config).eval()
    with torch.inference_mode():
        scores: torch.Tensor = network(torch.zeros(1, config.in_channels, *sizes))
    return scores


@pytest.mark.parametrize("name", GOLDEN_OPTIONS)
def test_answers_what_the_article_answers(name: str) -> None:
    options = {k: v for k, v in GOLDEN_OPTIONS[name].items() if not k.endswith("_shape")}
    expected = np.load(GOLDEN / f"{name}.npz")
    network = UNet(**options).eval()
    weights = torch.load(GOLDEN / f"{name}.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(weights, strict=True)

    generator = torch.Generator().manual_seed(int(expected["seed"]))
    image = torch.randn(*expected["shape"].tolist(), generator=generator)
    with torch.inference_mode():
        scores = network(image).numpy()

    assert scores.shape == tuple(expected["out_shape"])
    np.testing.assert_allclose(scores.ravel()[::97], expected["sample"], rtol=0, atol=1e-5)
    assert scores.mean() == pytest.approx(float(expected["mean"]), abs=1e-5)
    assert scores.std() == pytest.approx(float(expected["std"]), abs=1e-5)


@pytest.mark.parametrize(("dim", "up_mode"), [(d, m) for d in UP_MODES for m in UP_MODES[d]])
@pytest.mark.parametrize("conv_mode", ["same", "valid"])
def test_every_combination_runs(dim: int, up_mode: str, conv_mode: str) -> None:
    size = 8 if conv_mode == "same" else 20
    for normalization, activation, n_blocks in product(
        ["none", "batch", "instance", "group2"], ["relu", "leaky", "elu"], [1, 2]
    ):
        config = UNetConfig(
            in_channels=2,
            out_channels=3,
            n_blocks=n_blocks,
            start_filters=4,
            activation=activation,
            normalization=normalization,
            conv_mode=conv_mode,
            dim=dim,
            up_mode=up_mode,
        )
        lost = {"same": (0, 0), "valid": (4, 16)}[conv_mode][n_blocks - 1]
        assert evaluate(config, *[size] * dim).shape == (1, 3, *[size - lost] * dim)


def test_article_sizes() -> None:
    config = UNetConfig(n_blocks=5, start_filters=1, conv_mode="valid")
    assert evaluate(config, 572, 572).shape == (1, 2, 388, 388)


@pytest.mark.parametrize("normalization", ["none", "instance"])
@pytest.mark.parametrize("conv_mode", ["same", "valid"])
@pytest.mark.parametrize("n_blocks", [1, 2, 3])
def test_a_size_runs_or_is_refused(n_blocks: int, conv_mode: str, normalization: str) -> None:
    config = UNetConfig(
        n_blocks=n_blocks, start_filters=1, conv_mode=conv_mode, normalization=normalization
    )
    accepted = []
    for size in range(1, 64):
        with suppress(ShapeError):  # and no other error
            assert min(evaluate(config, size, size).shape) >= 1
            accepted.append(size)
    assert accepted[-1] >= 64 - Reach.of(config).multiple
    if conv_mode == "same" and normalization == "none":
        assert accepted == list(range(Reach.of(config).multiple, 64, Reach.of(config).multiple))


def test_defaults_are_those_of_the_article() -> None:
    network = UNet()
    assert len(network.state_dict()) == 127
    assert sum(p.numel() for p in network.parameters()) == 1_971_554


def test_options_and_config_build_the_same() -> None:
    by_name = UNet(in_channels=1, out_channels=2, n_blocks=2, start_filters=4, normalization=None)
    assert by_name.config == UNetConfig(n_blocks=2, start_filters=4, normalization="none")
    assert UNet(by_name.config).config == by_name.config


def test_config_and_options_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_blocks"):
        UNet(UNetConfig(), n_blocks=2)


def test_positional_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="in_channels=1"):
        UNet(1)  # type: ignore[arg-type]


def test_order_is_convolution_activation_normalization() -> None:
    network = UNet(n_blocks=1, start_filters=2, normalization="batch").train()
    order: list[str] = []
    for module in network.down_blocks[0].children():
        module.register_forward_hook(lambda module, *_: order.append(type(module).__name__))
    network(torch.rand(1, 1, 8, 8))
    assert order == ["Conv2d", "ReLU", "BatchNorm2d"] * 2 + ["Identity"]


def test_leaky_slope() -> None:
    slopes = [
        m.negative_slope for m in UNet(activation="leaky").modules() if hasattr(m, "negative_slope")
    ]
    assert slopes
    assert set(slopes) == {0.1}


def test_xavier_weights_and_zero_biases() -> None:
    network = UNet(start_filters=8, n_blocks=2)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    for module in convolutions:
        assert module.bias is not None
        assert not module.bias.any()
        fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
        limit = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.7 * limit < module.weight.abs().max() <= limit


def test_other_initializer() -> None:
    torch.manual_seed(0)
    network = UNet(n_blocks=1, initializer="kaiming_normal")
    normal = network.state_dict()["down_blocks.0.conv2.weight"]
    assert normal.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    with pytest.raises(ConfigError, match="xavier_uniform, xavier_normal"):
        UNet(initializer="zeros")  # type: ignore[arg-type]


def test_repr_is_one_readable_line() -> None:
    text = repr(UNet(n_blocks=3, up_mode="bicubic"))
    assert "\n" not in text
    assert "n_blocks=3" in text
    assert "up_mode='bicubic'" in text
    assert "parameters" in text


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 3, 16, 16), "C = 1"),
        ((1, 16, 16), "N, C, Y, X"),
        ((1, 1, 16, 16, 16), "N, C, Y, X"),
        ((1, 1, 16, 15), "Size 15 does not pool evenly.*unetari.predict"),
        ((1, 1, 4, 16), "Size 4 does not"),
    ],
)
def test_wrong_input(shape: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ShapeError, match=reason):
        UNet(start_filters=2)(torch.zeros(shape))


def test_autocrop_keeps_the_centre() -> None:
    skip = torch.arange(64.0).reshape(1, 1, 8, 8)
    cropped = autocrop(skip, torch.zeros(1, 1, 4, 8))
    assert torch.equal(cropped, skip[:, :, 2:6, :])


def test_gradients_reach_every_used_weight() -> None:
    network = UNet(n_blocks=2, start_filters=2, up_mode="nearest")
    network(torch.rand(2, 1, 8, 8)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_order_of_activation_and_normalization() -> None:
    torch.manual_seed(0)
    config = UNetConfig(n_blocks=1, start_filters=4, out_channels=4)
    unets = {
        order: UNet(config.replace(block_order=order)).eval() for order in get_args(BlockOrder)
    }
    weights = unets["conv-act-norm"].state_dict()
    weights["down_blocks.0.norm2.bias"] -= 0.5  # below zero, where the two orders differ
    weights["conv_final.weight"] = torch.eye(4)[:, :, None, None]
    features = {}
    for order, unet in unets.items():
        unet.load_state_dict(weights)
        features[order] = unet(torch.randn(1, 1, 9, 9))
    assert features["conv-act-norm"].min() < 0
    assert features["conv-norm-act"].min() == 0


@pytest.mark.parametrize("order", get_args(BlockOrder))
def test_the_order_is_told_for_bare_weights_and_kept_in_files(
    tmp_path: Path, order: BlockOrder
) -> None:
    model = Model.build(UNetConfig(n_blocks=2, start_filters=2, block_order=order), seed=0)
    torch.save(model.network.state_dict(), tmp_path / "bare.pt")
    bare = load_model(tmp_path / "bare.pt", block_order=order)
    own = load_model(save_model(model, tmp_path / "own.safetensors"))
    assert bare.spec.config == own.spec.config == model.spec.config
