"""All hostile files, by name."""

from __future__ import annotations

from functools import cache

from tests.model.hostile import (
    archive_files,
    mutants,
    odd_files,
    onnx_files,
    package_code,
    package_files,
    pickle_files,
    program_files,
    safetensors_files,
    weight_files,
)
from tests.model.hostile.cases import Case

FAMILIES = {
    "safetensors": safetensors_files,
    "pickle": pickle_files,
    "weights": weight_files,
    "archive": archive_files,
    "program": program_files,
    "onnx": onnx_files,
    "package": package_files,
    "package code": package_code,
    "odd": odd_files,
    "mutant": mutants,
}


@cache
def corpus() -> dict[str, Case]:
    """Every case of the families, by its name, which begins with the family's."""
    found: dict[str, Case] = {}
    for family, module in FAMILIES.items():
        for case in module.cases():
            name = f"{family}: {case.name}"
            if name in found:
                raise ValueError(f"two files are called {name!r}")
            found[name] = case
    return found


def find_case(name: str) -> Case:
    """The case of this name; mutants beyond those of the corpus too."""
    return corpus().get(name) or mutants.parse(name.removeprefix("mutant: "))
