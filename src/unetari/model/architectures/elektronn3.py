"""Networks of elektronn3: its UNet, 2D and 3D, with all its options.

The program is https://github.com/ELEKTRONN/elektronn3 by M. Drawitsch and
others. The names of the weights tell which options a network was made with,
and whether it is of the generation that had one batch norm per block.
"""

from __future__ import annotations

import re
from math import gcd
from typing import Any

import torch

from unetari.core.network import ForeignConfig
from unetari.core.sizes import Reach
from unetari.errors import ModelFileError, ShapeError
from unetari.model.architectures.base import (
    Rebuilt,
    Shapes,
    count_parameters,
    estimate_features,
    possible_classes,
)
from unetari.model.architectures.elektronn3_network import Network, Style
from unetari.model.architectures.layers import linear_mode
from unetari.model.weights import (
    LoadOptions,
    Weights,
    choose_options,
    fill_network,
    possible_groups,
)

NAME = "elektronn3"
MARKER = "down_convs.0.conv1.weight"

_NORM = re.compile(r"(down|up)_convs\.\d+\.norm\d\.weight")
_ACTIVATIONS = ("relu", "leaky", "silu", "elu", "rrelu", "linear")


def recognises(weights: Weights) -> bool:
    """Whether the names are those of a network of elektronn3."""
    return MARKER in weights


def rebuild(weights: Weights, options: LoadOptions) -> Rebuilt:
    """Make the network that the weights belong to, which gives logits.

    Raises
    ------
    ModelFileError
        If the weights do not fit together.
    ConfigError
        If an option contradicts them.
    """
    shapes = Shapes(weights, NAME)
    dim = len(shapes.convolution("down_convs.0.conv1").kernel)
    chosen, notes = choose_options(options, _choices(shapes, dim, options))
    style = Style(
        dim=dim,
        activation=chosen["activation"],
        normalization=chosen["normalization"],
        full_norm=chosen.get("full_norm", False),
        valid=chosen["conv_mode"] == "valid",
        up_mode=chosen["up_mode"],
        old=_is_old(shapes),
    )
    with torch.device("meta"):
        network = Network(style, shapes)
    attends = any(".attention." in name for name in shapes.names())
    config = ForeignConfig(
        architecture=f"{'attention ' if attends else ''}UNet of {NAME}",
        dim=dim,
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        reach=_reach(network, style),
        classes=chosen["classes"],
        output="logits",
        tiles_exactly=style.normalization in ("none", "batch"),
        origin="declared",
        parameters=count_parameters(network),
        features=estimate_features(network.widest),
    )
    return Rebuilt(fill_network(network, weights, f"a network of {NAME}"), config, notes)


def _reach(network: Network, style: Style) -> tuple[Reach, ...]:
    # Instance normalization needs more than one voxel.
    smallest = 2 if style.normalization == "instance" else 1
    try:
        return tuple(
            Reach.derive(levels, valid=style.valid, smallest=smallest) for levels in network.levels
        )
    except ShapeError as error:
        raise ModelFileError(str(error)) from error


# What the weights tell


def _is_old(shapes: Shapes) -> bool:
    # Whether blocks are convolution, activation, convolution, activation, batch norm.
    return "down_convs.0.bn.weight" in shapes or "up_convs.0.upconv.1.weight" in shapes


def _choices(shapes: Shapes, dim: int, options: LoadOptions) -> dict[str, tuple[Any, ...]]:
    learned = "down_convs.0.act1.weight" in shapes
    normalizations = _possible_normalizations(shapes)
    choices: dict[str, tuple[Any, ...]] = {
        "activation": ("prelu",) if learned else _ACTIVATIONS,
        "normalization": normalizations,
        "conv_mode": ("same",) if _is_old(shapes) else ("same", "valid"),
        "up_mode": _possible_up_modes(shapes, dim),
        "classes": possible_classes(shapes.convolution("conv_final").out_channels),
    }
    if "instance" in normalizations and options.normalization == "instance":
        choices["full_norm"] = (True, False)
    elif normalizations != ("none",) and not _is_old(shapes):
        choices["full_norm"] = ("down_convs.0.norm0.weight" in shapes,)
    return choices


def _possible_normalizations(shapes: Shapes) -> tuple[str, ...]:
    first = shapes.below("down_convs.0")
    if "bn.running_mean" in first or "norm1.running_mean" in first:
        return ("batch",)
    if "norm1.weight" in first:
        norms = (n for n in shapes.names() if _NORM.fullmatch(n))
        return possible_groups(gcd(*map(shapes.length, norms)))
    return ("none",) if _is_old(shapes) else ("none", "instance")


def _possible_up_modes(shapes: Shapes, dim: int) -> tuple[str, ...]:
    up = shapes.below("up_convs.0.upconv")
    if "conv.weight" in up:
        return ("nearest", linear_mode(dim))
    if "1.weight" in up:
        return (linear_mode(dim), "nearest")
    if not shapes.has("up_convs.0") or "weight" in up:
        return ("transposed",)
    raise ModelFileError(
        "The weights lack up_convs.0.upconv.weight or .conv.weight, which networks of "
        f"{NAME} have. Save the complete state_dict, and nothing else."
    )
