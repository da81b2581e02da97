"""From bare weights to a network: options inferred, everything checked, nothing half loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unetari.core.config import (
    UP_MODES,
    Activation,
    BlockOrder,
    ConvMode,
    Dim,
    FrozenModel,
    UNetConfig,
    UpMode,
)
from unetari.core.normalization import Normalization
from unetari.errors import ConfigError, ModelFileError, as_sentence
from unetari.model.notes import Assumed
from unetari.model.unet import UNet

Weights = Mapping[str, Tensor]
AnyActivation = Literal[Activation, "leaky0.01", "silu", "rrelu", "prelu", "linear"]
"""The activation functions of the networks of this and other programs."""

_Network = TypeVar("_Network", bound=nn.Module)
_BLOCK = re.compile(r"down_blocks\.(\d{1,9})\.")
MARKER = "down_blocks.0.conv1.weight"
"""Name of a weight that every U-Net of unetari has."""
_FINAL = "conv_final.weight"
_EXPECTED = f"a unetari U-Net ({MARKER}, ..., {_FINAL})"


class LoadOptions(FrozenModel):
    """What the caller knows about a model and bare weights cannot tell."""

    activation: AnyActivation | None = None
    """Activation function, see `UNetConfig`; networks of other programs know more."""
    conv_mode: ConvMode | None = None
    """Convolution mode, see `UNetConfig`."""
    up_mode: UpMode | None = None
    """Kind of interpolation, see `UNetConfig`."""
    block_order: BlockOrder | None = None
    """Order of activation and normalization, see `UNetConfig`."""
    normalization: str | Normalization | None = None
    """As text, feature normalization ("instance", "group8"), see `UNetConfig`; as a
    `Normalization`, how intensities are mapped before they reach the network."""
    class_names: tuple[str, ...] = ()
    """One name per label, background first."""
    layer_order: str | None = None
    """pytorch-3dunet: the layers of a convolution in its letters, such as "gcr"."""
    pool_size: Literal["2x2x2", "1x2x2"] | None = None
    """pytorch-3dunet: voxels that pooling makes one, (z, y, x)."""
    full_norm: bool | None = None
    """elektronn3: normalization after every convolution, or at the end of each block only."""
    entry: str | None = None
    """Where a checkpoint holds the weights, if in several entries, such as "ema"."""
    trust: bool = False
    """Whether the file may run code, see `unetari.model.trust`."""
    dim: Dim | None = None
    """Number of spatial dimensions, where a program does not tell it."""
    in_channels: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Number of channels of the input image, where a program does not tell it."""
    classes: Literal["exclusive", "independent"] | None = None
    """Whether the classes of another program's network exclude each other, see `ForeignConfig`."""
    output: Literal["logits", "probabilities"] | None = None
    """What a program gives, see `ForeignConfig`; measured if nothing is said."""

    @model_validator(mode="before")
    @classmethod
    def _drop_none(cls, data: Any) -> Any:
        # The article writes normalization=None; here None means "not given".
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data

    @property
    def network(self) -> dict[str, Any]:
        """The given options of the network."""
        beside = ("class_names", "entry", "trust")
        values = {name: value for name, value in self if name not in beside}
        return {
            name: value
            for name, value in values.items()
            if value is not None and not isinstance(value, Normalization)
        }

    @property
    def spec(self) -> dict[str, Any]:
        """The given fields of `ModelSpec`."""
        given: dict[str, Any] = {}
        if isinstance(self.normalization, Normalization):
            given["normalization"] = self.normalization
        if self.class_names:
            given["class_names"] = self.class_names
        return given


