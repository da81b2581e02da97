"""Cases that compare tiles with one plain pass over the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from unetari.core.config import UP_MODES, UNetConfig
from unetari.core.network import NetworkConfig, reach_of
from unetari.core.sizes import Reach
from unetari.core.tiles import TilePlan, plan_tiles
from unetari.model.unet import UNet

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 31, 61, 127, 251)


@dataclass(frozen=True)
class Case:
    """A network, the size of an image, and how it is cut."""

    config: UNetConfig
    shape: tuple[int, ...]
    tile_shape: tuple[int, ...]
    region: tuple[slice, ...]
    pieces: int
    """How many strips a tile comes in."""
    seed: int

    @property
    def plan(self) -> TilePlan:
        return plan_tiles(self.shape, self.config, tile_shape=self.tile_shape, region=self.region)

    @property
    def strip(self) -> int:
        """Rows of a tile that the network gets at once."""
        return -(-self.plan.tile_shape[0] // self.pieces)

    def make_image(self, *, whole_numbers: bool = False) -> NDArray[np.float64]:
        """Return (C, [Z,] Y, X)."""
        rng = np.random.default_rng(self.seed)
        shape = (self.config.in_channels, *self.shape)
        if whole_numbers:
            return rng.integers(-8, 9, shape).astype(np.float64)
        return rng.normal(size=shape)


@st.composite
def configs(draw: st.DrawFn, dim: int, n_blocks: int, *, whole_numbers: bool = False) -> UNetConfig:
    """Draw all that makes no difference to whether tiles are exact.

    `whole_numbers`: only operations that are exact for them.
    """
    planar: set[int] = draw(st.sets(st.integers(0, n_blocks - 1))) if dim == 3 else set()
    up_modes = UP_MODES[dim]
    if whole_numbers and n_blocks > 3:  # cubic weights are multiples of 1/256, on every level
        up_modes = tuple(mode for mode in up_modes if mode != "bicubic")
    return UNetConfig(
        dim=dim,
        n_blocks=n_blocks,
        in_channels=draw(st.integers(1, 2)),
        out_channels=draw(st.integers(1, 3)),
        start_filters=draw(st.integers(1, 4)),
        up_mode=draw(st.sampled_from(up_modes)),
        conv_mode=draw(st.sampled_from(["same", "valid"])),
        normalization=draw(st.sampled_from(["none", "batch"])),
        block_order=draw(st.sampled_from(["conv-act-norm", "conv-norm-act"])),
        activation="relu" if whole_numbers else draw(st.sampled_from(["relu", "leaky", "elu"])),
        planar_blocks=tuple(sorted(planar)),
    )


@st.composite
def cases(
    draw: st.DrawFn, dim: int, n_blocks: int, *, most_voxels: int, whole_numbers: bool = False
) -> Case:
    """Draw an image that is cut along one axis at least.

    No pass, and not all tiles together, hold more than about `most_voxels` voxels times
    filters of the first block.
    """
    config = draw(configs(dim, n_blocks, whole_numbers=whole_numbers))
    if prod(reach.smallest_tile for reach in reach_of(config)) > most_voxels:
        config = config.replace(conv_mode="same")  # whose tiles may be thin
    is_deep = dim == 3 and n_blocks > 4
    cut = draw(st.integers(0, dim - 1))
    axes = [
        draw(_cut_axes(reach) if axis == cut else _axes(reach, thin=is_deep))
        for axis, reach in enumerate(reach_of(config))
    ]
    shape, tile_shape, region = zip(*axes, strict=True)
    plan = plan_tiles(shape, config, tile_shape=tile_shape, region=region)
    voxels = max(prod(plan.tile_shape) * len(plan), prod(plan_tiles(shape, config).tile_shape))
    assume(voxels <= most_voxels)
    filters = max(1, min(config.start_filters, most_voxels // voxels))
    config = config.replace(start_filters=filters)
    pieces, seed = draw(st.integers(1, 9)), draw(st.integers(0, 2**16))
    return Case(config, shape, tile_shape, region, pieces, seed)


@st.composite
def _cut_axes(draw: st.DrawFn, reach: Reach) -> tuple[int, int, slice]:
    """Draw a size, a tile that is smaller, and nearly all of the axis."""
    tile = reach.smallest_tile + draw(st.integers(0, 2 * reach.multiple))
    # With valid convolution, what a pass loses is read from around the image.
    fits = tile - 2 * (reach.loss + reach.trim)
    size = fits + draw(st.integers(1, 2 * reach.step(tile)))
    start = draw(st.integers(0, size // 4))
    return size, tile, slice(start, draw(st.integers(size - size // 4, size)))


@st.composite
def _axes(draw: st.DrawFn, reach: Reach, *, thin: bool) -> tuple[int, int, slice]:
    """Draw a size, from one voxel on, the largest outer size of a tile, and a region."""
    tile = reach.smallest_tile + draw(st.integers(0, 2 * reach.multiple))
    size = draw(st.integers(1, 7) | st.sampled_from(_PRIMES) | st.integers(1, tile))
    if thin:
        size = min(size, reach.multiple)
    if draw(st.booleans()):
        return size, tile, slice(0, size)
    start = draw(st.integers(0, size - 1))
    return size, tile, slice(start, draw(st.integers(start + 1, size)))


def randomize(network: UNet, seed: int) -> UNet:
    """Give batch normalization statistics that do something, with scales of both signs."""
    generator = torch.Generator().manual_seed(seed)
    for module in _normalizations(network):
        nn.init.normal_(module.running_mean, std=0.3, generator=generator)  # type: ignore[arg-type]
        nn.init.uniform_(module.running_var, 0.4, 2, generator=generator)  # type: ignore[arg-type]
        nn.init.normal_(module.weight, generator=generator)
        nn.init.normal_(module.bias, std=0.3, generator=generator)
    return network.eval()


def make_whole_numbers(network: UNet, seed: int) -> UNet:
    """Give a network, in float64, weights of -1, 0 and 1, of which few are not 0.

    Batch normalization multiplies by -1 or 1, and adds a whole number.
    """
    generator = torch.Generator().manual_seed(seed)
    network = network.double().eval()
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if name.endswith("weight") and weights.ndim > 1:
                drawn = torch.rand(weights.shape, generator=generator)
                # Of the voxels and channels that make one value, about three.
                few = min(0.5, 1.5 / weights[0].numel())
                weights.copy_((drawn < few).double() - (drawn > 1 - few).double())
            else:
                weights.copy_(torch.randint(0, 2, weights.shape, generator=generator))
        for module in _normalizations(network):
            signs = torch.randint(0, 2, module.weight.shape, generator=generator)
            module.weight.copy_(2 * signs - 1)
            module.running_mean.copy_(torch.randint(-1, 2, module.bias.shape, generator=generator))
            module.running_var.fill_(1 - module.eps)
    return network


def _normalizations(network: UNet) -> list[nn.BatchNorm2d | nn.BatchNorm3d]:
    kinds = nn.BatchNorm2d | nn.BatchNorm3d
    return [module for module in network.modules() if isinstance(module, kinds)]


def pad_whole(image: NDArray[Any], config: NetworkConfig) -> NDArray[Any]:
    """Mirror an image, (C, [Z,] Y, X), at its ends, so that one plain pass covers all of it."""
    for axis, reach in enumerate(reach_of(config), start=1):
        size, margin = image.shape[axis], reach.loss + reach.trim
        pads = [(0, 0)] * image.ndim
        pads[axis] = (margin, reach.rule.above(size + 2 * margin) - size - margin)
        image = np.pad(image, pads, mode="reflect" if size > 1 else "edge")
    return image


def whole_pass(network: nn.Module, image: NDArray[Any], config: NetworkConfig) -> NDArray[Any]:
    """One plain forward pass over the whole image, (C, [Z,] Y, X), without any of our tiling."""
    with torch.inference_mode():
        logits = network(torch.from_numpy(pad_whole(image, config))[None])[0]
    reaches = zip(reach_of(config), image.shape[1:], strict=True)
    crop = [slice(reach.trim, reach.trim + size) for reach, size in reaches]
    return np.asarray(logits[(slice(None), *crop)].numpy())
