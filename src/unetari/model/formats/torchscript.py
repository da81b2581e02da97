"""TorchScript: a network as a program of its own, saved by torch.jit."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unetari.core.spec import ModelSpec
from unetari.errors import ModelFileError
from unetari.model import kinds
from unetari.model.formats.archives import check_contents, inner_names, open_archive, read_entry
from unetari.model.formats.base import Loaded
from unetari.model.formats.foreign import ForeignNetwork, describe, told_by_weights
from unetari.model.formats.metadata import ENTRY, from_text, to_text
from unetari.model.formats.pickles import check_storages
from unetari.model.formats.silence import quiet
from unetari.model.formats.tracing import cannot_write, example_input
from unetari.model.formats.wrappers import plain_module
from unetari.model.trust import read_trusted
from unetari.model.weights import LoadOptions

KIND = kinds.TORCHSCRIPT
REASON = (
    "TorchScript is a program, and starts to run when it is opened: it can read every file that "
    "you can, overwrite files, and run without end."
)

_TOKEN = re.compile(
    r"""(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|[(\[{)\]},]|\n *"""
    r"|[-+*/%@~&|^<>.]|\b(?:not|and|or|if|else|lambda)\b"
)
"""Texts, brackets, the beginnings of lines, and what expressions are joined by."""
_DEEPEST, _LONGEST_ROW, _PER_LEVEL = 100, 500, 5


def sniff(path: Path) -> bool:
    """Whether `path` is an archive that torch.jit wrote."""
    return is_script(inner_names(path))


def is_script(names: frozenset[str]) -> bool:
    """Whether these are the entries of a TorchScript program."""
    return "constants.pkl" in names or any(name.startswith("code/") for name in names)


def load(path: Path, options: LoadOptions) -> Loaded:
    """Open a program that the user trusts."""
    check_archive(path)
    content = read_trusted(path, REASON, trusted=options.trust)
    module, text = read_program(content)
    weights = dict(module.state_dict())
    count = sum(parameter.numel() for parameter in module.parameters())
    told = told_by_weights(KIND.name, weights, count)
    told = replace(told, sha256=hashlib.sha256(content).hexdigest())
    return describe(ForeignNetwork(module), from_text(text), told, options)


def check_archive(path: Path) -> None:
    """Refuse what torch.jit would not survive: it believes what is written.

    Raises
    ------
    ModelFileError
        If the archive is damaged, unsafe, or claims more weights than it holds.
    """
    with open_archive(path) as archive:
        check_contents(archive)
        check_storages(archive)
        for name in archive.namelist():
            if "/code/" in name and name.endswith(".py"):
                check_code(read_entry(archive, name).decode("utf-8", "replace"))


def check_code(code: str) -> None:
    """Refuse code whose expressions lie within each other so deep that reading ends the process.

    Raises
    ------
    ModelFileError
        If they do.
    """
    rows = [0]  # how many operators follow each other, in every bracket that is open
    for token in _TOKEN.findall(code):
        if token in "([{":
            rows.append(0)
        elif token in ")]}":
            rows[-1:] = [] if len(rows) > 1 else [0]
        elif token == "," or (token[0] == "\n" and len(rows) == 1):
            rows[-1] = _PER_LEVEL * (len(token) // 2)  # blocks are indented by two
        elif token[0] not in "\n\"'":
            rows[-1] += 1
        if len(rows) > _DEEPEST or rows[-1] > _LONGEST_ROW:
            raise ModelFileError(
                "Its code holds expressions that are nested too deep to be read. Export the "
                "network again with torch.jit."
            )


def read_program(content: bytes) -> tuple[nn.Module, str]:
    """Return a program, on the CPU and in evaluation mode, and what unetari wrote beside it.

    Raises
    ------
    ModelFileError
        If it is damaged, or does not take exactly one image.
    """
    extra = {ENTRY: ""}
    try:
        with quiet():
            module = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(content), map_location="cpu", _extra_files=extra
            )
            inputs = _inputs(module)
    except Exception as error:  # damaged bytes make torch's reader fail in any way
        raise _unreadable(str(error)) from error
    if len(inputs) != 1:
        raise ModelFileError(
            f"The program takes {len(inputs)} inputs ({', '.join(inputs) or 'none'}), and one "
            "image is given. Wrap it so that it takes one."
        )
    text = extra[ENTRY]
    return module.eval(), text if isinstance(text, str) else text.decode("utf-8", "replace")


def _inputs(module: Any) -> list[str]:
    """Return the names of the inputs that must be given."""
    arguments = module._c._get_method("forward").schema.arguments[1:]
    return [argument.name for argument in arguments if not argument.has_default_value()]


def _unreadable(detail: str) -> ModelFileError:
    lines = detail.strip().splitlines() or ["no detail"]
    return ModelFileError(
        "torch.jit cannot read it; it is truncated, damaged or of a newer torch "
        f"({lines[0][:200]}). Copy or download it again."
    )


def save(network: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write a network as a program, the description beside it."""
    module: Any = plain_module(network)
    try:
        with quiet(), torch.no_grad():
            if not isinstance(module, torch.jit.ScriptModule):
                example = example_input(spec.config)
                module = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
            with path.open("wb") as file:  # given a path, torch writes its name into the file
                torch.jit.save(module, file, _extra_files={ENTRY: to_text(spec)})
    except RuntimeError as error:
        raise cannot_write(error) from error
