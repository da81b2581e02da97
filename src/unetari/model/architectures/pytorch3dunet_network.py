"""The modules of pytorch-3dunet's networks, with its names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from unetari.core.stencils import (
    COPY,
    LINEAR,
    TRANSPOSED_3,
    TRANSPOSED_3_SHIFTED,
    AxisLevel,
    Stencil,
)
from unetari.errors import ModelFileError
from unetari.model.architectures.base import Shapes
from unetari.model.architectures.layers import (
    activation,
    layer,
    radius,
    same_padding,
    spatial_mean,
)

ACTIVATION_LETTERS = "rel"


@dataclass(frozen=True)
class Style:
    """What all blocks have in common."""

    dim: int
    order: str
    """Layers of a convolution: c convolution, g or b norm, r, e or l activation."""
    activation: str
    groups: int
    pool: tuple[int, ...]
    up_mode: str

    @property
    def plain_order(self) -> str:
        """The order without activation."""
        return "".join(letter for letter in self.order if letter not in ACTIVATION_LETTERS)

    def norm(self, letter: str, channels: int) -> tuple[str, nn.Module]:
        """Return name and module of a normalization."""
        if letter == "b":
            return "batchnorm", layer("BatchNorm", self.dim)(channels)
        # One group where there are fewer channels; a remainder is for the check of shapes.
        groups = 1 if channels % self.groups else self.groups
        return "groupnorm", nn.GroupNorm(groups, channels)


class SingleConv(nn.Sequential):
    """A convolution with its norm and activation, in the order of the style."""

    def __init__(self, style: Style, shapes: Shapes, in_channels: int, order: str = "") -> None:
        super().__init__()
        order = order or style.order
        convolution = shapes.convolution("conv", style.dim)
        self.out_channels, channels = convolution.out_channels, in_channels
        for letter in order:
            if letter == "c":
                channels = convolution.out_channels
                self.conv = layer("Conv", style.dim)(
                    in_channels,
                    channels,
                    convolution.kernel,
                    padding=same_padding(convolution.kernel),
                    bias="conv.bias" in shapes,
                )
            elif letter in "gb":
                self.add_module(*style.norm(letter, channels))
            elif letter in ACTIVATION_LETTERS:
                self.add_module("activation", activation(style.activation))


class DoubleConv(nn.Sequential):
    """The plain block: two convolutions."""

    def __init__(self, style: Style, shapes: Shapes, in_channels: int) -> None:
        super().__init__()
        self.SingleConv1 = SingleConv(style, shapes.below("SingleConv1"), in_channels)
        between = self.SingleConv1.out_channels
        self.SingleConv2 = SingleConv(style, shapes.below("SingleConv2"), between)
        self.out_channels = self.SingleConv2.out_channels


class ResidualBlock(nn.Module):
    """The residual block: a first convolution, and two with a bypass."""

    def __init__(self, style: Style, shapes: Shapes, in_channels: int) -> None:
        super().__init__()
        channels = shapes.convolution("conv2.conv", style.dim).out_channels
        self.conv1: nn.Module = nn.Identity()
        if "conv1.weight" in shapes:
            self.conv1 = layer("Conv", style.dim)(in_channels, channels, 1)
        elif shapes.has("conv1"):
            self.conv1 = SingleConv(style, shapes.below("conv1"), in_channels)
        self.conv2 = SingleConv(style, shapes.below("conv2"), channels)
        self.conv3 = SingleConv(style, shapes.below("conv3"), channels, style.plain_order)
        # Its slope has always been 0.1, whatever that of the other convolutions.
        leaky = style.activation.startswith("leaky")
        self.non_linearity = activation("leaky" if leaky else style.activation)
        self.se_module = _excitation(style, shapes.below("se_module"), channels)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features."""
        bypass = self.conv1(x)
        x = self.conv3(self.conv2(bypass)) + bypass
        excited: Tensor = self.se_module(self.non_linearity(x))
        return excited


def _excitation(style: Style, shapes: Shapes, channels: int) -> nn.Module:
    if shapes.has("cSE"):
        return BothExcitations(style, shapes, channels)
    if shapes.has("fc1"):
        return ChannelExcitation(shapes, channels)
    return SpatialExcitation(style, channels) if shapes.has("conv") else nn.Identity()


