"""Planar blocks: they leave z alone, in the rules as in the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unetari import check_shape
from unetari.core.config import UNetConfig
from unetari.core.levels import find_levels
from unetari.core.network import reach_of
from unetari.core.sizes import Reach, even_sizes, receptive_field
from unetari.core.spec import ModelSpec
from unetari.errors import ConfigError
from unetari.inference.predict import predict
from unetari.model.checkpoint import Model
from unetari.model.probe import probe_network
from unetari.model.summary import count_parameters
from unetari.model.unet import UNet
from unetari.model.weights import LoadOptions, infer_config

CHOICES = [(0,), (0, 1), (1,), (2,), (0, 1, 2)]


def network(**options: object) -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(dim=3, n_blocks=3, start_filters=2, **options)).eval()


def test_z_is_pooled_less_often() -> None:
    z, y, x = reach_of(UNetConfig(dim=3, n_blocks=4, planar_blocks=(0, 1)))
    assert (z.multiple, y.multiple, x.multiple) == (2, 8, 8)
    # As a network of two blocks has it along z: the planar ones neither look nor pool.
    assert z == Reach.of(UNetConfig(dim=3, n_blocks=2), -3)
    assert y == x == Reach.of(UNetConfig(dim=3, n_blocks=4))


def test_all_blocks_planar_see_one_plane() -> None:
    config = UNetConfig(dim=3, n_blocks=3, planar_blocks=(0, 1, 2))
    assert receptive_field(config, -3) == 1
    assert receptive_field(config, -1) == receptive_field(UNetConfig(n_blocks=3))


@pytest.mark.parametrize("planar", CHOICES)
@pytest.mark.parametrize("up_mode", ["transposed", "trilinear"])
def test_the_rules_are_what_probing_finds(planar: tuple[int, ...], up_mode: str) -> None:
    unet = network(planar_blocks=planar, up_mode=up_mode)
    probe = probe_network(unet, dim=3, in_channels=1)
    assert probe.exact
    assert probe.reaches == reach_of(unet.config)


@pytest.mark.parametrize("planar", CHOICES)
@pytest.mark.parametrize("conv_mode", ["same", "valid"])
def test_sizes_per_level(planar: tuple[int, ...], conv_mode: str) -> None:
    unet = network(planar_blocks=planar, conv_mode=conv_mode)
    sizes = [reach.rule.above(17) for reach in reach_of(unet.config)]
    found: list[tuple[int, ...]] = []
    for block in unet.down_blocks:
        block.register_forward_hook(lambda *args: found.append(tuple(args[2][1].shape[2:])))
    with torch.inference_mode():
        unet(torch.zeros(1, 1, *sizes))
    levels = find_levels(unet.config, sizes)
    if conv_mode == "same":
        assert [level.encoder for level in levels] == found
    assert [level.plain for level in levels] == found
    assert not any(any(level.wrong) for level in levels)


@pytest.mark.parametrize("planar", CHOICES)
@pytest.mark.parametrize("conv_mode", ["same", "valid"])
def test_tiled_is_whole(planar: tuple[int, ...], conv_mode: str) -> None:
    unet = network(planar_blocks=planar, conv_mode=conv_mode)
    model = Model.from_network(unet, ModelSpec(config=unet.config))
    image = np.random.default_rng(0).normal(size=(13, 90, 61)).astype(np.float32)
    smallest = [reach.smallest_tile for reach in reach_of(model.spec.config)]
    whole = predict(image, model, scores=True)
    tiled = predict(image, model, scores=True, tile_shape=[s + 4 for s in smallest])
    assert tiled.record.tiles_done > 1
    assert whole.scores is not None
    assert tiled.scores is not None
    np.testing.assert_allclose(tiled.scores, whole.scores, atol=1e-5)


@pytest.mark.parametrize("planar", CHOICES)
@pytest.mark.parametrize("up_mode", ["transposed", "nearest"])
def test_weights_tell(planar: tuple[int, ...], up_mode: str) -> None:
    unet = network(planar_blocks=planar, up_mode=up_mode)
    config, _ = infer_config(unet.state_dict(), LoadOptions(up_mode=None))
    assert config.planar_blocks == planar
    assert count_parameters(unet.config) == sum(p.numel() for p in unet.parameters())


def test_a_thin_volume_fits() -> None:
    config = UNetConfig(dim=3, n_blocks=4, planar_blocks=(0, 1))
    report = check_shape(config, (6, 64, 64))
    assert report.fits
    assert report.axes[0].levels == (6, 6, 6, 3)
    assert report.axes[0].max_blocks == 4
    assert report.axes[1].levels == (64, 32, 16, 8, 4, 2)


def test_even_sizes_of_blocks_beyond_the_last() -> None:
    assert even_sizes(5, UNetConfig(dim=3, planar_blocks=(1,)), axis=-3) == [5]
    assert even_sizes(5, UNetConfig(dim=3, planar_blocks=(0, 1)), axis=-3) == [5, 5, 5]


@pytest.mark.parametrize("planar", [(4,), (1, 0), (0, 0), (-1,)])
def test_impossible_choices(planar: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="must be different blocks among 0, 1, 2, 3"):
        UNetConfig(dim=3, planar_blocks=planar)


def test_no_planar_blocks_in_2d() -> None:
    with pytest.raises(ConfigError, match="need a network with dim=3"):
        UNetConfig(planar_blocks=(0,))


def test_fewer_blocks_drop_what_they_lack() -> None:
    config = UNetConfig(dim=3, n_blocks=3, planar_blocks=(0, 2), up_mode="trilinear")
    assert config.with_blocks(2).planar_blocks == (0,)
    assert config.to_2d() == UNetConfig(n_blocks=3, up_mode="bilinear")
