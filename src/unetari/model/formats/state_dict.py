"""PyTorch's files: state_dicts, bare as the article saves them or within a checkpoint."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unetari.core.spec import ModelSpec
from unetari.errors import ModelFileError
from unetari.model import kinds
from unetari.model.formats.archives import (
    START,
    check_contents,
    inner_names,
    open_archive,
    read_entry,
)
from unetari.model.formats.base import Loaded, load_bare
from unetari.model.formats.entries import SAVE, Found, find_weights
from unetari.model.formats.pickles import (
    Global,
    check_legacy,
    check_storages,
    find_globals,
    runs_code,
)
from unetari.model.formats.pt2 import is_export
from unetari.model.formats.silence import quiet
from unetari.model.formats.torchscript import is_script
from unetari.model.formats.wrappers import Wrapper, plain_module
from unetari.model.weights import LoadOptions, Weights

KIND = kinds.STATE_DICT

_PICKLE = b"\x80"
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_REASON = re.compile(r"WeightsUnpickler error: (.+)")


def sniff(path: Path) -> bool:
    """Whether `path` starts as torch.save writes, with an archive or a pickle, and no program."""
    with path.open("rb") as file:
        start = file.read(len(START))
    names = inner_names(path)
    return start.startswith((START, _PICKLE)) and not is_script(names) and not is_export(names)


def load(path: Path, options: LoadOptions) -> Loaded:
    """Load the state_dict of a network of a known kind, without running code of the file."""
    return load_bare(read_weights(path, options.entry), options)


def read_weights(path: Path, entry: str | None = None) -> Found:
    """Read named tensors, without running code of the file.

    Raises
    ------
    ModelFileError
        If there are none, or they claim more than the file holds.
    """
    _check_file(path)
    found = find_weights(_unpickle(path), entry)
    _check_claimed_size(found.weights, path)
    return found


def _check_file(path: Path) -> None:
    """Refuse what torch should not get to read."""
    with path.open("rb") as file:
        start = file.read(len(START))
        if start != START:
            if not start.startswith(_PICKLE):  # torch would try more readers, such as tarfile
                raise _refused(path, f"WeightsUnpickler error: it starts with {start!r}")
            file.seek(0)
            check_legacy(file)
            return
    with open_archive(path) as archive:
        if any(entry.compress_type for entry in archive.infolist()):
            raise ModelFileError(
                "The archive is compressed, which torch never does to weights. Save the weights "
                f"with {SAVE}."
            )
        check_contents(archive)
        check_storages(archive)


def _unpickle(path: Path) -> Any:
    try:
        # An open file: given a path, torch would choose a reader by the suffix.
        with path.open("rb") as file, quiet():
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except Exception as error:  # damaged bytes make torch's reader fail in any way
        raise _unreadable(str(error) or type(error).__name__) from error


def _refused(path: Path, message: str) -> ModelFileError:
    """Say what a pickle asked for beyond plain weights, if that is why torch refused it."""
    wanted = _GLOBAL.search(message)
    names = [str(name) for name in _asked_names(path)]
    evil = next(filter(runs_code, [wanted[1], *names] if wanted else names), None)
    if evil is not None:
        return ModelFileError(
            f"Opening it would run code: it asks for {evil}, which no weights need. It tries to "
            "run commands of whoever made it on your computer. Ask its author for a safetensors "
            "file, and open this one in no program."
        )
    asked = wanted[1] if wanted else next(iter(names), None)
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


def _asked_names(path: Path) -> list[Global]:
    """Return what the pickles of a file import."""
    with path.open("rb") as file:
        if file.read(len(START)) != START:
            file.seek(0)
            return list(find_globals(file))
    with open_archive(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        contents = [io.BytesIO(read_entry(archive, name)) for name in pickles]
    return [name for content in contents for name in find_globals(content)]


def _unreadable(detail: str) -> ModelFileError:
    lines = detail.strip().splitlines() or ["no detail"]
    return ModelFileError(
        "PyTorch cannot read it; it is truncated, damaged or another kind of file "
        f"({lines[0][:300]}). Copy or download it again, or save it again with {SAVE}."
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
    module = plain_module(network)
    if isinstance(module, Wrapper):
        raise ModelFileError(
            "There are steps before or after the network in its package, which weights alone do "
            "not hold. Choose onnx, torchscript or bioimageio."
        )
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, Tensor)
    }
    if not weights:
        raise ModelFileError("The network holds no weights that torch knows. Keep its own file.")
    with path.open("wb") as file:  # given a path, torch writes its name into the file
        torch.save(weights, file)
