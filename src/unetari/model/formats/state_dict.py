"""PyTorch's files: state_dicts, bare as the article saves them or within a checkpoint."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unetari.core.spec import ModelSpec
from unetari.errors import ModelFileError
from unetari.model import kinds
from unetari.model.formats.archives import inner_names, is_export, is_script
from unetari.model.formats.base import Loaded, load_bare
from unetari.model.formats.entries import SAVE, find_weights
from unetari.model.formats.tracing import plain_module
from unetari.model.weights import LoadOptions, Weights

KIND = kinds.STATE_DICT

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_REASON = re.compile(r"WeightsUnpickler error: (.+)")


def sniff(path: Path) -> bool:
    """Whether `path` starts as torch.save writes, with an archive or a pickle, and no program."""
    with path.open("rb") as file:
        start = file.read(len(_ZIP))
    names = inner_names(path)
    return start.startswith((_ZIP, _PICKLE)) and not is_script(names) and not is_export(names)


def load(path: Path, options: LoadOptions) -> Loaded:
    """Load the state_dict of a network of a known kind, without running code of the file."""
    _check_archive(path)
    found = find_weights(_unpickle(path), options.entry)
    _check_claimed_size(found.weights, path)
    return load_bare(found, options)


def _check_archive(path: Path) -> None:
    """Refuse archives that unpack to more than they are, before torch reads."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(len(_ZIP)) == _ZIP:
                raise _unreadable("the archive has no end")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _unreadable(str(error)) from error
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ModelFileError(
            "The archive is compressed or damaged: it claims to hold more than its size. "
            f"Save the weights with {SAVE}."
        )


def _unpickle(path: Path) -> Any:
    try:
        # An open file: given a path, torch would choose a reader by the suffix.
        with path.open("rb") as file, warnings.catch_warnings():
            # Torch's advice on pickle protocols is not for the user; refusals are raised below.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except Exception as error:  # damaged bytes make torch's reader fail in any way
        raise _unreadable(str(error) or type(error).__name__) from error


def _refused(path: Path, message: str) -> ModelFileError:
    """Say what a pickle asked for beyond plain weights, if that is why torch refused it."""
    wanted = _GLOBAL.search(message)
    asked = wanted[1] if wanted else next(_foreign_globals(path), None)
    if asked is None:
        # The rest of torch's message advises to switch its protection off.
        reason = _REASON.search(message)
        return _unreadable(reason[1] if reason else "broken pickle")
    return ModelFileError(
        f"Opening it would run code: it asks for {asked}, and only plain weights are "
        f"loaded. If you trust its author, load it in the program it comes from and save "
        f"the weights alone with {SAVE}; of a checkpoint, with torch.save(torch.load(path, "
        "weights_only=False)['state_dict'], new_path)."
    )


def _foreign_globals(path: Path) -> Iterator[str]:
    """Yield the names that a plain pickle of any protocol imports, without running it."""
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            if opcode.name == "GLOBAL":
                yield str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)
    except ValueError:
        return  # not a pickle to its end: the caller reports a damaged file


def _unreadable(detail: str) -> ModelFileError:
    lines = detail.strip().splitlines() or ["no detail"]
    return ModelFileError(
        "PyTorch cannot read it; it is truncated, damaged or another kind of file "
        f"({lines[0]}). Copy or download it again, or save it again with {SAVE}."
    )


def _check_claimed_size(weights: Weights, path: Path) -> None:
    """Refuse tensors that repeat few stored values to look like terabytes."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if claimed > path.stat().st_size:
        raise ModelFileError(
            f"Its tensors claim {claimed:,} bytes, more than the file's "
            f"{path.stat().st_size:,}. Save contiguous weights with {SAVE}."
        )


def save(network: nn.Module, _: ModelSpec, path: Path) -> None:
    """Write the weights alone."""
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in plain_module(network).state_dict().items()
        if isinstance(tensor, Tensor)
    }
    if not weights:
        raise ModelFileError("The network holds no weights that torch knows. Keep its own file.")
    torch.save(weights, path)
