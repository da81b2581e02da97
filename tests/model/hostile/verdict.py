"""What opening a hostile file must end in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tests.model.hostile.cases import Case

MEMORY = 600 * 2**20
"""Most that opening any of the files may add to a process, in bytes."""
_ADVICE = re.compile(
    r"(?:^|[.:,;] |If [^.]* )(?:or |please )?(ask|check|choose|close|convert|copy|correct|download"
    r"|export|give|install|keep|leave|load|make|move|pack|put|remove|rename|save|say|switch|unpack"
    r"|update|use|wait|wrap)\b",
    re.IGNORECASE,
)
_LONGEST = 2500


def complaints(case: Case, result: Mapping[str, Any], likes: Mapping[str, Any] | None) -> list[str]:
    """Everything about a result that must not be; `likes` is the result it must equal."""
    found = []
    if result["outcome"] in ("died", "escaped") or result["status"]:
        return [f"{result['outcome']} ({result['status']}): {result['message']}"]
    if result["events"]:
        found.append(f"it did {result['events']}")
    if result["left"]:
        found.append(f"it left {result['left']}")
    if result["memory"] > MEMORY:
        found.append(f"it took {result['memory']:,} bytes")
    if result["outcome"] == "refused":
        found += _about_message(case, result)
    else:
        found += _about_scores(case, result, likes)
    return found


def _about_message(case: Case, result: Mapping[str, Any]) -> list[str]:
    message, path = result["message"], result["path"]
    found = ["it should load"] if case.loads else []
    if f"{path.rpartition('/')[0]}/" not in message:
        found.append("the message does not name the file")
    if case.says and not re.search(case.says, message):
        found.append(f"the message lacks {case.says!r}")
    if not _ADVICE.search(message):
        found.append("the message does not say what to do")
    if len(message) > _LONGEST + 2 * len(path) or "Traceback (" in message:
        found.append(f"the message has {len(message)} characters")
    if not message.replace(path, "").isprintable():
        found.append("the message holds control characters")
    return [f"{reason}: {message[:3000]}" for reason in found]


def _about_scores(
    case: Case, result: Mapping[str, Any], likes: Mapping[str, Any] | None
) -> list[str]:
    scores = result["scores"]
    found = [] if case.loads or case.may_load else ["it should not load"]
    if case.like and likes is not None and not close(scores, likes["scores"]):
        found.append("it loads, and gives other scores")
    return [f"{reason}: {result['message'][:500]}" for reason in found]


def close(scores: list[float], others: list[float]) -> bool:
    return len(scores) == len(others) and all(
        math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-4) for a, b in zip(scores, others, strict=True)
    )
