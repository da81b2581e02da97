"""Networks of other programs, rebuilt from their weights alone, one module per program."""

from __future__ import annotations

from typing import Protocol

from unetari.model.architectures import elektronn3, pytorch3dunet
from unetari.model.architectures.base import Rebuilt
from unetari.model.weights import LoadOptions, Weights

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Rebuilt",
    "elektronn3",
    "find_architecture",
    "pytorch3dunet",
]


class Architecture(Protocol):
    """What each module of this package offers."""

    NAME: str
    """The program the networks come from, for people."""
    MARKER: str
    """Begins the name of a weight that every network of the program has."""

    def recognises(self, weights: Weights) -> bool:
        """Whether the names are those of the program."""

    def rebuild(self, weights: Weights, options: LoadOptions) -> Rebuilt:
        """Make the network that the weights belong to, or raise ModelFileError or ConfigError."""


ARCHITECTURES: tuple[Architecture, ...] = (pytorch3dunet, elektronn3)
"""All programs, asked in this order."""


def find_architecture(weights: Weights) -> Architecture | None:
    """Return the program whose names the weights carry; None for none of them."""
    return next((known for known in ARCHITECTURES if known.recognises(weights)), None)
