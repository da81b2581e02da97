"""What a hostile file is to the tests: how it is made, and what opening it may end in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Content = bytes | Callable[..., bytes]


@dataclass(frozen=True)
class Case:
    """One file that is broken, or made to do harm."""

    name: str
    build: Callable[[Path], Path]
    """Makes it in an empty folder, and returns what is to be opened."""
    says: str = ""
    """What the message must hold, a regular expression."""
    loads: bool = False
    """Whether it does no harm: it must load, and give what the undamaged file gives."""
    may_load: bool = False
    """Whether it may load: where a format has no checksum, nobody can tell other weights."""
    trust: bool = False
    """Whether the user trusts it."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of `load_model`."""
    like: str = ""
    """Case whose scores it must give, if it loads."""


def file(name: str, filename: str, content: Content, *arguments: Any, **expected: Any) -> Case:
    """A case of one file: its content, or what makes it of the arguments."""

    def build(folder: Path) -> Path:
        path = folder / filename
        path.write_bytes(content if isinstance(content, bytes) else content(*arguments))
        return path

    return Case(name, build, **expected)


def with_trust(cases: Iterable[Case]) -> Iterable[Case]:
    """The same files once more, opened by somebody who trusts them."""
    for case in cases:
        yield Case(
            f"{case.name} (trusted)",
            case.build,
            loads=case.loads,
            may_load=case.may_load,
            trust=True,
            options=case.options,
            like=case.like,
        )
