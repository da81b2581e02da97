"""`UNetConfig`: every option of the network, frozen and validated."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from itertools import pairwise
from numbers import Integral
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from unetari.errors import ConfigError

Activation = Literal["relu", "leaky", "elu"]
ConvMode = Literal["same", "valid"]
BlockOrder = Literal["conv-act-norm", "conv-norm-act"]
Dim = Literal[2, 3]
UpMode = Literal["transposed", "nearest", "bilinear", "trilinear", "bicubic"]

UP_MODES: dict[int, tuple[UpMode, ...]] = {
    2: ("transposed", "nearest", "bilinear", "bicubic"),
    3: ("transposed", "nearest", "trilinear"),
}
"""The ways to upsample, by number of spatial dimensions."""

_GROUP = re.compile(r"group([1-9]\d*)")
_NORMALIZATIONS = "none, batch, instance, or groupN with N groups (such as group8)"


def _plain(value: Any) -> Any:
    """Make numpy's integers plain ones; what is no integer is left to be refused."""
    if isinstance(value, bool):
        return value
    return int(value) if isinstance(value, Integral) else value


Integer = Annotated[int, BeforeValidator(_plain), Field(strict=True)]
"""A whole number; not True, 4.0 or "4", which are mistakes."""


class FrozenModel(BaseModel):
    """Base of all settings: frozen, no unknown fields, and our own error type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise ConfigError(_describe(type(self).__name__, error)) from error

    @classmethod
    def explain_options(cls) -> dict[str, str]:
        """Return the text below each option in the source, by name; empty if there is no source.

        Options that a base class declares are explained there. pydantic's
        `use_attribute_docstrings` reads the source of every class on import, which takes
        longer than all the rest of it.

        Examples
        --------
        >>> UNetConfig.explain_options()["dim"]
        'Number of spatial dimensions.'
        """
        found = {}
        for declaring in reversed(cls.__mro__):
            if issubclass(declaring, FrozenModel):
                found.update(_read_texts(declaring))
        return {name: text for name, text in found.items() if name in cls.model_fields}

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with some options changed."""
        return type(self)(**{**dict(self), **changes})


