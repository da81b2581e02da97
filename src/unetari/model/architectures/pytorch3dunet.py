"""Networks of pytorch-3dunet (and PlantSeg): UNet3D, UNet2D and their residual kin.

The program is https://github.com/wolny/pytorch-3dunet by A. Wolny and others.
Its networks changed over the years; the names of the weights tell which one
this is, and the modules here carry the same names.
"""

from __future__ import annotations

from typing import Any

import torch

from unetari.core.network import ForeignConfig
from unetari.core.sizes import Reach
from unetari.errors import ConfigError, ModelFileError
from unetari.model.architectures.base import (
    Rebuilt,
    Shapes,
    count_parameters,
    estimate_features,
    possible_classes,
)
from unetari.model.architectures.layers import linear_mode
from unetari.model.architectures.pytorch3dunet_network import (
    ACTIVATION_LETTERS,
    Network,
    Style,
)
from unetari.model.weights import (
    LoadOptions,
    Weights,
    choose_options,
    fill_network,
    possible_groups,
)

NAME = "pytorch-3dunet"
MARKER = "encoders.0.basic_module."

_LETTERS = {"relu": "r", "elu": "e", "leaky0.01": "l", "leaky": "l"}
_DROPOUT = str.maketrans("", "", "dD")
# Layers around a convolution: n norm, c convolution, a activation.
_NORM_FIRST, _NORM_LAST, _NO_NORM = ("nca", "nac"), ("cna", "can"), ("ca",)


def recognises(weights: Weights) -> bool:
    """Whether the names are those of a network of pytorch-3dunet."""
    return any(name.startswith(MARKER) for name in weights)


def rebuild(weights: Weights, options: LoadOptions) -> Rebuilt:
    """Make the network that the weights belong to.

    It gives logits: the softmax or sigmoid that the program applies to them is
    not part of the network.

    Raises
    ------
    ModelFileError
        If the weights do not fit together.
    ConfigError
        If an option contradicts them.
    """
    shapes = Shapes(weights, NAME)
    dim = len(shapes.convolution("final_conv").kernel)
    if options.layer_order:  # dropout does nothing in evaluation
        options = options.replace(layer_order=options.layer_order.translate(_DROPOUT))
    chosen, notes = choose_options(options, _choices(shapes, dim, options))
    norm = chosen["normalization"]
    style = Style(
        dim=dim,
        order=chosen["layer_order"],
        activation=chosen["activation"],
        groups=int(norm.removeprefix("group")) if norm.startswith("group") else 0,
        pool=tuple(map(int, chosen["pool_size"].split("x"))),
        up_mode=chosen["up_mode"],
    )
    with torch.device("meta"):
        network = Network(style, shapes)
    config = ForeignConfig(
        architecture=f"{_class_name(shapes, dim)} of {NAME}",
        dim=dim,
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        reach=tuple(map(Reach.derive, network.levels)),
        classes=chosen["classes"],
        output="logits",
        tiles_exactly=style.groups == 0 and not _squeezes_channels(shapes),
        origin="declared",
        parameters=count_parameters(network),
        features=estimate_features(network.widest),
    )
    return Rebuilt(fill_network(network, weights, f"a network of {NAME}"), config, notes)


# What the weights tell


def _class_name(shapes: Shapes, dim: int) -> str:
    block = shapes.below("encoders.0.basic_module")
    residual = "Residual" if block.has("conv2") else ""
    return f"{residual}UNet{'SE' if block.has('se_module') else ''}{dim}D"


def _squeezes_channels(shapes: Shapes) -> bool:
    return any(".fc1." in name for name in shapes.names())


