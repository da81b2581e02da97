"""The modules of elektronn3's networks, with its names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from unetari.core.stencils import COPY, LINEAR, AxisLevel
from unetari.model.architectures.base import Shapes
from unetari.model.architectures.layers import (
    activation,
    layer,
    linear_mode,
    radius,
    same_padding,
)
from unetari.model.unet import autocrop


@dataclass(frozen=True)
class Style:
    """What all blocks have in common."""

    dim: int
    activation: str
    normalization: str
    """none, batch, instance or groupN."""
    full_norm: bool
    """Whether there is a norm behind every convolution, or only at the end of a block."""
    valid: bool
    """Whether the convolutions of blocks go without zero padding."""
    up_mode: str
    old: bool
    """Whether activations come before the norm, of which a block has one."""

    def convolution(self, in_channels: int, out_channels: int, *, planar: bool) -> nn.Module:
        """Return a convolution of a block, which a planar one leaves one slice thin."""
        kernel = self.per_axis(3, planar=planar)
        padding = 0 if self.valid else same_padding(kernel)
        return layer("Conv", self.dim)(in_channels, out_channels, kernel, padding=padding)

    def per_axis(self, size: int, *, planar: bool) -> tuple[int, ...]:
        """Return a size per axis; planar blocks have 1 along z."""
        return (1 if planar else size, *[size] * (self.dim - 1))

    def norm(self, channels: int, *, last: bool) -> nn.Module:
        """Return the norm behind a convolution."""
        if self.normalization == "none" or self.old or not (last or self.full_norm):
            return nn.Identity()
        if self.normalization == "batch":
            return layer("BatchNorm", self.dim)(channels)
        if self.normalization == "instance":
            return layer("InstanceNorm", self.dim)(channels)
        groups = int(self.normalization.removeprefix("group"))
        # A remainder is for the check of shapes, which names what is wrong.
        return nn.GroupNorm(1 if channels % groups else groups, channels)

    def old_norm(self, channels: int) -> nn.Module:
        """Return the one norm of an old block."""
        batch = self.old and self.normalization == "batch"
        return layer("BatchNorm", self.dim)(channels) if batch else nn.Identity()


class DownConv(nn.Module):
    """Two convolutions and pooling."""

    def __init__(self, style: Style, shapes: Shapes, in_channels: int, *, pools: bool) -> None:
        super().__init__()
        told = shapes.convolution("conv1", style.dim)
        channels, planar = told.out_channels, is_planar(told.kernel)
        self.out_channels = channels
        self.pool_size = style.per_axis(2, planar=planar)
        self.conv1 = style.convolution(in_channels, channels, planar=planar)
        self.conv2 = style.convolution(channels, channels, planar=planar)
        # Odd sizes are rounded up, and cropped again behind the upsampling.
        pool = layer("MaxPool", style.dim)
        self.pool = pool(self.pool_size, ceil_mode=True) if pools else nn.Identity()
        self.act1, self.act2 = activation(style.activation), activation(style.activation)
        self.norm0 = style.norm(channels, last=False)
        self.norm1 = style.norm(channels, last=True)
        self.bn = style.old_norm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled features and, for the skip connection, those before pooling."""
        x = self.act1(self.norm0(self.conv1(x)))
        x = self.bn(self.act2(self.norm1(self.conv2(x))))
        return self.pool(x), x


class UpConv(nn.Module):
    """Upsampling, merging with the skip features, and two convolutions."""

    def __init__(
        self, style: Style, shapes: Shapes, in_channels: int, skip_channels: int, *, planar: bool
    ) -> None:
        super().__init__()
        told = shapes.convolution("conv1", style.dim)
        channels = told.out_channels
        self.out_channels = channels
        # Sums have as many channels as what is summed, concatenations twice as many.
        self.adds = told.in_channels == channels == skip_channels
        self.upconv = _upsampling(style, shapes.below("upconv"), in_channels, channels, planar)
        self.is_linear = style.up_mode.endswith("linear")
        merged = channels if self.adds else channels + skip_channels
        self.conv1 = style.convolution(merged, channels, planar=planar)
        self.conv2 = style.convolution(channels, channels, planar=planar)
        bare = style.old and style.up_mode != "transposed"
        self.act0 = nn.Identity() if bare else activation(style.activation)
        self.act1, self.act2 = activation(style.activation), activation(style.activation)
        self.norm0 = style.norm(channels, last=False)
        self.norm1 = style.norm(channels, last=False)
        self.norm2 = style.norm(channels, last=True)
        self.bn = style.old_norm(channels)
        gate = shapes.has("attention")
        self.attention = GridAttention(style.dim, skip_channels, in_channels) if gate else None

    def level(self, down: DownConv, axis: int) -> AxisLevel:
        """Describe this level on an axis."""
        return AxisLevel(
            encoder=radius(down, axis),
            decoder=radius(self.conv1, axis) + radius(self.conv2, axis),
            pool=down.pool_size[axis],
            stencil=LINEAR if self.is_linear else COPY,
            resized=radius(self.upconv, axis),
            gate=self.attention is not None,
        )

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Merge the encoder's features `skip` with the decoder's `x`."""
        up = self.upconv(x)
        # Pooling that rounded up makes the upsampled features one voxel too large.
        for axis in range(2, up.ndim):
            up = up.narrow(axis, 0, up.shape[axis] - (up.shape[axis] - skip.shape[axis]) % 2)
        skip = autocrop(skip, up)
        if self.attention is not None:
            skip = self.attention(skip, x)
        up = self.act0(self.norm0(up))
        x = up + skip if self.adds else torch.cat((up, skip), dim=1)
        x = self.act1(self.norm1(self.conv1(x)))
        merged: Tensor = self.bn(self.act2(self.norm2(self.conv2(x))))
        return merged


def is_planar(kernel: tuple[int, ...]) -> bool:
    """Whether a block of this kernel works slice by slice."""
    return len(kernel) == 3 and kernel[0] == 1


def _upsampling(
    style: Style, shapes: Shapes, in_channels: int, out_channels: int, planar: bool
) -> nn.Module:
    factor = style.per_axis(2, planar=planar)
    if style.up_mode == "transposed":
        kind = layer("ConvTranspose", style.dim)
        return kind(in_channels, out_channels, factor, stride=factor)
    kind = layer("Conv", style.dim)
    if style.old:
        return nn.Sequential(Interpolation(style, planar), kind(in_channels, out_channels, 1))
    wide = max(shapes.convolution("conv", style.dim).kernel) > 1
    kernel = style.per_axis(3 if wide else 1, planar=planar)
    # Zero-padded even where the convolutions of blocks are not.
    convolution = kind(in_channels, out_channels, kernel, padding=same_padding(kernel))
    return ResizeConv(Interpolation(style, planar), convolution)


class Interpolation(nn.Module):
    """Upsampling without weights, by 2 along all axes or all but z."""

    def __init__(self, style: Style, planar: bool) -> None:
        super().__init__()
        self.factor, self.mode = style.per_axis(2, planar=planar), style.up_mode

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate."""
        return F.interpolate(x, scale_factor=tuple(map(float, self.factor)), mode=self.mode)