class UNetConfig(FrozenModel):
    """The options of a U-Net.

    The names and defaults are those of the article "Creating and training a
    U-Net model with PyTorch for 2D & 3D semantic segmentation" by J. Schmidt.

    Raises
    ------
    ConfigError
        If an option is unknown, out of range, or impossible together with
        another one.

    Examples
    --------
    >>> UNetConfig(n_blocks=3, start_filters=8).filters
    (8, 16, 32)
    >>> UNetConfig(dim=3, up_mode="bicubic")
    Traceback (most recent call last):
    ...
    unetari.errors.ConfigError: UNetConfig: up_mode='bicubic' does not exist in 3D. ...
    """

    in_channels: Annotated[Integer, Field(ge=1, le=4096)] = 1
    """Number of channels of the input image."""
    out_channels: Annotated[Integer, Field(ge=1, le=65535)] = 2
    """Number of classes, background included; 1 means foreground by sigmoid."""
    n_blocks: Annotated[Integer, Field(ge=1, le=10)] = 4
    """Number of encoder blocks; pooling happens n_blocks - 1 times."""
    start_filters: Annotated[Integer, Field(ge=1, le=4096)] = 32
    """Number of filters in the first block; doubled in each further block."""
    activation: Activation = "relu"
    """Activation function; "leaky" is a leaky ReLU with slope 0.1."""
    normalization: str = "batch"
    """Feature normalization: none, batch, instance, or groupN with N groups."""
    conv_mode: ConvMode = "same"
    """3x3 convolutions with zero padding ("same") or without ("valid")."""
    dim: Dim = 2
    """Number of spatial dimensions."""
    up_mode: UpMode = "transposed"
    """Transposed convolution, or interpolation followed by a 1x1 convolution."""
    block_order: BlockOrder = "conv-act-norm"
    """Order of activation and normalization after a convolution; the article's is
    "conv-act-norm". With "conv-norm-act", batch normalization costs nothing in prediction."""
    planar_blocks: tuple[Integer, ...] = ()
    """Blocks, from 0, with 1x3x3 convolutions and 1x2x2 pooling, which leave z alone: for volumes
    of thick slices. 3D only."""

    @model_validator(mode="before")
    @classmethod
    def _none_is_none(cls, data: Any) -> Any:
        # The article writes normalization=None.
        if isinstance(data, dict) and data.get("normalization", "") is None:
            return {**data, "normalization": "none"}
        return data

    @model_validator(mode="after")
    def _check_combinations(self) -> UNetConfig:
        if self.up_mode not in UP_MODES[self.dim]:
            raise ValueError(
                f"up_mode={self.up_mode!r} does not exist in {self.dim}D. "
                f"Choose one of: {', '.join(UP_MODES[self.dim])}."
            )
        if self.normalization not in ("none", "batch", "instance"):
            self._check_groups()
        self._check_planar_blocks()
        if self.filters[-1] > 65536:
            raise ValueError(
                f"n_blocks={self.n_blocks} with start_filters={self.start_filters} needs "
                f"{self.filters[-1]} filters in the deepest block, and at most 65536 are "
                "allowed. Lower one of the two."
            )
        return self

    def _check_groups(self) -> None:
        match = _GROUP.fullmatch(self.normalization)
        if match is None:
            raise ValueError(
                f"normalization={self.normalization!r} is unknown. Choose {_NORMALIZATIONS}."
            )
        groups = int(match[1])
        if self.start_filters % groups:
            choices = [n for n in range(1, self.start_filters + 1) if self.start_filters % n == 0]
            raise ValueError(
                f"normalization={self.normalization!r}: {groups} groups do not divide "
                f"start_filters={self.start_filters}. Choose a group count among "
                f"{', '.join(map(str, choices))}, or another start_filters."
            )

    def _check_planar_blocks(self) -> None:
        if not self.planar_blocks:
            return
        if self.dim != 3:
            raise ValueError(
                f"planar_blocks={self.planar_blocks} need a network with dim=3: in 2D every block "
                "is planar. Leave them out."
            )
        choices = range(self.n_blocks)
        if sorted(set(self.planar_blocks)) != list(self.planar_blocks) or not set(
            self.planar_blocks
        ) <= set(choices):
            raise ValueError(
                f"planar_blocks={self.planar_blocks} must be different blocks among "
                f"{', '.join(map(str, choices))}, in ascending order, such as (0, 1)."
            )

    @property
    def groups(self) -> int | None:
        """Number of groups of a group normalization, else None."""
        match = _GROUP.fullmatch(self.normalization)
        return int(match[1]) if match else None

    @property
    def filters(self) -> tuple[int, ...]:
        """Number of filters per block, from the first to the deepest."""
        return tuple(self.start_filters * 2**level for level in range(self.n_blocks))

    def with_blocks(self, n_blocks: int) -> UNetConfig:
        """Return a copy with another number of blocks; planar ones that it lacks are dropped."""
        planar = tuple(block for block in self.planar_blocks if block < n_blocks)
        return self.replace(n_blocks=n_blocks, planar_blocks=planar)

    def to_2d(self) -> UNetConfig:
        """Return the options of a 2D network that are nearest to these."""
        up_mode = "bilinear" if self.up_mode == "trilinear" else self.up_mode
        return self.replace(dim=2, up_mode=up_mode, planar_blocks=())

    @property
    def tiles_exactly(self) -> bool:
        """Whether tiled and whole-image results agree to rounding.

        Instance and group normalization take statistics over their whole
        input, so a tile cannot give what the whole image gives.
        """
        return self.normalization in ("none", "batch")

    @property
    def n_classes(self) -> int:
        """Number of different labels: a single output channel means two."""
        return max(self.out_channels, 2)


def _read_texts(settings: type) -> dict[str, str]:
    """Return the string below each option in the source of one class, without its bases."""
    try:
        source = textwrap.dedent(inspect.getsource(settings))
    except (OSError, TypeError):  # TypeError: a class typed at the prompt
        return {}
    body = cast("ast.ClassDef", ast.parse(source).body[0]).body
    return {
        ast.unparse(option.target): inspect.cleandoc(below.value.value)
        for option, below in pairwise(body)
        if isinstance(option, ast.AnnAssign)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def _describe(name: str, error: ValidationError) -> str:
    """One line per problem: the option, the value, the rule."""
    lines = []
    for problem in error.errors(include_url=False):
        where = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown option; check the spelling"
        lines.append(f"{where}={problem['input']!r}: {message}" if where else message)
    return f"{name}: " + "; ".join(lines)
