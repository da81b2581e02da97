"""What was measured of networks, kept on the disk: the same file is not measured twice.

One small JSON file per network, named by a hash of everything the result depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from pydantic import TypeAdapter

from unetari.core.files import whole_file

FOLDER_VARIABLE = "UNETARI_CACHE"
"""Name of the environment variable with another folder; empty keeps nothing."""
VERSION = 1
"""Of the measurement: raise it with every change of what `probe_network` finds."""

_MOST_BYTES = 2**16
_Value = TypeVar("_Value")


def measure_once(
    kind: type[_Value], depends_on: Mapping[str, Any], measure: Callable[[], _Value]
) -> _Value:
    """Return what was measured before, or measure it.

    A file that is damaged, or cannot be written, costs another measurement and nothing else.

    Parameters
    ----------
    kind : type
        A dataclass of plain values, which is what `measure` returns.
    depends_on : mapping of str to JSON values
        Everything the result depends on. Nothing is kept if a value is the empty text.
    measure : callable
        Measures; its errors are passed on, and not kept.
    """
    folder = cache_folder()
    if folder is None or "" in depends_on.values():
        return measure()
    key = json.dumps({**depends_on, "version": VERSION}, sort_keys=True)
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    adapter = TypeAdapter(kind)
    known = _read(path, key, adapter)
    if known is not None:
        return known
    found = measure()
    _write(path, {"key": key, "value": adapter.dump_python(found, mode="json")})
    return found


def cache_folder() -> Path | None:
    """Return the folder, which may not exist yet; None if nothing is to be kept."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given is not None:
        return Path(given).expanduser() if given else None
    return platformdirs.user_cache_path("unetari", appauthor=False) / "measurements"


def _read(path: Path, key: str, adapter: TypeAdapter[_Value]) -> _Value | None:
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        content = json.loads(path.read_bytes())
        if content["key"] != key:
            return None
        return adapter.validate_python(content["value"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None  # missing or damaged: it is measured again, and written anew


def _write(path: Path, content: Mapping[str, Any]) -> None:
    # It is only a saving: a full disk or a folder that cannot be written must not stop anybody.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(content))