class ResizeConv(nn.Module):
    """Interpolation followed by a convolution."""

    def __init__(self, upsample: nn.Module, conv: nn.Module) -> None:
        super().__init__()
        self.upsample, self.conv = upsample, conv

    def forward(self, x: Tensor) -> Tensor:
        """Upsample by 2."""
        upsampled: Tensor = self.conv(self.upsample(x))
        return upsampled


class GridAttention(nn.Module):
    """Attention gate of https://arxiv.org/abs/1804.03999: deeper features weigh the skip's."""

    def __init__(self, dim: int, channels: int, gate_channels: int) -> None:
        super().__init__()
        convolution, inner = layer("Conv", dim), max(channels // 2, 1)
        self.mode = linear_mode(dim)
        self.w = nn.Sequential(
            convolution(channels, channels, 1), layer("BatchNorm", dim)(channels)
        )
        self.theta = convolution(channels, inner, 2, stride=2, bias=False)
        self.phi = convolution(gate_channels, inner, 1)
        self.psi = convolution(inner, 1, 1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Weigh the features `skip` by those of the next deeper level, `gate`."""
        coarse = self.theta(skip)
        guide = F.interpolate(self.phi(gate), size=coarse.shape[2:], mode=self.mode)
        weights = self.psi((coarse + guide).relu()).sigmoid()
        weights = F.interpolate(weights, size=skip.shape[2:], mode=self.mode)
        weighed: Tensor = self.w(weights * skip)
        return weighed


class Network(nn.Module):
    """Any UNet of elektronn3.

    Parameters
    ----------
    style : Style
        What all blocks have in common.
    shapes : Shapes
        Names and shapes of its weights.
    """

    levels: tuple[list[AxisLevel], ...]
    """Per axis, ([z,] y, x), what is on each level, from the image's resolution down."""
    widest: int
    """Channels of the widest features at the image's resolution."""

    def __init__(self, style: Style, shapes: Shapes) -> None:
        super().__init__()
        self.in_channels = shapes.convolution("down_convs.0.conv1").in_channels
        self.out_channels = shapes.convolution("conv_final", style.dim).out_channels
        n_blocks = shapes.count("down_convs")
        downs, channels = [], self.in_channels
        for level in range(n_blocks):
            inner = shapes.below(f"down_convs.{level}")
            downs.append(DownConv(style, inner, channels, pools=level < n_blocks - 1))
            channels = downs[-1].out_channels
        ups = []
        for index, down in enumerate(reversed(downs[:-1])):
            inner, planar = shapes.below(f"up_convs.{index}"), down.pool_size[0] == 1
            ups.append(UpConv(style, inner, channels, down.out_channels, planar=planar))
            channels = ups[-1].out_channels
        self.down_convs, self.up_convs = nn.ModuleList(downs), nn.ModuleList(ups)
        self.conv_final = layer("Conv", style.dim)(channels, self.out_channels, 1)
        self.levels = tuple(_describe(downs, ups, axis) for axis in range(style.dim))
        self.widest = 2 * downs[0].out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Compute the scores (logits) of every class.

        Parameters
        ----------
        x : Tensor
            Image, (N, C, [Z,] Y, X), float.

        Returns
        -------
        Tensor
            Logits, (N, classes, [Z,] Y, X), of the input's size, or smaller if the
            convolutions are valid.
        """
        skips: list[Tensor] = []
        for down in self.down_convs:
            x, skip = down(x)
            skips.append(skip)
        skips.pop()
        for up in self.up_convs:
            x = up(skips.pop(), x)
        scores: Tensor = self.conv_final(x)
        return scores


def _describe(downs: Sequence[DownConv], ups: Sequence[UpConv], axis: int) -> list[AxisLevel]:
    pairs = zip(downs[:-1], reversed(ups), strict=True)
    return [*(up.level(down, axis) for down, up in pairs), AxisLevel(radius(downs[-1], axis))]
