"""Compare predicted with measured memory: `python -m benchmarks.memory`.

Every network has two processes of its own, which first predict a small image, so that what
libraries load once is there before. What a run takes at most beyond that is held against
`Job.peak_bytes` and the run's own copies of the weights: with the memory settings of the engine,
and with ones that show the arrays alone. Linux only: other systems do not forget the most
memory that a process ever had.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.worker import read_status, reset_peak

TOLERANCE = 0.2
"""Part of the measured peak that the predicted one may differ by."""
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Has glibc give back what is freed at once, and unetari leave it alone: what is then measured
are the arrays that are in use, without the gaps between them."""
HEAD = """\
| network | image | tiles | strip | arrays: predicted, MiB | measured | ratio | \
run: predicted, MiB | measured | ratio |
|---|---|---|---|---|---|---|---|---|---|"""
_MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A network that differs from the article's in some options, and what it predicts."""

    options: dict[str, Any]
    shape: tuple[int, ...]
    tile: tuple[int, ...] | None = None
    """Largest outer size of a tile; None: what the engine chooses."""
    is_whole: bool = False
    """Whether the network gets a tile at once, not in strips."""

    @property
    def name(self) -> str:
        """What is not as in the article."""
        words = []
        for option, value in self.options.items():
            text = value if isinstance(value, str) else f"{option} {value}"
            words.append(text.replace("_", " "))
        return ", ".join(words).replace("dim 3", "3D") or "as in the article"


_SMALL_3D: dict[str, Any] = {"dim": 3, "n_blocks": 3, "start_filters": 16}
_PLANE, _VOLUME = (1024, 1024), (64, 192, 192)
CASES = (
    Case({}, _PLANE),
    Case({}, (1024, 4096)),
    Case({}, _PLANE, (600, 600)),
    Case({}, _PLANE, is_whole=True),
    Case({}, (2048, 1536), is_whole=True),
    Case({"up_mode": "nearest"}, _PLANE),
    Case({"up_mode": "bilinear"}, _PLANE),
    Case({"up_mode": "bicubic"}, _PLANE),
    Case({"conv_mode": "valid"}, _PLANE),
    Case({"conv_mode": "valid", "up_mode": "bilinear"}, (700, 700), is_whole=True),
    Case({"normalization": "none"}, _PLANE),
    Case({"normalization": "instance"}, _PLANE, _PLANE),
    Case({"normalization": "group8"}, _PLANE),
    Case({"block_order": "conv-norm-act"}, _PLANE),
    Case({"activation": "elu"}, _PLANE),
    Case({"n_blocks": 6}, _PLANE),
    Case({"n_blocks": 2, "start_filters": 16}, (2048, 2048), is_whole=True),
    Case({"n_blocks": 1}, (2048, 2048)),
    Case({"start_filters": 8, "out_channels": 40}, _PLANE),
    Case({"start_filters": 4}, (4096, 4096), is_whole=True),
    Case(_SMALL_3D, _VOLUME),
    Case(_SMALL_3D, _VOLUME, (64, 128, 128)),
    Case(_SMALL_3D, _VOLUME, is_whole=True),
    Case({**_SMALL_3D, "up_mode": "nearest"}, _VOLUME),
    Case({**_SMALL_3D, "up_mode": "trilinear"}, _VOLUME),
    Case({**_SMALL_3D, "conv_mode": "valid"}, _VOLUME),
    Case({**_SMALL_3D, "normalization": "none"}, _VOLUME),
    Case({**_SMALL_3D, "normalization": "instance"}, _VOLUME, _VOLUME),
    Case({**_SMALL_3D, "block_order": "conv-norm-act"}, _VOLUME),
    Case({**_SMALL_3D, "planar_blocks": (0, 1)}, _VOLUME),
    Case({**_SMALL_3D, "n_blocks": 4, "start_filters": 32}, _VOLUME),
)


def measure(case: Case) -> dict[str, Any]:
    """Run a case in this process; return bytes."""
    import numpy as np

    from unetari import Model, UNetConfig
    from unetari.core.network import reach_of
    from unetari.inference.job import Job, prepare
    from unetari.inference.memory import takes_strips
    from unetari.inference.predict import run

    def work(job: Job) -> None:
        for _ in run(job):  # what becomes of the labels is the caller's business
            pass

    model = Model.build(UNetConfig(**case.options), seed=0)
    small = [reach.rule.smallest + 1 for reach in reach_of(model.spec.config)]
    work(prepare(np.zeros(small, np.uint16), model, device="cpu"))
    image = np.random.default_rng(0).integers(0, 999, case.shape, dtype=np.uint16)
    job = prepare(image, model, tile_shape=case.tile, device="cpu")
    if case.is_whole:
        job = replace(job, strip=job.plan.tile_shape[0])
    gc.collect()  # the small run's copy of the network may be in a cycle
    before = read_status("VmRSS")
    reset_peak()
    work(job)
    weights = sum(array.nbytes for array in model.network.state_dict().values())
    # A pass that may come in strips has them in oneDNN's order, too, and those of `Winograd`.
    weights *= 4 if takes_strips(model.spec.config) else 1
    return {
        "tiles": job.n_tiles,
        "tile": job.plan.tile_shape,
        "strip": min(job.strip, job.plan.tile_shape[0]),
        "predicted": job.peak_bytes + weights,
        "measured": read_status("VmHWM") - before,
    }


def measure_apart(index: int, threads: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run a case in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--case", str(index)],
        env={
            **os.environ,
            **environment,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONWARNINGS": "ignore",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def row(case: Case, run: dict[str, Any], arrays: dict[str, Any]) -> str:
    """Return a line of the table of docs/benchmarks.md."""
    sizes, tile = (" x ".join(map(str, shape)) for shape in (case.shape, run["tile"]))
    amounts = [
        amount
        for found in (arrays, run)
        for amount in (
            round(found["predicted"] / _MIB),
            round(found["measured"] / _MIB),
            _ratio(found["predicted"], found["measured"]),
        )
    ]
    cells = [case.name, sizes, f"{run['tiles']} of {tile}", run["strip"], *amounts]
    return f"| {' | '.join(map(str, cells))} |"


def _ratio(predicted: int, measured: int) -> str:
    text = f"{predicted / measured:.2f}"
    return text if is_close(predicted, measured) else f"**{text}**"


def is_close(predicted: int, measured: int) -> bool:
    """Whether a prediction is as good as it should be."""
    return abs(predicted / measured - 1) <= TOLERANCE


def main(
    case: Annotated[int | None, typer.Option(help="Only this one, in this process.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
) -> None:
    """Measure all cases and print a table."""
    if case is not None:
        sys.stdout.write(json.dumps(measure(CASES[case])) + "\n")
        return
    console = Console(soft_wrap=True)
    console.print(HEAD, markup=False)
    close = {"arrays": 0, "run": 0}
    for index, each in enumerate(CASES):
        run, arrays = (measure_apart(index, threads, given) for given in ({}, GIVE_BACK))
        console.print(row(each, run, arrays), markup=False)
        for name, found in (("arrays", arrays), ("run", run)):
            close[name] += is_close(found["predicted"], found["measured"])
    console.print(f"Within {TOLERANCE:.0%}: {close} of {len(CASES)}.", markup=False)


if __name__ == "__main__":
    typer.run(main)
