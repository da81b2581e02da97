"""What stands between the engine and a network that is no module of ours."""

from __future__ import annotations

from typing import Any

from torch import nn


class Wrapper(nn.Module):
    """A module around a network, which says what of it can be written to files."""

    def unwrapped(self) -> nn.Module:
        """Return the module that torch knows.

        Raises
        ------
        ModelFileError
            If there is none.
        """
        raise NotImplementedError

    def onnx_graph(self) -> Any | None:
        """Return an `onnx.ModelProto` that computes the same, weights included.

        None if the network is no ONNX graph.

        Raises
        ------
        ModelFileError
            If it is one, and cannot be written as one file.
        """
        return None


def plain_module(network: nn.Module) -> nn.Module:
    """Return the module that torch knows, without what unetari puts around it.

    Raises
    ------
    ModelFileError
        If torch knows none.
    """
    return network.unwrapped() if isinstance(network, Wrapper) else network


def onnx_graph(network: nn.Module) -> Any | None:
    """Return the ONNX graph that a network is; None if it is none."""
    return network.onnx_graph() if isinstance(network, Wrapper) else None
