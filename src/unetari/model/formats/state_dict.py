"""PyTorch's state_dict files, as the article saves them (.pt, .pth)."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetari.errors import ModelFileError
from unetari.model.formats.base import Loaded, load_bare
from unetari.model.weights import LoadOptions, Weights

NAME = "PyTorch state_dict (.pt, .pth)"

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_WRAPPERS = ("state_dict", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")
_SAVE = "torch.save(model.state_dict(), path)"


def sniff(path: Path) -> bool:
    """Whether `path` starts like a zip archive or a pickle, which torch.save writes."""
    with path.open("rb") as file:
        return file.read(4).startswith((_ZIP, _PICKLE))


def load(path: Path, options: LoadOptions) -> Loaded:
    """Load the state_dict of a unetari or article U-Net, without running code of the file."""
    _check_archive(path)
    content = _unpickle(path)
    weights = _find_weights(content)
    _check_claimed_size(weights, path)
    return load_bare(weights, options)


def _check_archive(path: Path) -> None:
    """Refuse TorchScript and archives that unpack to more than they are, before torch reads."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(Path(entry.filename).name == "constants.pkl" for entry in entries):
        raise ModelFileError(
            "It is a TorchScript program of another architecture, and a unetari state_dict was "
            f"expected: TorchScript holds code beside weights. Save the weights alone with {_SAVE}."
        )
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ModelFileError(
            "The archive is compressed or damaged: it claims to hold more than its size. "
            f"Save the weights with {_SAVE}."
        )


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = _GLOBAL.search(str(error))
        if wanted is None:
            raise _damaged(error) from error
        raise ModelFileError(
            f"Opening it would run code: it asks for {wanted[1]}, and only plain weights are "
            f"loaded. If you trust its author, load it in the program it comes from and save "
            f"the weights alone with {_SAVE}."
        ) from error
    except Exception as error:  # damaged bytes make torch's reader fail in any way
        raise _damaged(error) from error


def _damaged(error: Exception) -> ModelFileError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelFileError(
        f"The PyTorch file is truncated or damaged ({lines[0]}). Copy or download it again, "
        f"or save it again with {_SAVE}."
    )


def _find_weights(content: Any) -> Weights:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ModelFileError(
            f"It holds a {type(content).__name__}, and a state_dict was expected. "
            f"Save the weights with {_SAVE}."
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelFileError(
                f"Its entry {name!r} is a {type(value).__name__}, and a state_dict holds only "
                f"named tensors. Save the weights alone with {_SAVE}."
            )
    for prefix in _PREFIXES:
        if content and all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content


def _check_claimed_size(weights: Weights, path: Path) -> None:
    """Refuse tensors that repeat few stored values to look like terabytes."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if claimed > path.stat().st_size:
        raise ModelFileError(
            f"Its tensors claim {claimed:,} bytes, more than the file's "
            f"{path.stat().st_size:,}. Save contiguous weights with {_SAVE}."
        )
