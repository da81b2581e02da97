"""What the networks of other programs have in common, and shapes read with care."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from unetari.core.network import ForeignConfig
from unetari.errors import ModelFileError
from unetari.model.weights import Weights, list_names

MAX_LEVELS = 10
_LIVE_SHARE = 5
_MAX_CHANNELS = 65536
_KERNELS = range(1, 16, 2)


@dataclass(frozen=True)
class Rebuilt:
    """A network made from its weights alone, and what was assumed about it."""

    network: nn.Module
    """In evaluation mode, on the CPU; gives logits."""
    config: ForeignConfig
    """What is known of it, sizes and reach derived from its layers."""
    notes: tuple[str, ...] = ()
    """What was assumed, a sentence each."""


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, buffers left out."""
    return sum(parameter.numel() for parameter in network.parameters())


def possible_classes(out_channels: int) -> tuple[str, ...]:
    """Return what the channels of an output can mean, the usual first, see `ForeignConfig`."""
    return ("independent",) if out_channels == 1 else ("exclusive", "independent")


def estimate_features(widest: int) -> int:
    """Estimate how many values per voxel are alive at the peak of a pass.

    Parameters
    ----------
    widest : int
        Channels of the widest features at the image's resolution: what the
        last decoder's block takes.
    """
    return _LIVE_SHARE * widest


class Convolution(NamedTuple):
    """What the shape of a weight says about its convolution."""

    out_channels: int
    in_channels: int
    kernel: tuple[int, ...]


class Shapes:
    """Names and shapes of a state_dict below a prefix; refuses what cannot be.

    Parameters
    ----------
    weights : mapping of str to Tensor
        The whole state_dict.
    family : str
        The program it should come from, for errors.
    prefix : str
        Begins the names looked at.
    """

    def __init__(self, weights: Weights, family: str, prefix: str = "") -> None:
        self._weights, self.family, self.prefix = weights, family, prefix

    def below(self, name: str) -> Shapes:
        """Return the shapes of one module."""
        return Shapes(self._weights, self.family, f"{self.prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return f"{self.prefix}{name}" in self._weights

    def has(self, module: str) -> bool:
        """Whether there are weights of this module."""
        start = f"{self.prefix}{module}."
        return any(name.startswith(start) for name in self._weights)

    def names(self) -> Iterator[str]:
        """Yield all names, without the prefix."""
        for name in self._weights:
            if name.startswith(self.prefix):
                yield name.removeprefix(self.prefix)

    def get(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises
        ------
        ModelFileError
            If it is missing.
        """
        tensor = self._weights.get(f"{self.prefix}{name}")
        if tensor is None:
            raise ModelFileError(
                f"The weights lack {self.prefix}{name}, which networks of {self.family} have. "
                "Save the complete state_dict, and nothing else."
            )
        return tuple(tensor.shape)

    def length(self, name: str) -> int:
        """Return the size of a tensor's first axis.

        Raises
        ------
        ModelFileError
            If there is none, or none that channels could have.
        """
        shape = self.get(name)
        if not shape or not 1 <= shape[0] <= _MAX_CHANNELS:
            raise self._impossible(name, shape)
        return shape[0]

    def _impossible(self, name: str, shape: tuple[int, ...]) -> ModelFileError:
        return ModelFileError(
            f"{self.prefix}{name} has shape {shape}, which no network of {self.family} has. "
            "Save the state_dict again with the program it comes from."
        )

    def convolution(self, name: str, dim: int | None = None) -> Convolution:
        """Return what the weight of a convolution says.

        Parameters
        ----------
        name : str
            The module; empty for this one.
        dim : int, optional
            The number of spatial dimensions it must have.

        Raises
        ------
        ModelFileError
            If it is missing, or has the shape of no convolution.
        """
        name = f"{name}.weight" if name else "weight"
        shape = self.get(name)
        right_dim = len(shape) == dim + 2 if dim else len(shape) in (4, 5)
        small = all(1 <= size <= _MAX_CHANNELS for size in shape[:2])
        if not right_dim or not small or not all(size in _KERNELS for size in shape[2:]):
            raise self._impossible(name, shape)
        return Convolution(shape[0], shape[1], shape[2:])

    def count(self, modules: str) -> int:
        """Return how many modules a list of this name holds.

        Raises
        ------
        ModelFileError
            If they are too many or not numbered one after the other.
        """
        start = f"{modules}."
        found = {
            n.removeprefix(start).partition(".")[0] for n in self.names() if n.startswith(start)
        }
        expected = {str(index) for index in range(min(len(found), MAX_LEVELS))}
        if found != expected:
            raise ModelFileError(
                f"{self.prefix}{modules} holds {list_names(sorted(found))}, and up to {MAX_LEVELS} "
                f"modules, numbered from 0, were expected of {self.family}. Save the complete "
                "state_dict."
            )
        return len(found)
