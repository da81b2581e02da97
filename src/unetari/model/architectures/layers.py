"""Layers that the networks of other programs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

Kind = Literal["Conv", "ConvTranspose", "MaxPool", "BatchNorm", "InstanceNorm"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    # In place where the input is nobody else's: right behind a convolution or a norm.
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "leaky0.01": lambda: nn.LeakyReLU(0.01, inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "rrelu": lambda: nn.RReLU(inplace=True),
    "prelu": nn.PReLU,
    "linear": nn.Identity,
}


def layer(kind: Kind, dim: int) -> type[nn.Module]:
    """Return the class of a layer for 2 or 3 dimensions."""
    found: type[nn.Module] = getattr(nn, f"{kind}{dim}d")
    return found


def activation(name: str) -> nn.Module:
    """Return an activation function by the name that options have for it."""
    return _ACTIVATIONS[name]()


def same_padding(kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Return the zero padding that keeps the size."""
    return tuple(size // 2 for size in kernel)


def linear_mode(dim: int) -> str:
    """Return the name of linear interpolation."""
    return "bilinear" if dim == 2 else "trilinear"


def spatial_mean(x: Tensor) -> Tensor:
    """Return the mean of every channel, (N, C)."""
    return x.flatten(2).mean(2)


def radius(block: nn.Module, axis: int) -> int:
    """Return the summed radius of a block's convolutions on an axis."""
    return sum(
        module.kernel_size[axis] // 2
        for module in block.modules()
        if isinstance(module, nn.Conv2d | nn.Conv3d)
    )
