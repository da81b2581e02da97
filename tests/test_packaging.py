"""What a built package holds, and that napari finds the plugin however it was installed."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from npe2 import PluginManifest

import unetari

READ_MANIFEST = """
import json, site, sys
from pathlib import Path

target = sys.argv[1]
site.addsitedir(target)
sys.path.insert(0, target)

import unetari_manifest
from npe2 import PluginManifest

manifest = PluginManifest.from_distribution("unetari")
found = Path(list(unetari_manifest.__path__)[0]).is_relative_to(target)
contributions = json.loads(manifest.contributions.model_dump_json())
print(json.dumps({"contributions": contributions, "found": found}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Source archive, the wheel made from it, and the wheel of an editable install."""
    folder = tmp_path_factory.mktemp("built")
    editable = tmp_path_factory.mktemp("editable")
    run("-m", "build", "--no-isolation", "--outdir", folder, repository, cwd=folder)
    code = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    run("-c", code, editable, cwd=repository)
    return {
        "sdist": next(folder.glob("*.tar.gz")),
        "wheel": next(folder.glob("*.whl")),
        "editable": next(editable.glob("*.whl")),
    }


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_every_install_registers_the_plugin(
    kind: str, built: dict[str, Path], repository: Path, tmp_path: Path
) -> None:
    target = tmp_path / "site"
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--target"]
    run("-m", "pip", "install", *options, target, built[kind], cwd=tmp_path)

    result = json.loads(run("-c", READ_MANIFEST, target, cwd=tmp_path).splitlines()[-1])

    source = PluginManifest.from_file(repository / "napari.yaml")
    assert result["found"], "the manifest came from another installation"
    assert result["contributions"] == json.loads(source.contributions.model_dump_json())


def test_the_wheel_holds_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    package = Path(unetari.__file__).parent
    sources = [path for path in package.rglob("*") if path.is_file()]
    expected = {
        path.relative_to(package.parent).as_posix()
        for path in sources
        if path.suffix in (".py", ".typed", ".safetensors", ".md", ".png")
    }
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        infos = [name for name in archive.namelist() if ".dist-info/" in name]
    assert names == expected | {"unetari_manifest/napari.yaml"}
    assert any(name.endswith("licenses/LICENSE") for name in infos)


def test_the_source_archive_can_be_worked_on(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("napari.yaml", "LICENSE", "constraints.txt", "tests/conftest.py", "scripts/test"):
        assert name in names


def imported_names() -> set[str]:
    """Top-level names that the package imports, wherever."""
    names: set[str] = set()
    for path in Path(unetari.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"unetari"}


def test_dependencies_are_what_is_imported(repository: Path) -> None:
    owners = packages_distributions()
    owned = {name: {owner.lower() for owner in owners[name]} for name in imported_names()}
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[^\w.-]", line)[0] for line in project["dependencies"]}
    undeclared = {name for name, by in owned.items() if not by & declared}
    assert undeclared == {"bioimageio", "monai", "yaml"}, "these are in extras"
    assert declared <= set().union(*owned.values())


def test_the_installed_manifest_is_the_one_in_the_tree(repository: Path) -> None:
    installed = PluginManifest.from_distribution("unetari")
    source = PluginManifest.from_file(repository / "napari.yaml")
    reinstall = "napari.yaml changed since the installation; run pip install -e . again"
    assert installed.contributions == source.contributions, reinstall


def test_the_manifest_names_things_that_exist(repository: Path) -> None:
    manifest = PluginManifest.from_file(repository / "napari.yaml")
    manifest.validate_imports()


def test_the_version_is_written_once(repository: Path) -> None:
    assert version("unetari") == unetari.__version__
    assert f"## [{unetari.__version__}]" in (repository / "CHANGELOG.md").read_text()


def test_constraints_pin_what_is_tested_and_name_no_machine(repository: Path) -> None:
    lines = (repository / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    assert "pyside6" not in pins