class ChannelExcitation(nn.Module):
    """Weighs channels by what they hold on average."""

    def __init__(self, shapes: Shapes, channels: int) -> None:
        super().__init__()
        hidden = min(shapes.length("fc1.weight"), channels)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features, weighed."""
        weights = self.fc2(self.fc1(spatial_mean(x)).relu()).sigmoid()
        weighed: Tensor = x * weights.reshape(*weights.shape, *[1] * (x.ndim - 2))
        return weighed


class SpatialExcitation(nn.Module):
    """Weighs voxels by what they hold."""

    def __init__(self, style: Style, channels: int) -> None:
        super().__init__()
        self.conv = layer("Conv", style.dim)(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features, weighed."""
        weighed: Tensor = x * self.conv(x).sigmoid()
        return weighed


class BothExcitations(nn.Module):
    """The larger of the two weighings."""

    def __init__(self, style: Style, shapes: Shapes, channels: int) -> None:
        super().__init__()
        self.cSE = ChannelExcitation(shapes.below("cSE"), channels)
        self.sSE = SpatialExcitation(style, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features, weighed."""
        return torch.maximum(self.cSE(x), self.sSE(x))


def _block(style: Style, shapes: Shapes, in_channels: int) -> DoubleConv | ResidualBlock:
    kind = ResidualBlock if shapes.has("conv2") else DoubleConv
    return kind(style, shapes, in_channels)


class Encoder(nn.Module):
    """Pooling, except at the top, and a block."""

    def __init__(self, style: Style, shapes: Shapes, in_channels: int, *, pools: bool) -> None:
        super().__init__()
        self.pooling = layer("MaxPool", style.dim)(style.pool) if pools else nn.Identity()
        self.basic_module = _block(style, shapes.below("basic_module"), in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features of this level."""
        features: Tensor = self.basic_module(self.pooling(x))
        return features


class Decoder(nn.Module):
    """Upsampling to the size of the skip features, joining, and a block."""

    def __init__(self, style: Style, shapes: Shapes, in_channels: int, skip_channels: int) -> None:
        super().__init__()
        block = shapes.below("basic_module")
        # The oldest networks have the transposed convolution directly in the decoder.
        self._up = "upsample" if shapes.has("upsample") else "upsampling"
        up, up_channels = _upsampling(style, shapes.below(self._up), in_channels)
        self.add_module(self._up, up)
        self.stencil = _stencil(up)
        self.in_channels = expected = _input_channels(style, block)
        self.concatenates = expected == skip_channels + up_channels
        if not self.concatenates and not expected == skip_channels == up_channels:
            raise ModelFileError(
                f"{block.prefix}* takes {expected} channels, which is neither the sum of "
                f"{skip_channels} skip and {up_channels} upsampled ones nor equal to both. "
                "Save the complete state_dict again with the program it comes from."
            )
        self.basic_module = _block(style, block, expected)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Merge the encoder's features `skip` with the decoder's `x`."""
        x = getattr(self, self._up)(x, skip.shape[2:])
        x = torch.cat((skip, x), dim=1) if self.concatenates else skip + x
        features: Tensor = self.basic_module(x)
        return features


def _input_channels(style: Style, block: Shapes) -> int:
    names = ("SingleConv1.conv", "conv1", "conv1.conv", "conv2.conv")
    first = next((name for name in names if f"{name}.weight" in block), "SingleConv1.conv")
    return block.convolution(first, style.dim).in_channels


def _upsampling(style: Style, shapes: Shapes, in_channels: int) -> tuple[nn.Module, int]:
    """Return the upsampling whose names these are, and how many channels it gives."""
    if "weight" in shapes:
        return _transposed(style, shapes, in_channels)
    if "upsample.weight" in shapes:
        up, channels = _transposed(style, shapes.below("upsample"), in_channels)
        return Upsampling(up), channels
    if shapes.has("upsample"):
        inner = shapes.below("upsample.conv_transposed")
        up, channels = _transposed(style, inner, in_channels)
        return Upsampling(TransposedAndFitted(up)), channels
    return Interpolation(style.up_mode), in_channels


def _transposed(style: Style, shapes: Shapes, in_channels: int) -> tuple[nn.Module, int]:
    # The weight of a transposed convolution has the input's channels first.
    _, channels, kernel = shapes.convolution("", style.dim)
    if set(kernel) != {3}:
        raise ModelFileError(
            f"{shapes.prefix}weight is of kernel {kernel}, and upsampling to twice the size needs "
            "3 on every axis. Load it with the program it comes from."
        )
    bias = "bias" in shapes
    kind = layer("ConvTranspose", style.dim)
    return kind(in_channels, channels, kernel, stride=2, padding=1, bias=bias), channels


def _stencil(up: nn.Module) -> Stencil:
    if isinstance(up, Interpolation):
        return LINEAR if up.mode.endswith("linear") else COPY
    if isinstance(up, Upsampling) and isinstance(up.upsample, TransposedAndFitted):
        return TRANSPOSED_3_SHIFTED
    return TRANSPOSED_3


class Interpolation(nn.Module):
    """Upsampling without weights."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Interpolate to `size`."""
        return F.interpolate(x, size=list(size), mode=self.mode)


class Upsampling(nn.Module):
    """Gives a transposed convolution its name."""

    def __init__(self, upsample: nn.Module) -> None:
        super().__init__()
        self.upsample = upsample

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Upsample to `size`."""
        upsampled: Tensor = self.upsample(x, list(size))
        return upsampled


class TransposedAndFitted(nn.Module):
    """A transposed convolution, which comes out one voxel short, and what is missing repeated."""

    def __init__(self, conv_transposed: nn.Module) -> None:
        super().__init__()
        self.conv_transposed = conv_transposed

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Upsample to `size`."""
        return F.interpolate(self.conv_transposed(x), size=list(size))


class Network(nn.Module):
    """Any network of pytorch-3dunet.

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
        first = shapes.below("encoders.0.basic_module")
        self.in_channels = channels = _input_channels(style, first)
        encoders, decoders = [], []
        for level in range(shapes.count("encoders")):
            inner = shapes.below(f"encoders.{level}")
            encoders.append(Encoder(style, inner, channels, pools=level > 0))
            channels = encoders[-1].basic_module.out_channels
        for index, skip in enumerate(reversed(encoders[:-1])):
            inner, skip_channels = shapes.below(f"decoders.{index}"), skip.basic_module.out_channels
            decoders.append(Decoder(style, inner, channels, skip_channels))
            channels = decoders[-1].basic_module.out_channels
        self.encoders, self.decoders = nn.ModuleList(encoders), nn.ModuleList(decoders)
        self.out_channels = shapes.convolution("final_conv", style.dim).out_channels
        self.final_conv = layer("Conv", style.dim)(channels, self.out_channels, 1)
        self.levels = tuple(_describe(encoders, decoders, style, axis) for axis in range(style.dim))
        joined = [decoder.in_channels for decoder in decoders[-1:]]
        self.widest = max(2 * encoders[0].basic_module.out_channels, *joined, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the scores (logits) of every class.

        Parameters
        ----------
        x : Tensor
            Image, (N, C, [Z,] Y, X), float.

        Returns
        -------
        Tensor
            Logits, (N, classes, [Z,] Y, X), of the same size.
        """
        skips: list[Tensor] = []
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
        skips.pop()
        for decoder in self.decoders:
            x = decoder(skips.pop(), x)
        scores: Tensor = self.final_conv(x)
        return scores


def _describe(
    encoders: Sequence[Encoder], decoders: Sequence[Decoder], style: Style, axis: int
) -> list[AxisLevel]:
    upper = [
        AxisLevel(
            encoder=radius(encoder.basic_module, axis),
            decoder=radius(decoder.basic_module, axis),
            pool=style.pool[axis],
            stencil=decoder.stencil,
        )
        for encoder, decoder in zip(encoders[:-1], reversed(decoders), strict=True)
    ]
    return [*upper, AxisLevel(radius(encoders[-1].basic_module, axis))]
