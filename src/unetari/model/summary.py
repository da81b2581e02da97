"""How large a network is: a table of its layers, and its number of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from unetari.core.config import UNetConfig
from unetari.core.network import NetworkConfig
from unetari.errors import OutOfMemoryError, ShapeError
from unetari.model.host import free_host_memory

if TYPE_CHECKING:  # counting needs no torch, so that a window can do it while it is opening
    from torchinfo import ModelStatistics

    from unetari.model.unet import UNet


def count_parameters(config: UNetConfig) -> int:
    """Return the number of parameters of a network, without building it.

    Parameters
    ----------
    config : UNetConfig
        Options of the network.

    Returns
    -------
    int
        Weights and biases, those of the article's unused 1x1 convolutions
        included.

    Examples
    --------
    >>> count_parameters(UNetConfig())
    1971554
    """
    filters = config.filters
    norm = 2 if config.normalization == "batch" or config.groups else 0
    # Planar blocks have kernels of 2 axes.
    axes = [config.dim - (block in config.planar_blocks) for block in range(config.n_blocks)]
    total = _conv(filters[0], config.out_channels, 1)
    for previous, channels, dim in zip((config.in_channels, *filters), filters, axes, strict=False):
        total += _conv(previous, channels, 3**dim) + _conv(channels, channels, 3**dim)
        total += 2 * norm * channels
    for (channels, deeper), dim in zip(pairwise(filters), axes, strict=False):
        if config.up_mode == "transposed":
            total += _conv(deeper, channels, 2**dim)
        total += _conv(deeper, channels, 1)
        total += _conv(2 * channels, channels, 3**dim) + _conv(channels, channels, 3**dim)
        total += 3 * norm * channels
    return total


def check_weights_fit(config: UNetConfig, copies: int = 4) -> None:
    """Refuse a network whose weights alone are too much for this machine.

    Parameters
    ----------
    config : UNetConfig
        Options of the network.
    copies : int
        How often the weights are held at once: to build and hash a model takes four times
        their size (measured), and so does a run, at most.

    Raises
    ------
    OutOfMemoryError
        If so many do not fit in what is free.
    """
    count, free = count_parameters(config), free_host_memory()
    needed = copies * 4 * count
    if needed > free:
        raise OutOfMemoryError(
            f"n_blocks={config.n_blocks} and start_filters={config.start_filters} make {count:,} "
            f"parameters. That takes {needed / 2**30:.1f} GiB, with the copies that are made, and "
            f"{free / 2**30:.1f} GiB of memory are free. Use fewer blocks or filters."
        )


def parameters_of(config: NetworkConfig) -> int | None:
    """Return the number of parameters of any network; None where its file does not tell."""
    return count_parameters(config) if isinstance(config, UNetConfig) else config.parameters


def _conv(in_channels: int, out_channels: int, weights: int) -> int:
    return out_channels * (in_channels * weights + 1)


def summarize(config_or_network: UNetConfig | UNet, shape: Sequence[int]) -> ModelStatistics:
    """Return a table of the layers, their output sizes and parameters.

    Parameters
    ----------
    config_or_network : UNetConfig or UNet
        The network, which is neither run nor changed, or its options.
    shape : sequence of int
        Shape of one image, (C, [Z,] Y, X).

    Returns
    -------
    torchinfo.ModelStatistics
        Printing it shows the table.

    Raises
    ------
    ShapeError
        If the network cannot process this shape.

    Examples
    --------
    >>> summarize(UNetConfig(), (1, 512, 512)).total_params
    1971554
    """
    import torch
    import torchinfo

    from unetari.model.unet import UNet

    if any(size < 1 for size in shape):
        raise ShapeError(f"shape={tuple(shape)} has an empty axis. Give the shape of an image.")
    network = config_or_network
    config = network if isinstance(network, UNetConfig) else network.config
    with torch.device("meta"):  # sizes without values: nothing is allocated or computed
        blueprint = UNet(config).eval()
        image = torch.empty(1, *shape)
    blueprint.check_input(image.shape)
    return torchinfo.summary(
        blueprint,
        input_data=image,
        device="meta",
        depth=3,
        col_names=("output_size", "num_params"),
        row_settings=("var_names",),
        verbose=0,
    )
