"""Find the weights of a network in what training programs save around them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unetari.errors import ConfigError, ModelFileError
from unetari.model.architectures import ARCHITECTURES
from unetari.model.weights import MARKER, Weights, list_names

SAVE = "torch.save(model.state_dict(), path)"

_ENTRIES = (
    "model_state_dict",
    "state_dict",
    "model_state",
    "model",
    "network",
    "net",
    "module",
    "weights",
    "ema_state_dict",
    "model_ema",
    "ema",
)
"""Where weights are looked for, the first of these before the next: averages come last."""
_MAX_DEPTH = 4
_MARKERS = (MARKER, *(known.MARKER for known in ARCHITECTURES))
_BESIDE = re.compile(r"\w*(loss|criterion|metric)\w*\.", re.IGNORECASE)
"""Begins the names of tensors that a training module holds beside its network."""


@dataclass(frozen=True)
class Found:
    """The weights of a network, by the names it has for them, and what was left out."""

    weights: Weights
    notes: tuple[str, ...] = ()


def find_weights(content: Any, entry: str | None = None) -> Found:
    """Take the weights out of a checkpoint.

    Parameters
    ----------
    content : Any
        What the file holds: named tensors, or these among other entries.
    entry : str, optional
        Where the weights are, if there are several: the key of an entry, or
        what the names of the weights begin with.

    Returns
    -------
    Found
        Without what wrappers of the network put before the names.

    Raises
    ------
    ModelFileError
        If there are no weights, or it is not clear which they are.
    ConfigError
        If there is no such entry.
    """
    notes: list[str] = []
    used = False
    for _ in range(_MAX_DEPTH):
        candidates = _candidates(content)
        if not candidates:
            break
        key = entry if entry in candidates else _choose(candidates)
        used = used or key == entry
        notes += _left_out([c for c in candidates if c != key], key)
        content = content[key]
    found = _without_prefix(_check_tensors(content), entry)
    if entry and not used and not found.is_entry:
        raise ConfigError(f"entry={entry!r} is not in the file, or holds no weights. Leave it out.")
    return Found(found.weights, (*notes, *found.notes))


def _candidates(content: Any, *, look_ahead: bool = True) -> list[str]:
    """Return the keys of entries that hold weights: of known networks, or else any."""
    if not isinstance(content, Mapping):
        return []
    keys = [key for key in content if isinstance(key, str)]
    direct = [key for key in keys if _is_state_dict(content[key])]
    networks = [key for key in direct if _prefixes(content[key])]
    if look_ahead:  # one level only: a hostile file may hold a dict that holds itself
        named = (key for key in keys if key in _ENTRIES and key not in direct)
        networks += [key for key in named if _candidates(content[key], look_ahead=False)]
    return networks or direct


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _choose(candidates: list[str]) -> str:
    known = next((name for name in _ENTRIES if name in candidates), None)
    if known is None and len(candidates) > 1:
        raise ModelFileError(
            f"It holds weights in several entries: {list_names(candidates, 8)}. "
            f"Say which to take, such as entry={candidates[0]!r}."
        )
    return known or candidates[0]


def _left_out(others: list[str], taken: str) -> Iterator[str]:
    if others:
        yield (
            f"The weights in {taken!r} are taken. Those in {list_names(map(repr, others))} are "
            f"not; entry={others[0]!r} takes them."
        )


def _check_tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise ModelFileError(
            f"It holds a {type(content).__name__}, and a state_dict was expected. "
            f"Save the weights with {SAVE}."
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelFileError(
                f"Its entry {str(name)[:80]!r} is a {type(value).__name__}, and a state_dict holds "
                f"only named tensors. Save the weights alone with {SAVE}."
            )
    return dict(content)


@dataclass(frozen=True)
class _Stripped(Found):
    is_entry: bool = False
    """Whether the prefix was the entry asked for."""


def _without_prefix(weights: dict[str, Tensor], entry: str | None) -> _Stripped:
    """Remove what wrappers such as DataParallel and Lightning put before all names.

    The prefix is what stands before the name of a weight that every network
    of a known program has.
    """
    prefixes = _prefixes(weights)
    if not prefixes or "" in prefixes:
        return _Stripped(weights)
    wanted = f"{entry}."
    prefix = next((p for p in prefixes if entry and p.startswith(wanted)), prefixes[0])
    others = [other for other in prefixes if other != prefix]
    inner, foreign = {}, []
    for name, tensor in weights.items():
        if name.startswith(prefix):
            inner[name.removeprefix(prefix)] = tensor
        elif not name.startswith(tuple(others)) and not _BESIDE.match(name):
            foreign.append(name)
    if foreign:
        raise ModelFileError(
            f"Beside the network {prefix[:-1][:80]!r} it holds other weights: "
            f"{list_names(foreign)}. Save the state_dict of the network alone."
        )
    left_out = _left_out([other[:-1] for other in others], prefix[:-1])
    return _Stripped(inner, tuple(left_out), is_entry=bool(entry) and prefix.startswith(wanted))


def _prefixes(weights: Weights) -> list[str]:
    """Return what stands before the names that a known network begins with, in file order."""
    found: dict[str, None] = {}
    for name in weights:
        for marker in _MARKERS:
            before, here, _ = f".{name}".partition(f".{marker}")
            if here:
                found.setdefault(f"{before[1:]}." if before else "")
    return list(found)
