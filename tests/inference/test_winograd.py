"""`Winograd` gives the numbers of the convolution whose work it does."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from unetari import Model, UNetConfig, predict
from unetari.inference.lean import LeanUNet
from unetari.inference.onednn import Convolution
from unetari.inference.runner import Plain, agree
from unetari.inference.winograd import LEAST_SIZE, Winograd
from unetari.model.unet import UNet

CONVOLUTIONS: dict[int, Any] = {
    2: (nn.Conv2d, functional.conv2d, torch.channels_last),
    3: (nn.Conv3d, functional.conv3d, torch.channels_last_3d),
}


def make(layer: nn.Conv2d) -> Winograd:
    return Winograd(layer, Convolution.of(layer))


@given(
    dim=st.sampled_from([2, 3]),
    batch=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    padded=st.booleans(),
    rows_padded=st.booleans(),
    rows=st.integers(3, 17),
    at_once=st.sampled_from([1, 2**11, 2**21]),
    seed=st.integers(0, 9),
)
@torch.inference_mode()
def test_the_numbers_are_those_of_the_convolution(
    dim: int,
    batch: int,
    channels: tuple[int, int],
    padded: bool,
    rows_padded: bool,
    rows: int,
    at_once: int,
    seed: int,
) -> None:
    layer_of, convolve, memory_format = CONVOLUTIONS[dim]
    torch.manual_seed(seed)
    layer = layer_of(*channels, 3, padding=int(padded))
    nn.init.normal_(layer.bias)
    image = torch.randn(batch, channels[0], rows, *[7, 5][: dim - 1])
    image = image.contiguous(memory_format=memory_format)
    padding = [int(padded and rows_padded), *[int(padded)] * (dim - 1)]
    expected = convolve(image.double(), layer.weight.double(), layer.bias.double(), padding=padding)
    with patch("unetari.inference.winograd._MOST_VALUES", at_once):
        found = make(layer)(image, rows_padded)
    assert found.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(found.double(), expected, atol=3e-6, rtol=1e-5)


@torch.inference_mode()
def test_it_rounds_about_as_much_as_the_convolution() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(128, 64, 3)
    image = torch.randn(1, 128, 34, 64).relu().contiguous(memory_format=torch.channels_last)
    true = functional.conv2d(image.double(), layer.weight.double(), layer.bias.double())

    def error(found: torch.Tensor) -> float:
        return float((found - true).square().mean().sqrt())

    assert error(make(layer)(image, rows_padded=False)) < 2.5 * error(layer(image))


@pytest.mark.parametrize(
    ("layer", "suits"),
    [
        (nn.Conv2d(32, 32, 3), True),
        (nn.Conv3d(8, 8, 3), True),
        (nn.Conv2d(1, 32, 3), False),  # the additions would cost more than they save
        (nn.Conv2d(64, 64, 1), False),
        (nn.Conv3d(32, 32, (1, 3, 3)), False),
        (nn.ConvTranspose2d(64, 32, 2, stride=2), False),
        (nn.Conv2d(64, 64, 3, stride=2), False),
        (nn.Conv2d(64, 64, 3, dilation=2), False),
        (nn.Conv2d(64, 64, 3, groups=2), False),
        (nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv2d(64, 64, 3, bias=False), False),
    ],
)
def test_it_suits_convolutions_of_three_rows_with_many_channels(
    layer: nn.Module, suits: bool
) -> None:
    assert Winograd.suits(layer) == suits


def test_it_pays_for_large_arrays_of_float32_with_channels_innermost() -> None:
    winograd = make(nn.Conv2d(64, 64, 3))
    last = torch.channels_last
    large = torch.empty(1, 64, 128, 128, memory_format=last)
    assert winograd.pays(large)
    assert not winograd.pays(large[:, :, :16, :16])
    assert not winograd.pays(large.reshape(1, 64, 4, 4096).contiguous(memory_format=last))
    assert not winograd.pays(large.contiguous())
    assert not winograd.pays(large.bfloat16())
    assert not winograd.pays(large.double())


def test_what_disagrees_is_found_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    config = UNetConfig(n_blocks=2, start_filters=32)
    network = UNet(config).eval()
    lean = LeanUNet(network)
    with torch.inference_mode():
        assert agree(lean, Plain(network), config)
        winograd: Any = lean.blocks[0].second.winograd
        assert winograd.least_size == LEAST_SIZE
        monkeypatch.setattr("unetari.inference.winograd._assemble", lambda rows, out: out.zero_())
        assert not agree(lean, Plain(network), config)


def test_the_users_default_device_is_none_of_its_business() -> None:
    config = UNetConfig(n_blocks=2, start_filters=32)
    model = Model.build(config, seed=0)
    image = np.random.default_rng(0).normal(size=(90, 200)).astype(np.float32)
    expected = predict(image, model, device="cpu").labels
    try:
        torch.set_default_device("meta")
        found = predict(image, model, device="cpu").labels
    finally:
        torch.set_default_device(None)
    np.testing.assert_array_equal(found, expected)
