"""`NormalizationEditor`: how intensities are mapped before they reach the network."""

from __future__ import annotations

import sys
from decimal import Decimal
from itertools import chain

from magicgui.widgets import Container
from magicgui.widgets.bases import Widget

from unetari.core.normalization import METHODS, SCOPES, WITH_STATISTICS, Normalization
from unetari.errors import ConfigError
from unetari.widgets.fields import RealField, choice, put_below, real, tighten
from unetari.widgets.messages import Message, State, mark

_DECIMALS = 4
_HELP = "How intensities are mapped before they reach the network"
_DEFAULTS = {"percentile": (1, 99.8), "range": (0, 255)}
_UNSET = "unset"
_SHORT_NAMES = {"percentile": "percentiles", "minmax": "extremes", "range": "fixed range"}
"""Without the "to 0 and 1" that a narrow panel would cut."""


class NormalizationEditor(Container[Widget]):
    """Edits a `Normalization`; only what the method uses is shown and kept.

    `changed` is emitted once per change, valid or not.

    Parameters
    ----------
    unset : str
        Text of a further choice, for a model that brings its own; empty for none.
    tooltip : str
        Says what the method is for.
    """

    def __init__(self, unset: str = "", tooltip: str = _HELP) -> None:
        choices = ({_UNSET: unset} if unset else {}) | METHODS | _SHORT_NAMES
        self.method = choice(choices, label="Intensities", tooltip=tooltip)
        largest = sys.float_info.max
        self.limits = {
            "percentile": _limits(0, 100, values=_DEFAULTS["percentile"], step=0.1),
            "range": _limits(-largest, largest, values=_DEFAULTS["range"], step=1),
        }
        scopes = {scope: text.removeprefix("the ") for scope, text in SCOPES.items()}
        self.scope = choice(
            scopes,
            label="Statistics of",
            tooltip="Where extremes, moments and percentiles come from",
        )
        self._reason = Message(state=State.PROBLEM)
        self._problem = ""
        self._shown = Normalization()
        fields = [self.method, *chain(*self.limits.values()), self.scope]
        for field in fields:
            # Before the container connects it, so that `changed` finds everything up to date.
            field.changed.connect(self._update)
        super().__init__(widgets=fields)
        tighten(self)
        put_below(self.limits["range"][1], self._reason)
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
        if self.method.value in WITH_STATISTICS:
            options["scope"] = self.scope.value
            if self.method.value == self._shown.method:  # what files declare and nobody edits
                options |= {"channels": self._shown.channels, "eps": self._shown.eps}
        return Normalization(**options)

    def set_value(self, normalization: Normalization) -> None:
        """Show a normalization; `changed` is emitted once."""
        self._shown = normalization
        with self.changed.blocked():
            self.method.value = normalization.method
            self.scope.value = normalization.scope
            limits = self.limits.get(normalization.method, ())
            values = (normalization.low, normalization.high)
            for field, value in zip(limits, values, strict=False):
                _set_exactly(field, value)
        self._update()
        self.changed.emit(self)

    def reset(self) -> None:
        """Show what is shown at first; `changed` is emitted once."""
        self._shown = Normalization()
        with self.changed.blocked():
            self.method.value, *_ = self.method.choices
            self.scope.value = self._shown.scope
            for name, limits in self.limits.items():
                for field, value in zip(limits, _DEFAULTS[name], strict=True):
                    _set_exactly(field, value)
        self._update()
        self.changed.emit(self)

    @property
    def problem(self) -> str:
        """Why the limits do not go together; empty if they do."""
        return self._problem

    def _update(self) -> None:
        method = self.method.value
        self._problem = ""
        try:
            self.value()
        except ConfigError as error:
            self._problem = str(error).removeprefix("Normalization: ")
        for name, limits in self.limits.items():
            for field in limits:
                field.visible = name == method
                mark(field.native, name == method and bool(self._problem))
        self.scope.visible = method in WITH_STATISTICS
        self._reason.show_text(self._problem, State.PROBLEM)


def _limits(
    low: float, high: float, *, values: tuple[float, float], step: float
) -> tuple[RealField, RealField]:
    lower, upper = (
        real(low, high, value, step=step, decimals=_DECIMALS, label=label)
        for value, label in zip(values, ("Low", "High"), strict=True)
    )
    return lower, upper


def _set_exactly(field: RealField, value: float) -> None:
    """Set a value with as many decimals as it has, where the field would round it."""
    exponent = Decimal(repr(value)).as_tuple().exponent
    field.native.setDecimals(max(_DECIMALS, -int(exponent)))
    field.value = value
