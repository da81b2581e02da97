"""Small valid files with random damage: bits, pieces, and pieces of other files."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.model.hostile import material
from tests.model.hostile.cases import Case, with_trust

KINDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "safetensors": ("m.safetensors", material.native),
    "state_dict": ("m.pt", material.state_dict),
    "legacy": ("m.pth", material.legacy),
    "TorchScript": ("m.ts", material.script),
    "export": ("m.pt2", material.export),
    "onnx": ("m.onnx", material.onnx),
    "package": ("m.zip", material.package),
    "description": ("rdf.yaml", lambda: material.package_files()["rdf.yaml"]),
}
CHECKED = ("state_dict", "TorchScript", "export", "package")
"""Kinds with checksums: what loads must give what the undamaged file gives."""
PER_KIND = 10
"""Mutants of each kind in the corpus; the slow test and campaigns make more."""


def cases() -> Iterator[Case]:
    for kind in KINDS:
        yield _intact(kind)
        for seed in range(PER_KIND if kind != "export" else PER_KIND // 2):
            yield mutant(kind, seed)


def parse(name: str) -> Case:
    """The mutant of this name, such as "onnx 1234"."""
    found = re.fullmatch(r"(\w+) (\d+)( \(trusted\))?", name)
    if found is None:
        raise KeyError(name)
    return mutant(found[1], int(found[2]))


def mutant(kind: str, seed: int) -> Case:
    case = Case(
        f"{kind} {seed}",
        functools.partial(_build, kind, seed),
        may_load=True,
        like=f"mutant: {_intact(kind).name}" if kind in CHECKED else "",
    )
    return next(iter(with_trust([case]))) if kind in ("TorchScript", "export") else case


def _intact(kind: str) -> Case:
    case = Case(f"{kind} intact", functools.partial(_build, kind, None), loads=True)
    return next(iter(with_trust([case]))) if kind in ("TorchScript", "export") else case


def _build(kind: str, seed: int | None, folder: Path) -> Path:
    filename, make = KINDS[kind]
    if kind == "description":
        for name, content in material.package_files().items():
            (folder / name).write_bytes(content)
    content = make() if seed is None else damaged(make(), random.Random(f"{kind} {seed}"))
    (folder / filename).write_bytes(content)
    return folder / filename


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with one kind of damage, once or a few times."""
    damage = chance.choice(DAMAGES)
    for _ in range(chance.choice((1, 1, 1, 2, 5, 20))):
        content = damage(content, chance)
    return content


def _bit(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _early_bit(content: bytes, chance: random.Random) -> bytes:
    """In the part of a file that says what it is."""
    changed = bytearray(content)
    changed[chance.randrange(min(len(content), 600))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _late_bit(content: bytes, chance: random.Random) -> bytes:
    """In the part of an archive that says what is in it."""
    changed = bytearray(content)
    changed[-1 - chance.randrange(min(len(content), 600))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _number(content: bytes, chance: random.Random) -> bytes:
    """A number that programs stumble over."""
    at = chance.randrange(max(1, len(content) - 8))
    width = chance.choice((1, 2, 4, 8))
    value = chance.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1)))
    return content[:at] + value.to_bytes(width, "little") + content[at + width :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content)) + 1]


def _removed(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + content[at + chance.randrange(1, 65) :] or b"x"


def _repeated(content: bytes, chance: random.Random) -> bytes:
    at, size = chance.randrange(len(content)), chance.randrange(1, 200)
    return content[:at] + content[at : at + size] + content[at:]


def _inserted(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + chance.randbytes(chance.randrange(1, 33)) + content[at:]


def _spliced(content: bytes, chance: random.Random) -> bytes:
    """A piece of another kind of file."""
    _, make = KINDS[chance.choice([kind for kind in KINDS if kind != "export"])]
    other = make()
    at, start = chance.randrange(len(content)), chance.randrange(len(other))
    size = chance.randrange(1, 400)
    return content[:at] + other[start : start + size] + content[at + size :] or b"x"


DAMAGES = (_bit, _early_bit, _late_bit, _number, _cut, _removed, _repeated, _inserted, _spliced)
