"""Who may import what: promises of docs/architecture.md, kept for every module there is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import unetari

PACKAGE = Path(unetari.__file__).parent
QT = frozenset({"qtpy", "superqt", "PyQt5", "PyQt6", "PySide2", "PySide6"})
TORCH = frozenset({"torch", "torchinfo", "monai"})
VIEWER = frozenset({"napari", "magicgui"}) | QT


class Rule(NamedTuple):
    """What the modules of one part may import of unetari, and what never gets loaded."""

    parts: frozenset[str]
    never: frozenset[str]


def rule(parts: str, *never: frozenset[str]) -> Rule:
    return Rule(frozenset(parts.split()), frozenset().union(*never))


RULES = {
    "": rule("", TORCH, VIEWER),
    "errors": rule("", TORCH, VIEWER),
    "core": rule("errors", TORCH, VIEWER),
    "samples": rule("errors core", TORCH, VIEWER),
    "storage": rule("errors core", TORCH, VIEWER),
    "model": rule("errors core", VIEWER),
    "inference": rule("errors core model", VIEWER),
    "training": rule("errors core model storage inference", VIEWER),
    "cli": rule("errors core model storage samples inference training", VIEWER),
    # napari's layers load magicgui themselves; that unetari does not, is a test of its own.
    "viewer": rule("errors core model storage samples inference", QT),
    "widgets": rule(
        "errors core model storage samples inference training viewer", frozenset({"PyQt5"})
    ),
}
"""By part of the package; "" is the package itself, which loads its names when they are used."""

LOADED_LATE = {("cli", "napari"), ("cli", "viewer"), ("cli", "widgets")}
"""Imports that a function may do although its module may not: `unetari demo` opens napari."""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(modules: list[str]) -> set[str]:
    """Top-level names in `sys.modules` once a fresh process has imported the modules."""
    code = f"""
import importlib, json, sys
for name in {modules!r}:
    importlib.import_module(name)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    return set(json.loads(run_python(code).splitlines()[-1]))


class Import(NamedTuple):
    """One import statement: the name, and whether it runs only when a function does."""

    name: str
    late: bool


def imports_of(path: Path) -> set[Import]:
    """All imports of a file that happen at run time."""
    found: set[Import] = set()

    def visit(node: ast.AST, late: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                visit(other, late)
            return
        if isinstance(node, ast.Import):
            found.update(Import(alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(
                Import(f"{'.' * node.level}{node.module or ''}.{alias.name}", late)
                for alias in node.names
            )
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, late)

    visit(ast.parse(path.read_text(encoding="utf-8")), late=False)
    return found


def test_every_part_has_a_rule() -> None:
    assert {part_of(name) for name in FILES} == set(RULES)


@pytest.mark.parametrize("part", sorted(RULES))
def test_a_fresh_process_loads_nothing_forbidden(part: str) -> None:
    modules = [name for name in FILES if part_of(name) == part and not name.endswith("__main__")]
    assert not loaded_by(modules) & RULES[part].never


@pytest.mark.parametrize("module", FILES)
def test_imports_go_one_way(module: str) -> None:
    part = part_of(module)
    for name, late in imports_of(FILES[module]):
        assert not name.startswith("."), f"{module} imports {name}: use the full name"
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0] if top == "unetari" else top
        if late and (part, target) in LOADED_LATE:
            continue
        if top == "unetari" and target in RULES:
            allowed = target == part or target in RULES[part].parts
            assert allowed, f"{module} imports {name}, against docs/architecture.md"
        else:
            assert target not in RULES[part].never, f"{module} imports {name}"


def test_only_widgets_name_qt_or_magicgui() -> None:
    users = {
        part_of(module)
        for module, path in FILES.items()
        for name, _ in imports_of(path)
        if name.partition(".")[0] in QT | {"magicgui"}
    }
    assert users <= {"widgets"}


def test_public_names_load_and_are_listed() -> None:
    for name in unetari.__all__:
        assert getattr(unetari, name) is not None
    assert set(unetari.__all__) <= set(dir(unetari))


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Unet'"):
        _ = unetari.Unet


def test_import_is_quick() -> None:
    code = """
import time
start = time.perf_counter()
import unetari
print(time.perf_counter() - start)
"""
    # The best of several: other work on the machine slows single starts down.
    assert min(float(run_python(code)) for _ in range(5)) < 0.3
