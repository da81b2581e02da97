"""The one U-Net, 2D and 3D from one table of operations.

The network is that of the article "Creating and training a U-Net model with
PyTorch for 2D & 3D semantic segmentation" by J. Schmidt, parameter names
included, so that its weights load unchanged. The architecture goes back to
Ronneberger et al. (2015), https://arxiv.org/abs/1505.04597.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from unetari.core.config import UNetConfig
from unetari.core.network import reach_of
from unetari.core.sizes import valid_output_size
from unetari.errors import ConfigError, ShapeError

Initializer = Literal["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"]

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_UP_CONV: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_BATCH: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_ACTIVATION: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(negative_slope=0.1),
    "elu": nn.ELU,
}
_INITIALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_normal": nn.init.kaiming_normal_,
}


def _norm(config: UNetConfig, channels: int) -> nn.Module:
    if config.normalization == "batch":
        return _BATCH[config.dim](channels)
    if config.normalization == "instance":
        return _INSTANCE[config.dim](channels)
    if config.groups is not None:
        return nn.GroupNorm(config.groups, channels)
    return nn.Identity()


def _sizes(config: UNetConfig, level: int, size: int) -> tuple[int, ...]:
    """Return a kernel or stride of this size per axis, which is 1 along z in planar blocks."""
    sizes = (size,) * config.dim
    return (1, *sizes[1:]) if level in config.planar_blocks else sizes


def _conv3(config: UNetConfig, level: int, in_channels: int, out_channels: int) -> nn.Module:
    kernel = _sizes(config, level, 3)
    padding = tuple(size // 2 if config.conv_mode == "same" else 0 for size in kernel)
    return _CONV[config.dim](in_channels, out_channels, kernel_size=kernel, padding=padding)


def _up(config: UNetConfig, level: int, in_channels: int, out_channels: int) -> nn.Module:
    """Build what brings the next level to the resolution of `level`."""
    factors = _sizes(config, level, 2)
    if config.up_mode == "transposed":
        convolution = _UP_CONV[config.dim]
        return convolution(in_channels, out_channels, kernel_size=factors, stride=factors)
    return nn.Upsample(scale_factor=tuple(map(float, factors)), mode=config.up_mode)


def _is_written_down() -> bool:
    """Whether a pass makes a file; a check of sizes would become part of it and allow only one."""
    is_traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return is_traced or torch.compiler.is_exporting()


def autocrop(skip: Tensor, up: Tensor) -> Tensor:
    """Crop `skip` centrally to the spatial size of `up`.

    Parameters
    ----------
    skip, up : Tensor
        Features of the encoder and of the decoder, (N, C, [Z,] Y, X). With
        valid convolution the encoder's are the larger ones.

    Returns
    -------
    Tensor
        A view of `skip`.
    """
    for axis in range(2, skip.ndim):
        excess = skip.shape[axis] - up.shape[axis]
        if excess:
            skip = skip.narrow(axis, excess // 2, up.shape[axis])
    return skip


class _Block(nn.Module):
    """A block whose convolutions are each followed by activation and normalization."""

    conv1: nn.Module
    conv2: nn.Module
    act1: nn.Module
    act2: nn.Module
    norm1: nn.Module
    norm2: nn.Module

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self._norm_first = config.block_order == "conv-norm-act"

    def follow(self, x: Tensor, act: nn.Module, norm: nn.Module) -> Tensor:
        """Apply activation and normalization in the order of the config."""
        first, second = (norm, act) if self._norm_first else (act, norm)
        followed: Tensor = second(first(x))
        return followed

    def convolve(self, x: Tensor) -> Tensor:
        """Compute the two convolutions."""
        x = self.follow(self.conv1(x), self.act1, self.norm1)
        return self.follow(self.conv2(x), self.act2, self.norm2)


class DownBlock(_Block):
    """Two convolutions, each with activation and normalization, and pooling."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__(config)
        channels = config.filters[level]
        previous = config.filters[level - 1] if level else config.in_channels
        self.conv1 = _conv3(config, level, previous, channels)
        self.conv2 = _conv3(config, level, channels, channels)
        is_deepest = level == config.n_blocks - 1
        window = _sizes(config, level, 2)
        self.pool = nn.Identity() if is_deepest else _POOL[config.dim](kernel_size=window)
        self.act1 = _ACTIVATION[config.activation]()
        self.act2 = _ACTIVATION[config.activation]()
        self.norm1 = _norm(config, channels)
        self.norm2 = _norm(config, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled features and, for the skip connection, those before pooling."""
        x = self.convolve(x)
        return self.pool(x), x


class UpBlock(_Block):
    """Upsampling, concatenation with the skip features, and two convolutions."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__(config)
        channels, deeper = config.filters[level], config.filters[level + 1]
        self.up = _up(config, level, deeper, channels)
        # The article creates conv0 for every up_mode and uses it only after
        # interpolation; it stays, so that its weights load strictly.
        self.conv0 = _CONV[config.dim](deeper, channels, kernel_size=1)
        self.conv1 = _conv3(config, level, 2 * channels, channels)
        self.conv2 = _conv3(config, level, channels, channels)
        self.act0 = _ACTIVATION[config.activation]()
        self.act1 = _ACTIVATION[config.activation]()
        self.act2 = _ACTIVATION[config.activation]()
        self.norm0 = _norm(config, channels)
        self.norm1 = _norm(config, channels)
        self.norm2 = _norm(config, channels)
        self.reduces_after_up = config.up_mode != "transposed"

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Merge the encoder's features `skip` with the decoder's `x`."""
        x = self.up(x)
        skip = autocrop(skip, x)
        if self.reduces_after_up:
            x = self.conv0(x)
        x = self.follow(x, self.act0, self.norm0)
        return self.convolve(torch.cat((x, skip), dim=1))


class UNet(nn.Module):
    """Configurable U-Net for 2D and 3D images.

    Parameters
    ----------
    config : UNetConfig, optional
        All options. Alternatively give them by keyword, as in the article.
    initializer : str
        How weights are drawn: "xavier_uniform" (default), "xavier_normal",
        "kaiming_uniform" or "kaiming_normal". Biases start at zero.
    **options
        Options of `UNetConfig`; not together with `config`.

    Raises
    ------
    ConfigError
        If an option cannot work.

    Examples
    --------
    >>> network = UNet(in_channels=1, out_channels=2, n_blocks=2, start_filters=4)
    >>> network(torch.zeros(1, 1, 16, 16)).shape
    torch.Size([1, 2, 16, 16])
    """

    def __init__(
        self,
        config: UNetConfig | None = None,
        *,
        initializer: Initializer = "xavier_uniform",
        **options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(config, UNetConfig | None):
            raise ConfigError(
                f"UNet got {config!r} for config. Give a UNetConfig, or every option by its "
                "name: UNet(in_channels=1, out_channels=2)."
            )
        if config is not None and options:
            raise ConfigError(
                f"UNet got both a config and {', '.join(options)}. Give one of the two; "
                "config.replace(...) changes single options."
            )
        self.config = config = config or UNetConfig(**options)
        levels = range(config.n_blocks)
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in levels)
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in reversed(levels[:-1]))
        self.conv_final = _CONV[config.dim](config.start_filters, config.out_channels, 1)
        self.initialize(initializer)

    def initialize(self, initializer: Initializer = "xavier_uniform") -> None:
        """Draw all convolution weights anew and set their biases to zero."""
        if initializer not in _INITIALIZERS:
            choices = ", ".join(_INITIALIZERS)
            raise ConfigError(f"initializer={initializer!r} is unknown. Choose one of: {choices}.")
        convolutions = (*_CONV.values(), *_UP_CONV.values())
        for module in self.modules():
            if isinstance(module, convolutions):
                _INITIALIZERS[initializer](cast("Tensor", module.weight))
                nn.init.zeros_(cast("Tensor", module.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the scores (logits) of every class.

        Parameters
        ----------
        x : Tensor
            Image, (N, C, [Z,] Y, X), float. Every spatial size must be one
            that pools evenly on each level, see `unetari.check_shape`.

        Returns
        -------
        Tensor
            Logits, (N, classes, [Z,] Y, X), of the input's size ("same") or
            smaller ("valid").

        Raises
        ------
        ShapeError
            If the number of axes or channels is wrong or a size goes odd.
        """
        if not _is_written_down():
            self.check_input(x.shape)
        skips: list[Tensor] = []
        for block in self.down_blocks:
            x, skip = block(x)
            skips.append(skip)
        skips.pop()
        for block in self.up_blocks:
            x = block(skips.pop(), x)
        scores: Tensor = self.conv_final(x)
        return scores

    def check_input(self, shape: Sequence[int]) -> None:
        """Raise ShapeError unless the network can process an input of this shape.

        Parameters
        ----------
        shape : sequence of int
            (N, C, [Z,] Y, X).
        """
        config = self.config
        if len(shape) != config.dim + 2 or shape[1] != config.in_channels:
            axes = "N, C, Y, X" if config.dim == 2 else "N, C, Z, Y, X"
            raise ShapeError(
                f"The network takes ({axes}) with C = {config.in_channels}, and got "
                f"shape {tuple(shape)}. Reorder or select the channels."
            )
        try:
            sizes = zip(shape[2:], range(-config.dim, 0), strict=True)
            outputs = [valid_output_size(int(size), config, axis) for size, axis in sizes]
        except ShapeError as error:
            raise ShapeError(
                f"{error} Pad or crop the input, or use unetari.predict, which does it for you."
            ) from error
        # Sizes that leave one voxel on the deepest level, where variance has no meaning.
        rules = [reach.rule for reach in reach_of(config)]
        smallest = [1 if rule.loss else rule.smallest for rule in rules]
        if config.normalization == "instance" and outputs == smallest:
            raise ShapeError(
                f"Size {tuple(shape[2:])} leaves one voxel on the deepest level, which instance "
                "normalization cannot process. Use a larger input, fewer blocks, or batch "
                "normalization."
            )

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.config)
        parameters = sum(p.numel() for p in self.parameters())
        return f"UNet({options})  # {parameters:,} parameters"