def infer_config(weights: Weights, options: LoadOptions) -> tuple[UNetConfig, tuple[str, ...]]:
    """Read the options of a network off its weights.

    Parameters
    ----------
    weights : mapping of str to Tensor
        A state_dict.
    options : LoadOptions
        What the weights cannot tell.

    Returns
    -------
    config : UNetConfig
        The options.
    notes : tuple of str
        What was assumed, a sentence each.

    Raises
    ------
    ModelFileError
        If the weights belong to another architecture.
    ConfigError
        If an option contradicts the weights.
    """
    first, final = _find_ends(weights)
    told: dict[str, Any] = {
        "dim": first.ndim - 2,
        "in_channels": first.shape[1],
        "out_channels": final.shape[0],
        "start_filters": first.shape[0],
        "n_blocks": 1 + max(int(m[1]) for m in map(_BLOCK.match, weights) if m),
    }
    told["planar_blocks"] = _find_planar_blocks(weights, told["dim"], told["n_blocks"])
    _valid_config(told)  # before these numbers, which a file can choose freely, are used
    choices = {
        "activation": get_args(Activation),
        "conv_mode": get_args(ConvMode),
        "block_order": get_args(BlockOrder),
        "normalization": _possible_normalizations(weights, first.shape[0]),
        "up_mode": _possible_up_modes(weights, told["dim"], told["n_blocks"]),
    }
    chosen, notes = choose_options(options, choices)
    return _valid_config({**told, **chosen}), notes


