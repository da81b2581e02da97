"""`UNetConfigEditor`: all options of the network, with a live summary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from annotated_types import Ge, Le
from magicgui.widgets import ComboBox, Container, LineEdit, SpinBox
from magicgui.widgets.bases import Widget

from unetari.core.config import UP_MODES, UNetConfig
from unetari.core.network import reach_of
from unetari.core.shapes import receptive_field
from unetari.errors import ConfigError, OutOfMemoryError
from unetari.model.summary import check_weights_fit, count_parameters
from unetari.widgets.fields import choice, integer, offer, put_below, texts, tighten
from unetari.widgets.messages import Message, State, TextLabel, mark

TITLES = {
    "dim": "Dimensions",
    "in_channels": "Channels",
    "out_channels": "Classes",
    "n_blocks": "Blocks",
    "start_filters": "First filters",
    "activation": "Activation",
    "normalization": "Normalization",
    "block_order": "Order",
    "conv_mode": "Convolution",
    "up_mode": "Upsampling",
    "planar_blocks": "Planar blocks",
}
"""Title of each option, in the order of the form."""

CHOICE_NAMES: dict[Any, str] = {
    2: "2D",
    3: "3D",
    "relu": "ReLU",
    "leaky": "leaky ReLU (0.1)",
    "elu": "ELU",
    "none": "none",
    "batch": "batch",
    "instance": "instance",
    "group": "group",
    "same": "same size",
    "valid": "valid",
    "transposed": "transposed",
    "conv-act-norm": "act → norm",
    "conv-norm-act": "norm → act",
}
"""Text of the choices that need one."""


_NO_BLOCKS = "none"
_KINDS = texts(("none", "batch", "instance", "group"), CHOICE_NAMES)


class NormalizationField(Container[Widget]):
    """Feature normalization; groups have a number."""

    def __init__(
        self, *, name: str, label: str, tooltip: str, kinds: Mapping[str, str] = _KINDS
    ) -> None:
        self.kind = choice(kinds)
        self.groups = integer(1, 4096, 8)
        self.groups.visible = False
        self.kind.changed.connect(self._show_groups)
        super().__init__(
            widgets=[self.kind, self.groups],
            layout="vertical",  # side by side they would be wider than a narrow panel
            labels=False,
            name=name,
            label=label,
            tooltip=tooltip,
        )
        self.margins = (0, 0, 0, 0)

    def _show_groups(self, kind: str) -> None:
        self.groups.visible = kind == "group"

    @property
    def value(self) -> str:
        """A kind, such as "instance"; "groupN" for groups."""
        kind = str(self.kind.value)
        return f"group{self.groups.value}" if kind == "group" else kind

    @value.setter
    def value(self, value: str) -> None:
        kind = "group" if value.startswith("group") else value
        if kind == "group":
            self.groups.value = int(value.removeprefix("group"))
        self.kind.value = kind


class PlanarBlocksField(Container[Widget]):
    """Numbers of blocks, typed as "0, 1"; "none" stands for none of them."""

    def __init__(self, *, name: str, label: str, tooltip: str) -> None:
        self.text = LineEdit(value=_NO_BLOCKS, tooltip=tooltip)
        super().__init__(
            widgets=[self.text],
            layout="horizontal",
            labels=False,
            name=name,
            label=label,
            tooltip=tooltip,
        )
        self.margins = (0, 0, 0, 0)

    @property
    def value(self) -> tuple[int | str, ...]:
        """The numbers; what is no number is left for `UNetConfig` to refuse."""
        words = str(self.text.value).replace(",", " ").split()
        if words == [_NO_BLOCKS]:
            return ()
        return tuple(int(word) if word.isdecimal() else word for word in words)

    @value.setter
    def value(self, value: tuple[int, ...]) -> None:
        self.text.value = ", ".join(map(str, value)) or _NO_BLOCKS


Field = ComboBox | SpinBox | NormalizationField | PlanarBlocksField


def _make_field(name: str, tooltip: str) -> Field:
    """Build the field of an option from its declaration in `UNetConfig`."""
    info = UNetConfig.model_fields[name]
    label = TITLES[name]
    if name == "normalization":
        return NormalizationField(name=name, label=label, tooltip=tooltip)
    if name == "planar_blocks":
        return PlanarBlocksField(name=name, label=label, tooltip=tooltip)
    choices = get_args(info.annotation)
    if choices:
        return choice(texts(choices, CHOICE_NAMES), name=name, label=label, tooltip=tooltip)
    low = next(int(limit.ge) for limit in info.metadata if isinstance(limit, Ge))  # type: ignore[call-overload]
    high = next(int(limit.le) for limit in info.metadata if isinstance(limit, Le))  # type: ignore[call-overload]
    return integer(low, high, info.default, name=name, label=label, tooltip=tooltip)


class UNetConfigEditor(Container[Widget]):
    """Edits a `UNetConfig`.

    `changed` is emitted once per change, valid or not.

    Parameters
    ----------
    config : UNetConfig, optional
        What it shows at first.
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        self._problem = ""
        # Any: the values are of different types, and each field knows its own.
        tooltips = UNetConfig.explain_options()
        self.fields: dict[str, Any] = {
            name: _make_field(name, tooltips.get(name, "")) for name in TITLES
        }
        self._reasons = {name: Message(state=State.PROBLEM) for name in TITLES}
        self._summary = TextLabel()
        for field in self.fields.values():
            # Before the container connects it, so that `changed` finds everything up to date.
            field.changed.connect(self._update)
        super().__init__(widgets=list(self.fields.values()))
        tighten(self)
        for name, field in self.fields.items():
            put_below(field, self._reasons[name])
        self.native.layout().addWidget(self._summary)
        self.set_value(config or UNetConfig())

    def value(self) -> UNetConfig:
        """Return the config.

        Raises
        ------
        ConfigError
            If the options do not go together; the fields say why.
        """
        return UNetConfig(**{name: field.value for name, field in self.fields.items()})

    def set_value(self, config: UNetConfig) -> None:
        """Show a config; `changed` is emitted once."""
        with self.changed.blocked():
            # In the order of the form, where the ways to upsample follow the dimensions.
            for name, field in self.fields.items():
                field.value = getattr(config, name)
        self._update()
        self.changed.emit(self)

    @property
    def problem(self) -> str:
        """Why the options do not go together; empty if they do."""
        return self._problem

    def reason_of(self, name: str) -> str:
        """Return what stands below the field of an option; empty if nothing does."""
        return self._reasons[name].text

    @property
    def summary(self) -> str:
        """The summary line."""
        return self._summary.text()

    def _offer_up_modes(self) -> None:
        """Follow the number of dimensions; linear stays linear."""
        field, dim = self.fields["up_mode"], self.fields["dim"].value
        if field.choices == UP_MODES[dim]:
            return
        is_linear = field.value.endswith("linear")
        offer(field, texts(UP_MODES[dim], CHOICE_NAMES))
        if is_linear:
            with field.changed.blocked():
                field.value = "bilinear" if dim == 2 else "trilinear"

    def _update(self) -> None:
        self._offer_up_modes()
        self.fields["planar_blocks"].visible = self.fields["dim"].value == 3
        config: UNetConfig | None = None
        self._problem = ""
        try:
            config = self.value()
            check_weights_fit(config)
        except (ConfigError, OutOfMemoryError) as error:
            self._problem = str(error).removeprefix("UNetConfig: ")
        self._mark_fields()
        self._summary.setText("" if config is None else describe(config))
        self._summary.setVisible(config is not None)

    def _mark_fields(self) -> None:
        """Mark the fields that the problem names, and say it under the first of them."""
        found = re.findall(r"\b(\w+)(?:\.\w+)*=", self._problem)  # also planar_blocks.1=
        named = [name for name in found if name in TITLES]
        for name, field in self.fields.items():
            mark(field.native, name in named)
            self._reasons[name].show_text(self._problem if name in named[:1] else "", State.PROBLEM)


def describe(config: UNetConfig) -> str:
    """Say in a line how large a network is and what it sees."""
    axes = range(-config.dim, 0)
    field = " x ".join(str(receptive_field(config, axis)) for axis in axes)
    multiples = [reach.multiple for reach in reach_of(config)]
    multiple = " x ".join(map(str, multiples if len(set(multiples)) > 1 else multiples[:1]))
    sizes = "any size" if set(multiples) == {1} else f"multiples of {multiple}"
    return (
        f"{count_parameters(config):,} parameters; sizes that fit without padding: {sizes}; "
        f"an output pixel sees {field} pixels."
    )
