"""`UNetConfigEditor`: all options of the network, with a live summary."""

from __future__ import annotations

import re
from typing import Any, get_args

from annotated_types import Ge, Le
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from unetari.core.config import UP_MODES, UNetConfig
from unetari.core.shapes import receptive_field
from unetari.errors import ConfigError
from unetari.model.summary import count_parameters
from unetari.widgets.fields import ChoiceField, IntField, texts
from unetari.widgets.messages import Message, State, TextLabel, mark

TITLES = {
    "dim": "Dimensions",
    "in_channels": "Image channels",
    "out_channels": "Classes",
    "n_blocks": "Blocks",
    "start_filters": "First filters",
    "activation": "Activation",
    "normalization": "Normalization",
    "conv_mode": "Convolution",
    "up_mode": "Upsampling",
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
    "group": "groups:",
    "same": "same size (zero padding)",
    "valid": "valid (result shrinks)",
    "transposed": "transposed convolution",
}
"""Text of the choices that need one."""


class NormalizationField(QWidget):
    """Feature normalization; groups have a number."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.kind = ChoiceField(texts(("none", "batch", "instance", "group"), CHOICE_NAMES))
        self.groups = IntField(1, 4096)
        self.groups.set_value(8)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.kind)
        row.addWidget(self.groups)
        self.groups.hide()
        self.kind.changed.connect(self._show_groups)
        self.kind.changed.connect(self.changed)
        self.groups.changed.connect(self.changed)

    def _show_groups(self) -> None:
        self.groups.setVisible(self.kind.value() == "group")

    def value(self) -> str:
        """Return "none", "batch", "instance" or "groupN"."""
        kind = str(self.kind.value())
        return f"group{self.groups.value()}" if kind == "group" else kind

    def set_value(self, value: str) -> None:
        """Show a normalization."""
        kind = "group" if value.startswith("group") else value
        if kind == "group":
            self.groups.set_value(int(value.removeprefix("group")))
        self.kind.set_value(kind)


Field = ChoiceField | IntField | NormalizationField


def _make_field(name: str) -> Field:
    """Build the field of an option from its declaration in `UNetConfig`."""
    if name == "normalization":
        return NormalizationField()
    info = UNetConfig.model_fields[name]
    choices = get_args(info.annotation)
    if choices:
        return ChoiceField(texts(choices, CHOICE_NAMES))
    low = next(int(limit.ge) for limit in info.metadata if isinstance(limit, Ge))  # type: ignore[call-overload]
    high = next(int(limit.le) for limit in info.metadata if isinstance(limit, Le))  # type: ignore[call-overload]
    return IntField(low, high)


class UNetConfigEditor(QWidget):
    """Edits a `UNetConfig`.

    Parameters
    ----------
    config : UNetConfig, optional
        What it shows at first.
    parent : QWidget, optional
        The owner.
    """

    changed = Signal()
    """Emitted once per change, valid or not."""

    def __init__(self, config: UNetConfig | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._problem = ""
        # Any: the values are of different types, and each field knows its own.
        self.fields: dict[str, Any] = {name: _make_field(name) for name in TITLES}
        self._reasons = {name: Message(state=State.PROBLEM) for name in TITLES}
        self._summary = TextLabel()
        self._lay_out()
        for field in self.fields.values():
            field.changed.connect(self._update)
        self.set_value(config or UNetConfig())

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(4)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for name, field in self.fields.items():
            cell = QVBoxLayout()
            cell.setSpacing(2)
            cell.addWidget(field)
            cell.addWidget(self._reasons[name])
            label = QLabel(TITLES[name])
            help_text = UNetConfig.model_fields[name].description or ""
            label.setToolTip(help_text)
            field.setToolTip(help_text)
            form.addRow(label, cell)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(form)
        column.addWidget(self._summary)

    def value(self) -> UNetConfig:
        """Return the config.

        Raises
        ------
        ConfigError
            If the options do not go together; the fields say why.
        """
        return UNetConfig(**{name: field.value() for name, field in self.fields.items()})

    def set_value(self, config: UNetConfig) -> None:
        """Show a config; `changed` is emitted once."""
        blockers = [QSignalBlocker(field) for field in self.fields.values()]
        for name in TITLES:
            # dim comes first: the ways to upsample depend on it.
            self.fields[name].set_value(getattr(config, name))
            if name == "dim":
                self._offer_up_modes()
        for blocker in blockers:
            blocker.unblock()
        self._update()

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
        field, dim = self.fields["up_mode"], self.fields["dim"].value()
        if field.choices() == list(UP_MODES[dim]):
            return
        is_linear = str(field.value()).endswith("linear")
        field.set_choices(texts(UP_MODES[dim], CHOICE_NAMES))
        if is_linear:
            blocker = QSignalBlocker(field)
            field.set_value("bilinear" if dim == 2 else "trilinear")
            blocker.unblock()

    def _update(self) -> None:
        self._offer_up_modes()
        config: UNetConfig | None = None
        self._problem = ""
        try:
            config = self.value()
        except ConfigError as error:
            self._problem = str(error).removeprefix("UNetConfig: ")
        self._mark_fields()
        self._summary.setText("" if config is None else describe(config))
        self._summary.setVisible(config is not None)
        self.changed.emit()

    def _mark_fields(self) -> None:
        """Mark the fields that the problem names, and say it under the first of them."""
        named = [name for name in re.findall(r"\b(\w+)=", self._problem) if name in TITLES]
        for name, field in self.fields.items():
            mark(field, name in named)
            self._reasons[name].show_text(self._problem if name in named[:1] else "", State.PROBLEM)


def describe(config: UNetConfig) -> str:
    """Say in a line how large a network is and what it sees."""
    field = " x ".join([str(receptive_field(config))] * config.dim)
    multiple = config.multiple
    sizes = "any size" if multiple == 1 else f"multiples of {multiple}"
    return (
        f"{count_parameters(config):,} parameters; sizes that fit without padding: {sizes}; "
        f"an output pixel sees {field} pixels."
    )
