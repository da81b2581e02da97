"""`NormalizationEditor`: how intensities are mapped before they reach the network."""

from __future__ import annotations

import sys
from decimal import Decimal

from magicgui.widgets import Container, FloatSpinBox
from magicgui.widgets.bases import Widget

from unetari.core.normalization import Normalization
from unetari.errors import ConfigError
from unetari.widgets.fields import choice, put_below, real, row, tighten
from unetari.widgets.messages import Message, State, mark

METHODS = {
    "percentile": "percentiles to 0 and 1",
    "zscore": "zero mean, unit variance",
    "minmax": "minimum to 0, maximum to 1",
    "range": "fixed range to 0 and 1",
    "none": "unchanged",
}
"""Text of each method."""
SCOPES = {"image": "the whole image", "frame": "each plane or volume"}
"""Text of each scope."""
_WITH_STATISTICS = ("percentile", "zscore", "minmax")
_DECIMALS = 4
_UNSET = "unset"


class NormalizationEditor(Container[Widget]):
    """Edits a `Normalization`; only what the method uses is shown and kept.

    `changed` is emitted once per change, valid or not.

    Parameters
    ----------
    unset : str
        Text of a further choice, for a model that brings its own; empty for none.
    """

    def __init__(self, unset: str = "") -> None:
        choices = {_UNSET: unset, **METHODS} if unset else METHODS
        self.method = choice(
            choices, label="Intensities", tooltip="How intensities are mapped before the network"
        )
        percentiles = [real(0, 100, value, step=0.1, decimals=_DECIMALS) for value in (1, 99.8)]
        largest = sys.float_info.max
        ends = [real(-largest, largest, value, step=1, decimals=_DECIMALS) for value in (0, 255)]
        self.limits = {"percentile": percentiles, "range": ends}
        self.scope = choice(SCOPES, label="Statistics of")
        self._rows = {
            "percentile": row(percentiles, label="Percentiles"),
            "range": row(ends, label="Range"),
        }
        self._reason = Message(state=State.PROBLEM)
        self._problem = ""
        for field in (self.method, *percentiles, *ends, self.scope):
            # Before a container connects it, so that `changed` finds everything up to date.
            field.changed.connect(self._update)
        super().__init__(widgets=[self.method, *self._rows.values(), self.scope])
        tighten(self)
        put_below(self._rows["range"], self._reason)
        self._update()

    @property
    def is_set(self) -> bool:
        """Whether a normalization is chosen."""
        return bool(self.method.value != _UNSET)

    def value(self) -> Normalization:
        """Return the normalization; the default one while none is chosen.

        Raises
        ------
        ConfigError
            If the limits do not go together; `problem` says why.
        """
        options = {"method": self.method.value} if self.is_set else {}
        if self.method.value in self.limits:
            low, high = self.limits[self.method.value]
            options |= {"low": low.value, "high": high.value}
        if self.method.value in _WITH_STATISTICS:
            options["scope"] = self.scope.value
        return Normalization(**options)

    def set_value(self, normalization: Normalization) -> None:
        """Show a normalization; `changed` is emitted once."""
        with self.changed.blocked():
            self.method.value = normalization.method
            self.scope.value = normalization.scope
            limits = self.limits.get(normalization.method, [])
            values = (normalization.low, normalization.high)
            for field, value in zip(limits, values, strict=False):
                _set_exactly(field, value)
        self._update()
        self.changed.emit(self)

    @property
    def problem(self) -> str:
        """Why the limits do not go together; empty if they do."""
        return self._problem

    def _update(self) -> None:
        method = self.method.value
        for name, limits in self._rows.items():
            limits.visible = name == method
        self.scope.visible = method in _WITH_STATISTICS
        self._problem = ""
        try:
            self.value()
        except ConfigError as error:
            self._problem = str(error).removeprefix("Normalization: ")
        for name, limits in self._rows.items():
            mark(limits.native, name == method and bool(self._problem))
        self._reason.show_text(self._problem, State.PROBLEM)


def describe_intensities(normalization: Normalization) -> str:
    """Say in a few words how intensities are mapped."""
    text = METHODS[normalization.method]
    if normalization.method in ("percentile", "range"):
        text = text.replace(" to", f" {normalization.low:g} and {normalization.high:g} to", 1)
    if normalization.method in _WITH_STATISTICS:
        text += f", of {SCOPES[normalization.scope]}"
    return text


def _set_exactly(field: FloatSpinBox, value: float) -> None:
    """Set a value with as many decimals as it has, where the field would round it."""
    exponent = Decimal(repr(value)).as_tuple().exponent
    field.native.setDecimals(max(_DECIMALS, -int(exponent)))
    field.value = value