def choose_options(
    options: LoadOptions, choices: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Choose every option among what the weights allow: as given, else the usual one.

    Parameters
    ----------
    options : LoadOptions
        What the caller knows.
    choices : mapping of str to sequence
        Per option what the weights allow, the usual first.

    Returns
    -------
    chosen : dict
        A value for every option.
    notes : tuple of str
        What was assumed, a sentence each.

    Raises
    ------
    ConfigError
        If a given option contradicts the weights or means nothing to their network.
    """
    given = options.network
    for name, value in given.items():
        if name not in choices:
            raise ConfigError(
                f"{name}={value!r} means nothing to this network, whose options are "
                f"{', '.join(choices)}. Leave it out."
            )
        if value not in choices[name]:
            raise ConfigError(
                f"{name}={value!r} contradicts the weights, which allow "
                f"{', '.join(map(str, choices[name]))}. Leave it out or choose one of these."
            )
    notes = tuple(
        _assume(name, values)
        for name, values in choices.items()
        if name not in given and len(values) > 1
    )
    return {**{name: values[0] for name, values in choices.items()}, **given}, notes


def _assume(name: str, values: Sequence[Any]) -> Assumed:
    others = ", ".join(map(repr, values[1:]))
    sentence = f"{name}={values[0]!r} is assumed: the weights do not tell it from {others}."
    return Assumed(sentence, name, *values)


def _find_ends(weights: Weights) -> tuple[Tensor, Tensor]:
    first, final = weights.get(MARKER), weights.get(_FINAL)
    if first is None or final is None or first.ndim not in (4, 5) or final.ndim != first.ndim:
        raise ModelFileError(
            f"The weights belong to another architecture: found {list_names(weights)}, "
            f"expected {_EXPECTED}. Convert them, or load them with the program they come from."
        )
    return first, final


def _valid_config(options: dict[str, Any]) -> UNetConfig:
    try:
        return UNetConfig(**options)
    except ConfigError as error:
        raise ModelFileError(
            "The weights belong to a network that cannot be built: "
            f"{as_sentence(str(error))} Use the weights of {_EXPECTED}."
        ) from error


def _find_planar_blocks(weights: Weights, dim: int, n_blocks: int) -> tuple[int, ...]:
    """Return the blocks of a 3D network whose kernels have no depth."""
    if dim == 2:
        return ()
    shapes = {
        block: weights[name].shape
        for block in range(n_blocks)
        if (name := f"down_blocks.{block}.conv1.weight") in weights
    }
    return tuple(b for b, shape in shapes.items() if len(shape) == 5 and shape[2] == 1)


def _possible_normalizations(weights: Weights, start_filters: int) -> tuple[str, ...]:
    if "down_blocks.0.norm1.running_mean" in weights:
        return ("batch",)
    if "down_blocks.0.norm1.weight" not in weights:
        return ("none", "instance")
    return possible_groups(start_filters)


def possible_groups(channels: int) -> tuple[str, ...]:
    """Return the group normalizations that divide `channels`, the usual one first.

    Examples
    --------
    >>> possible_groups(12)
    ('group4', 'group1', 'group2', 'group3', 'group6', 'group12')
    """
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    usual = math.gcd(8, channels)
    return tuple(f"group{n}" for n in sorted(divisors, key=lambda n: (n != usual, n)))


def _possible_up_modes(weights: Weights, dim: int, n_blocks: int) -> tuple[str, ...]:
    if n_blocks == 1 or "up_blocks.0.up.weight" in weights:
        return ("transposed",)
    return tuple(mode for mode in UP_MODES[dim] if mode != "transposed")


def build_network(config: UNetConfig, weights: Weights) -> UNet:
    """Build the network that `config` describes around `weights`.

    Nothing is allocated before names and shapes are checked, and the network
    is handed out only when every check has passed.

    Parameters
    ----------
    config : UNetConfig
        The options.
    weights : mapping of str to Tensor
        Exactly the network's state_dict; floats of any precision, on the CPU.

    Returns
    -------
    UNet
        In evaluation mode, float32, on the CPU, sharing no memory with `weights`.

    Raises
    ------
    ModelFileError
        If names, shapes or types differ or a weight is not finite.
    """
    with torch.device("meta"):
        network = UNet(config)
    return fill_network(network, weights, "a unetari U-Net, whose blocks double their filters")


def fill_network(network: _Network, weights: Weights, name: str) -> _Network:
    """Give a network without memory its weights, once all names, shapes and values are right.

    Parameters
    ----------
    network : nn.Module
        On the meta device.
    weights : mapping of str to Tensor
        Exactly the network's state_dict; floats of any precision, on the CPU.
    name : str
        What the network is, for errors.

    Returns
    -------
    nn.Module
        The network, in evaluation mode, float32, sharing no memory with `weights`.

    Raises
    ------
    ModelFileError
        If names, shapes or types differ or a weight is not finite.
    """
    expected = network.state_dict()
    _check_names(expected, weights, name)
    _check_shapes(expected, weights, name)
    checked = {name: _convert(name, weights[name], expected[name].dtype) for name in expected}
    network.load_state_dict(checked, strict=True, assign=True)
    return network.eval()


def _check_names(expected: Weights, weights: Weights, network: str) -> None:
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    if not missing and not unknown:
        return
    parts = []
    if missing:
        parts.append(f"missing {list_names(missing)}")
    if unknown:
        parts.append(f"not expected {list_names(unknown)}")
    raise ModelFileError(
        f"The weights do not fit the network: {'; '.join(parts)}. "
        f"Save the complete state_dict of {network}, and nothing else."
    )


def _check_shapes(expected: Weights, weights: Weights, network: str) -> None:
    wrong = [
        f"{name} has shape {_shape(weights[name])} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if weights[name].shape != tensor.shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise ModelFileError(
            f"The weights do not fit the network: {'; '.join(wrong[:3])}{more}. "
            f"Save the state_dict of {network}."
        )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape)) if tensor.ndim < 10 else f"of {tensor.ndim} axes"


def _convert(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    # Casting a whole state_dict to half also casts the integer count of batches.
    is_number = not tensor.is_complex() and tensor.dtype != torch.bool
    if not plain or not is_number or (dtype.is_floating_point and not tensor.is_floating_point()):
        raise ModelFileError(
            f"{name} holds {tensor.dtype} values ({tensor.layout}, {tensor.device.type}), and "
            f"{dtype} is needed. Save the weights as ordinary float tensors."
        )
    converted = tensor.detach().to(dtype, copy=True).contiguous()
    n_bad = converted.numel() - int(torch.isfinite(converted).sum())
    if n_bad:
        raise ModelFileError(
            f"{name} has {n_bad} values of {converted.numel()} that are NaN or infinite in "
            "float32. The training diverged or the file is damaged: use an earlier checkpoint."
        )
    return converted


def list_names(names: Iterable[str], limit: int = 3) -> str:
    """Return the first names for a message, and how many more there are."""
    listed = list(names)
    shown = ", ".join(" ".join(str(name)[:80].split()) for name in listed[:limit])
    if len(listed) > limit:
        return f"{shown} (and {len(listed) - limit} more)"
    return shown or "nothing"
