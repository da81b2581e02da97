"""Networks that are Python code of a package: built only once the user trusts it."""

from __future__ import annotations

import importlib
import io
from types import ModuleType
from typing import Any

import torch
from torch import nn

from unetari.errors import ModelFileError
from unetari.model.formats.bioimageio.description import WeightsEntry
from unetari.model.formats.entries import find_weights


def reason(entry: WeightsEntry) -> str:
    """Say what opening the weights of a network means that is code."""
    where = f"the file {entry.source.name!r}" if entry.source else f"the library {entry.module!r}"
    return (
        f"The network is Python code ({entry.callable} of {where}), which can do all that you can. "
        "There are no weights that could be used without it."
    )


def build(entry: WeightsEntry, code: bytes, weights: bytes) -> nn.Module:
    """Run the code, and give the network its weights, which are read without running code.

    Raises
    ------
    ModelFileError
        If the code fails, makes no network, or another one than the weights are of.
    """
    make = _find(entry, code)
    try:
        network = make(**dict(entry.options))
    except Exception as error:  # whatever foreign code raises
        raise _failed(entry, error) from error
    if not isinstance(network, nn.Module):
        raise ModelFileError(
            f"{entry.callable} makes a {type(network).__name__}, and a network of torch is needed. "
            "Use a package with ONNX weights."
        )
    _fill(network, weights)
    return network.eval()


def _find(entry: WeightsEntry, code: bytes) -> Any:
    try:
        if entry.source is None:
            module = importlib.import_module(entry.module)
        else:
            module = ModuleType("unetari_package")
            exec(compile(code, entry.source.name, "exec"), module.__dict__)
        return getattr(module, entry.callable)
    except Exception as error:  # whatever foreign code raises
        raise _failed(entry, error) from error


def _failed(entry: WeightsEntry, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"Its code for {entry.callable} fails ({type(error).__name__}: {str(error)[:300]}). "
        "Install what the package asks for, or use one with ONNX weights."
    )


def _fill(network: nn.Module, weights: bytes) -> None:
    try:
        content = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
        network.load_state_dict(dict(find_weights(content).weights), strict=True)
    except ModelFileError:
        raise
    except Exception as error:  # damaged bytes make torch's reader fail in any way
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFileError(
            f"Its weights do not fit the network that its code makes ({lines[0][:300]}). Download "
            "the package again."
        ) from error
