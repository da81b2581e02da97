"""The benchmarks run, from measuring to the page, in their smallest form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import winograd
from benchmarks.cases import Case, make_image, make_model, pad
from benchmarks.contenders import Contender, list_contenders
from benchmarks.memory import CASES, HEAD, measure, row
from benchmarks.report import check_bars, write

from unetari.core.network import reach_of

ROOT = Path(__file__).resolve().parents[1]


def test_names_can_be_read_again() -> None:
    case = Case("article-3d", (96, 256, 255))
    assert Case.parse(str(case)) == case
    for contender in list_contenders(("MONAI",)):
        assert Contender.parse(str(contender)) == contender


@pytest.mark.parametrize("shape", [(700, 100), (50, 210, 33)])
def test_images_have_any_size(shape: tuple[int, ...]) -> None:
    image = make_image(Case("any", shape))
    assert image.shape == shape
    assert image.dtype == np.uint16
    assert image.std() > 0


def test_what_is_mirrored_fits_the_network() -> None:
    model = make_model(Case("nuclei-2d", (50, 50)))
    image = np.random.default_rng(0).random((1, 50, 61), np.float32)
    padded = pad(model, image)
    np.testing.assert_array_equal(padded[:, :50, :61], image)
    sizes = zip(reach_of(model.spec.config), padded.shape[1:], strict=True)
    assert all(reach.rule.allows(size) for reach, size in sizes)


def test_a_row_of_memory_says_where_a_prediction_misses() -> None:
    run = {"tiles": 1, "tile": [64, 64], "strip": 32, "predicted": 2**30, "measured": 2**31}
    arrays = {**run, "predicted": 2**29, "measured": 2**29}
    text = row(CASES[0], run, arrays)
    assert text.endswith("| 1 of 64 x 64 | 32 | 512 | 512 | 1.00 | 1024 | 2048 | **0.50** |")
    assert text.count("|") == HEAD.splitlines()[0].count("|")


def test_layers_are_compared() -> None:
    cells = winograd.measure((8, 8), (10, 12, 12), rounds=2).split(" | ")
    assert cells[1] == "10 x 12 x 12"
    assert len(cells) == 5


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_measured() -> None:
    case = next(case for case in CASES if case.options == {"n_blocks": 1})
    found = measure(case)
    assert found["strip"] < found["tile"][0]
    assert found["measured"] > 2**20 < found["predicted"]


@pytest.mark.slow
def test_smallest_configuration(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.inference", "--quick", "--peers", "MONAI"]
    done = subprocess.run(
        [*command, "--threads", "1", "--out", str(target)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(target.read_text())
    (case,) = report["cases"]
    found = {entry["contender"]: entry for entry in case["found"]}
    assert not [entry["failure"] for entry in found.values() if entry["failure"]]
    assert found["unetari/ours/own/float32"]["error"] < 1e-5
    assert found["unetari/ours/own/float32"]["flips"] == 0
    assert "nuclei-2d" in "\n".join(write(report))
    assert not list(check_bars(report))  # bars are for the article's networks
