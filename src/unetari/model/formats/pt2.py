"""Programs of torch.export: a network as a graph of torch's operators."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unetari.core.spec import ModelSpec
from unetari.errors import ModelFileError
from unetari.model import kinds
from unetari.model.formats.archives import check_contents, inner_names, open_archive
from unetari.model.formats.base import Loaded
from unetari.model.formats.foreign import ForeignNetwork, Told, describe
from unetari.model.formats.metadata import ENTRY, from_text, to_text
from unetari.model.formats.silence import quiet
from unetari.model.formats.tracing import cannot_write, export_program
from unetari.model.trust import read_trusted
from unetari.model.weights import LoadOptions

KIND = kinds.PT2
REASON = (
    "torch.export.load reads pickles without limits and evaluates formulas of the file as Python: "
    "a file made for it can do all that you can."
)
_COMPILED = "data/aotinductor/"


class _Graph(ForeignNetwork):
    """A program of torch.export."""

    def forward(self, x: Tensor) -> Tensor:
        # Said at every run of a program; it is torch's own code that has to change.
        with quiet(r".*LeafSpec.* is deprecated", FutureWarning):
            return super().forward(x)


def sniff(path: Path) -> bool:
    """Whether `path` is an archive that torch.export wrote."""
    return is_export(inner_names(path))


def is_export(names: frozenset[str]) -> bool:
    """Whether these are the entries of a program of torch.export."""
    is_current = "archive_format" in names and any(name.startswith("models/") for name in names)
    return is_current or "serialized_exported_program.json" in names  # up to torch 2.7


def load(path: Path, options: LoadOptions) -> Loaded:
    """Open a program that the user trusts."""
    with open_archive(path) as archive:
        check_contents(archive)
    if any(name.startswith(_COMPILED) for name in inner_names(path)):
        raise ModelFileError(
            "It holds machine code that was compiled for one kind of machine. Export the network "
            "again with torch.export.save."
        )
    content = read_trusted(path, REASON, trusted=options.trust)
    program, text = read_program(content)
    network = _Graph(program.module())
    told = replace(_read_told(program), sha256=hashlib.sha256(content).hexdigest())
    return describe(network, from_text(text), told, options)


def read_program(content: bytes) -> tuple[torch.export.ExportedProgram, str]:
    """Return a program and what unetari wrote beside it.

    Raises
    ------
    ModelFileError
        If it is damaged.
    """
    extra: dict[str, Any] = {ENTRY: ""}  # an empty one is not filled
    try:
        with quiet():
            program = torch.export.load(io.BytesIO(content), extra_files=extra)
    except Exception as error:  # damaged bytes make torch's reader fail in any way
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFileError(
            "torch.export cannot read it; it is truncated, damaged or of another version of torch "
            f"({lines[0][:200]}). Copy or download it again, or export it again."
        ) from error
    text = extra[ENTRY]
    return program, text if isinstance(text, str) else text.decode("utf-8", "replace")


def _read_told(program: torch.export.ExportedProgram) -> Told:
    """Read the input's shape off the graph."""
    names = program.graph_signature.user_inputs
    if len(names) != 1 or len(program.graph_signature.user_outputs) != 1:
        raise ModelFileError(
            f"The program has {len(names)} inputs and {len(program.graph_signature.user_outputs)} "
            "outputs, and one image and one tensor of scores are needed. Wrap the network."
        )
    (node,) = (node for node in program.graph.nodes if node.name == names[0])
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim < 2:
        raise ModelFileError("Its input is no batch of images. Wrap the network.")
    batch, channels, *sizes = (size if isinstance(size, int) else None for size in value.shape)
    if batch not in (None, 1):
        raise ModelFileError(
            f"The program takes exactly {batch} images at a time, and one is given. Export it with "
            "a batch of 1, or with batch sizes left open."
        )
    example = tuple(int(size) for size in value.shape[2:]) if None not in sizes else None
    count = sum(parameter.numel() for parameter in program.parameters())
    return Told(KIND.name, len(sizes), channels, example, count)


def save(network: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write a network as a graph, the description beside it."""
    program = export_program(network, spec.config)
    try:
        with quiet(), path.open("wb") as file:
            torch.export.save(program, file, extra_files={ENTRY: to_text(spec)})
    except RuntimeError as error:
        raise cannot_write(error) from error
