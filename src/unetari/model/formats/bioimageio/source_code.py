"""Networks that are Python code of a package: built only once the user trusts it."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from torch import nn

from unetari.errors import ModelFileError
from unetari.model.formats.bioimageio.description import WeightsEntry
from unetari.model.formats.bioimageio.package import temporary_file
from unetari.model.formats.state_dict import read_weights


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
    except (Exception, SystemExit) as error:  # whatever foreign code raises
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
    except (Exception, SystemExit) as error:  # whatever foreign code raises
        raise _failed(entry, error) from error


def _failed(entry: WeightsEntry, error: BaseException) -> ModelFileError:
    return ModelFileError(
        f"Its code for {entry.callable} fails ({type(error).__name__}: {str(error)[:300]}). "
        "Install what the package asks for, or use one with ONNX weights."
    )


def _fill(network: nn.Module, weights: bytes) -> None:
    try:
        with temporary_file(weights, ".pth") as path:
            found = read_weights(path)
        network.load_state_dict(dict(found.weights), strict=True)
    except ModelFileError:
        raise
    except (Exception, SystemExit) as error:  # whatever foreign code raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFileError(
            f"Its weights do not fit the network that its code makes ({lines[0][:300]}). Download "
            "the package again."
        ) from error