def _choices(shapes: Shapes, dim: int, options: LoadOptions) -> dict[str, tuple[Any, ...]]:
    transposed = any("upsample" in name for name in shapes.names())
    letter = _given_letter(options)
    activations = tuple(name for name in _usual_activations(shapes) if _LETTERS[name] == letter)
    out_channels = shapes.convolution("final_conv").out_channels
    return {
        "activation": activations or _usual_activations(shapes),
        "layer_order": _possible_orders(shapes, letter or "r"),
        "normalization": _possible_normalizations(shapes),
        "up_mode": ("transposed",) if transposed else ("nearest", linear_mode(dim)),
        "pool_size": ("2x2",) if dim == 2 else ("2x2x2",) if transposed else ("2x2x2", "1x2x2"),
        "classes": possible_classes(out_channels),
    }


def _given_letter(options: LoadOptions) -> str | None:
    """Return the letter of the activation function, if the caller said one."""
    in_order = next((c for c in options.layer_order or "" if c in ACTIVATION_LETTERS), None)
    by_name = _LETTERS.get(options.activation or "")
    if in_order and by_name and in_order != by_name:
        raise ConfigError(
            f"layer_order={options.layer_order!r} and activation={options.activation!r} name "
            "two activation functions. Leave one of them out."
        )
    return in_order or by_name


def _usual_activations(shapes: Shapes) -> tuple[str, ...]:
    # Until a first convolution of residual blocks became 1x1, leaky meant a slope of 0.1.
    old = shapes.below("encoders.0.basic_module").has("conv1.conv")
    return ("relu", "elu", *(("leaky", "leaky0.01") if old else ("leaky0.01", "leaky")))


def _norm_name(shapes: Shapes) -> str:
    kinds = [k for k in ("groupnorm", "batchnorm") if any(f".{k}." in n for n in shapes.names())]
    if len(kinds) > 1:
        raise ModelFileError(
            f"Its convolutions have both group and batch normalization, which networks of {NAME} "
            "never use together. Load it with the program it comes from."
        )
    return kinds[0] if kinds else ""


def _possible_normalizations(shapes: Shapes) -> tuple[str, ...]:
    norm = _norm_name(shapes)
    if norm != "groupnorm":
        return ("batch",) if norm else ("none",)
    channels = {shapes.length(n) for n in shapes.names() if n.endswith("groupnorm.weight")}
    # Where there are fewer channels than groups, there is one group.
    return tuple(
        text
        for text in possible_groups(max(channels))
        if all(n < int(text[5:]) or n % int(text[5:]) == 0 for n in channels)
    )


def _possible_orders(shapes: Shapes, letter: str) -> tuple[str, ...]:
    norm = _norm_name(shapes)
    places = _possible_places(shapes, norm) if norm else _NO_NORM
    return tuple(text.replace("n", norm[:1]).replace("a", letter) for text in places)


def _possible_places(shapes: Shapes, norm: str) -> tuple[str, ...]:
    """Return where the norm may stand, told by the number of its channels."""
    for name in shapes.names():
        if not name.endswith(f".{norm}.weight"):
            continue
        single = shapes.below(name.removesuffix(f".{norm}.weight"))
        convolution = single.convolution("conv")
        if convolution.in_channels != convolution.out_channels:
            first = single.get(f"{norm}.weight") == (convolution.in_channels,)
            return _NORM_FIRST if first else _NORM_LAST
    return _places_by_order(list(shapes.names()), norm)


def _places_by_order(names: list[str], norm: str) -> tuple[str, ...]:
    """Return where the norm may stand, told by the order of the names.

    A state_dict lists modules as they are made. Where it was sorted, biases
    come before weights, and the order tells nothing.
    """
    where = {name: index for index, name in enumerate(names)}
    stem = next(n for n in names if n.endswith(f"{norm}.weight")).removesuffix(f"{norm}.weight")
    weight, bias, convolution = (
        where.get(f"{stem}{name}", -1) for name in (f"{norm}.weight", f"{norm}.bias", "conv.weight")
    )
    if weight > bias:
        return _NORM_FIRST + _NORM_LAST
    return _NORM_FIRST if weight < convolution else _NORM_LAST
