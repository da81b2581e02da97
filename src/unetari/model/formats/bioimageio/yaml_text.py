"""YAML of unknown origin: bounded before anything is built from it."""

from __future__ import annotations

import re
from typing import Any

from unetari.errors import MissingExtraError, ModelFileError

MAX_BYTES = 2**20
"""Largest description; the longest of the model zoo has some 50,000 bytes."""
MAX_DEPTH = 40
"""Most lists and mappings within each other."""
MAX_NODES = 50_000
"""Most values, with those that aliases repeat."""

_RESOLVED = (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    ("int", r"[-+]?[0-9]+", tuple("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
        r"|\.(nan|NaN|NAN)",
        tuple("-+.0123456789"),
    ),
)
"""What plain text means in YAML 1.2, where PyYAML reads 1.1: 1e-6 is a number, and dates,
"yes" and "12:30" are text."""


def read_yaml(content: bytes) -> dict[str, Any]:
    """Read a mapping.

    Parameters
    ----------
    content : bytes
        The file, UTF-8.

    Returns
    -------
    dict
        Of plain values, of bounded size and depth.

    Raises
    ------
    ModelFileError
        If it is no mapping, damaged, asks for objects, holds itself, or would
        grow large.
    MissingExtraError
        If PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError(
            "pyyaml", "bioimageio", "Reading a BioImage.IO description"
        ) from error
    if len(content) > MAX_BYTES:
        raise _refusal(f"it has {len(content):,} bytes, and at most {MAX_BYTES:,} are read")
    loader_class = _loader_class()
    try:
        _check_depth(yaml.parse(content, Loader=loader_class))
        loader = loader_class(content)
        try:
            node = loader.get_single_node()
            _check_aliases(node)
            data = loader.construct_document(node) if node else None
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise _refusal(f"it is no valid YAML ({reason})") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise _refusal(f"it holds a {type(data).__name__}, and fields by name are expected")
    return data


def _loader_class() -> Any:
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader: Any = type("_Loader", (base,), {"yaml_implicit_resolvers": {}})
    for tag, pattern, first in _RESOLVED:
        loader.add_implicit_resolver(
            f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first
        )
    loader.add_constructor(
        "tag:yaml.org,2002:int", lambda self, node: int(self.construct_scalar(node))
    )
    return loader


def _check_depth(events: Any) -> None:
    """Look at the text without building anything: deep nesting would exhaust the stack."""
    depth = 0
    for count, event in enumerate(events):
        name = type(event).__name__
        depth += name.endswith(("MappingStartEvent", "SequenceStartEvent"))
        depth -= name.endswith(("MappingEndEvent", "SequenceEndEvent"))
        if depth > MAX_DEPTH:
            raise _refusal(f"its values are nested more than {MAX_DEPTH} deep")
        if count > 3 * MAX_NODES:
            raise _refusal(f"it holds more than {MAX_NODES:,} values")


def _check_aliases(root: Any) -> None:
    """Count the values as if every alias were written out; refuse what holds itself."""
    sizes: dict[int, int] = {}
    within: set[int] = set()

    def count(node: Any) -> int:
        if id(node) in within:
            raise _refusal("a value holds itself, through an alias")
        if id(node) not in sizes:
            within.add(id(node))
            sizes[id(node)] = 1 + sum(count(child) for child in _children(node))
            within.remove(id(node))
        if sizes[id(node)] > MAX_NODES:
            raise _refusal(f"its aliases repeat values to more than {MAX_NODES:,}")
        return sizes[id(node)]

    if root is not None:
        count(root)


def _children(node: Any) -> list[Any]:
    if node.id == "mapping":
        return [child for pair in node.value for child in pair]
    return node.value if node.id == "sequence" else []


def _refusal(reason: str) -> ModelFileError:
    return ModelFileError(
        f"The description of the package is refused: {reason}. Download the package again, or "
        "ask its author."
    )
