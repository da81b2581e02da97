"""Write a network down: one run on an example, with sizes left open where they may vary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unetari.core.network import NetworkConfig, reach_of
from unetari.core.sizes import Reach
from unetari.errors import ModelFileError
from unetari.model.formats.silence import quiet
from unetari.model.formats.wrappers import plain_module


def example_input(config: NetworkConfig) -> Tensor:
    """Return a batch of empty images, (2, C, [Z,] Y, X), every size another one."""
    sizes = [_example_size(reach, axis) for axis, reach in enumerate(reach_of(config))]
    return torch.zeros((2, config.in_channels, *sizes))


def _example_size(reach: Reach, axis: int) -> int:
    if reach.largest is not None:
        return reach.largest
    return reach.rule.above(reach.rule.smallest + (2 + axis) * reach.multiple)


def export_program(network: nn.Module, config: NetworkConfig) -> torch.export.ExportedProgram:
    """Turn a network into a graph that takes every size it takes.

    Raises
    ------
    ModelFileError
        If torch cannot do that.
    """
    module = plain_module(network)
    if holds_script(module):
        raise ModelFileError(
            "It is a TorchScript program, which torch.export does not take. Choose torchscript, "
            "onnx or bioimageio."
        )
    sizes = {0: torch.export.Dim("batch", min=1)}
    for axis, reach in enumerate(reach_of(config)):
        if reach.largest is None:
            sizes[2 + axis] = _open_size("zyx"[axis - config.dim], reach)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(module, (example_input(config),), dynamic_shapes=(sizes,))
    except Exception as error:  # torch fails in many ways
        raise cannot_write(error) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names the folders of this machine
    return program


def holds_script(module: nn.Module) -> bool:
    """Whether a module is a TorchScript program, or one is part of it."""
    return any(isinstance(part, torch.jit.ScriptModule) for part in module.modules())


def _open_size(name: str, reach: Reach) -> Any:
    """Return a size in the terms of `torch.export`: a multiple, and what valid convolution adds."""
    steps, rest = divmod(reach.rule.smallest, reach.multiple)
    size = torch.export.Dim(name, min=max(steps, 1))
    scaled = size if reach.multiple == 1 else reach.multiple * size
    return scaled + rest if rest else scaled


def cannot_write(error: Exception) -> ModelFileError:
    """Return the error for a network that torch cannot write down."""
    lines = str(error).strip().splitlines() or ["no detail"]
    return ModelFileError(
        f"torch cannot write this network down ({type(error).__name__}: {lines[0][:200]}). "
        "Choose another format."
    )
