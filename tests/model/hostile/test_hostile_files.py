"""Broken and hostile files of every kind: they end in errors of our own, or do no harm.

The files are built by the modules beside this one, and opened in another process (worker.py),
under a guard: no code of theirs is run, nothing is written, no address is looked up, nothing is
left, and time and memory are bounded. What ends that process is a failure that names the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.model.hostile.corpus import FAMILIES, corpus, find_case
from tests.model.hostile.mutants import KINDS, PER_KIND
from tests.model.hostile.verdict import complaints

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches a process as Linux can")

MANY = 150
"""Mutants of each kind in the slow test."""
Results = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def needs_the_extras() -> None:
    """Skip where there are no formats to be attacked."""
    for package in ("onnx", "onnxruntime", "yaml", "bioimageio.spec"):
        pytest.importorskip(package)


def open_files(names: Iterable[str], folder: Path, *options: str) -> Results:
    """Open files in another process, and return what came of each."""
    repository = Path(__file__).parents[3]
    paths = [str(repository), *filter(None, [os.environ.get("PYTHONPATH")])]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.model.hostile.worker", str(folder), *options],
        input="\n".join(names),
        capture_output=True,
        text=True,
        check=False,
        cwd=repository,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    results = [json.loads(line) for line in finished.stdout.splitlines()]
    return {result["name"]: result for result in results}


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What came of the files that are asked for, and of those they are compared with."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    chosen = [call.params["name"] for call in calls if call and "name" in call.params]
    names = [name for name in dict.fromkeys(chosen) if name in corpus()]
    wanted = dict.fromkeys([*filter(None, (find_case(n).like for n in names)), *names])
    return open_files(wanted, tmp_path_factory.mktemp("hostile"))


def complaints_about(results: Results, name: str) -> list[str]:
    case = find_case(name)
    return complaints(case, results[name], results.get(case.like))


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in corpus()])
def test_file(results: Results, name: str) -> None:
    assert not complaints_about(results, name)


def test_there_are_many_files_of_every_kind() -> None:
    broken = [name for name, case in corpus().items() if not case.loads]
    assert len(broken) >= 200
    kinds = Counter(name.partition(":")[0] for name in broken)
    assert set(kinds) == set(FAMILIES)
    assert min(kinds.values()) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutants(tmp_path: Path, kind: str) -> None:
    trusted = " (trusted)" * (kind in ("TorchScript", "export"))
    names = [f"mutant: {kind} {seed}{trusted}" for seed in range(PER_KIND, PER_KIND + MANY)]
    like = find_case(names[0]).like
    results = open_files([*filter(None, [like]), *names], tmp_path)
    failed = {name: found for name in names if (found := complaints_about(results, name))}
    assert not failed


# --- the command line ---------------------------------------------------------------------------

SHOWN = (
    "odd: text",
    "odd: nothing, .pt",
    "odd: folder, .pt",
    "odd: pipe",
    "odd: name with control characters",
    "odd: name that is no UTF-8",
    "odd: name with line breaks",
    "safetensors: header of a terabyte",
    "safetensors: description with a billion blocks",
    "pickle: os.system alone",
    "pickle: os.system in an archive",
    "weights: names of control characters",
    "archive: package, a file that climbs",
    "archive: state_dict, half of it",
    "program: TorchScript, code that is cut (trusted)",
    "onnx: a circle",
    "onnx: a tensor of terabytes",
    "package: YAML: laughs",
    "package: description: weights from a server",
    "package code: that fails (trusted)",
)
UNTRUSTED = (
    "program: TorchScript, not trusted",
    "program: export, not trusted",
    "program: TorchScript that writes, not trusted",
    "package code: that is not trusted",
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What `unetari info` says of some files."""
    names = [*SHOWN, *UNTRUSTED, "program: TorchScript, untouched (trusted)"]
    return open_files(names, tmp_path_factory.mktemp("shown"), "cli")


@pytest.mark.parametrize("name", SHOWN)
def test_the_command_line_says_what_is_wrong(shown: Results, name: str) -> None:
    result = shown[name]
    assert (result["outcome"], result["code"], result["status"]) == ("exited", 1, 0)
    assert not result["events"]
    assert not result["left"]
    message = result["message"]
    assert "Traceback" not in message.replace(result["path"], "")
    assert message.startswith("Error: ")
    assert "\nError" not in message
    assert "/files/" in "".join(message.split())
    assert "\x1b" not in message


@pytest.mark.parametrize("name", UNTRUSTED)
def test_the_command_line_asks_for_trust(shown: Results, name: str) -> None:
    result = shown[name]
    assert result["code"] == 1
    assert not result["events"]
    assert not result["left"]
    words = " ".join(result["message"].split())
    assert "SHA-256" in words
    assert "bytes" in words
    assert "--trust" in words
    assert "code" in words or "can do" in words or "program" in words


def test_the_command_line_opens_what_is_trusted(shown: Results) -> None:
    result = shown["program: TorchScript, untouched (trusted)"]
    assert result["code"] == 0
    assert "TorchScript" in result["message"]
