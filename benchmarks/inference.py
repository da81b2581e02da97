"""Compare the engine with a plain pass and with other programs: `python -m benchmarks.inference`.

Every contender has a process of its own, and only one computes at a time, in turns: what
else the machine does meets all of them alike. `benchmarks.report` makes the page of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.cases import CASES, SMALL, Case, make_image
from benchmarks.contenders import OURS, PLAIN, Contender, list_contenders, smaller_tile
from benchmarks.peers import DISTRIBUTIONS, MODULES
from benchmarks.worker import Worker

console = Console(soft_wrap=True)


@dataclass
class Measured:
    """What was measured of a contender on a case."""

    contender: Contender
    wall: list[float]
    """Seconds per round."""
    cpu: list[float]
    """Seconds of all threads per round."""
    peak: int = 0
    """Most memory of a round, in bytes, beyond that of the idle process."""
    error: float = 0.0
    """Largest difference of a probability to the plain pass."""
    flips: float = 0.0
    """Share of labels that differ from the plain pass."""
    failure: str = ""
    tile: tuple[int, ...] = ()
    """Outer size of the tiles, ([Z,] Y, X)."""

    def as_dict(self, plain: Measured) -> dict[str, Any]:
        """Return numbers for the report; ratios are to the plain pass of the same round."""
        ratios = {
            name: [own / other for own, other in zip(mine, theirs, strict=False)]
            for name, mine, theirs in (
                ("wall", self.wall, plain.wall),
                ("cpu", self.cpu, plain.cpu),
            )
        }
        return {
            "contender": str(self.contender),
            "rounds": len(self.wall),
            "each": [list(pair) for pair in zip(self.wall, self.cpu, strict=True)],
            "seconds": median(self.wall) if self.wall else None,
            "cpu_seconds": median(self.cpu) if self.cpu else None,
            "wall": _spread(ratios["wall"]),
            "cpu": _spread(ratios["cpu"]),
            "peak_bytes": self.peak,
            "error": self.error,
            "flips": self.flips,
            "tile": list(self.tile),
            "failure": self.failure,
        }


def _spread(ratios: list[float]) -> tuple[float, float, float] | None:
    """Return median, smallest and largest."""
    return (median(ratios), min(ratios), max(ratios)) if ratios else None


def measure(
    case: Case, workers: list[Worker], folder: Path, rounds: int, peer_rounds: int
) -> dict[str, Any]:
    """Check and time contenders on a case; the first is the plain pass."""
    if not case.with_peers:
        workers = [worker for worker in workers if worker.contender.program in (PLAIN, OURS)]
    image = folder / "image.npy"
    np.save(image, make_image(case))
    found = [Measured(worker.contender, [], []) for worker in workers]
    ours = 0
    for worker, measured in zip(workers, found, strict=True):
        contender = measured.contender
        load = f"load {case} {image}"
        if contender.program not in (PLAIN, OURS) and contender.tiles == "ours" and ours:
            load = _find_equal_memory(worker, case, load, ours)
        _check(worker, measured, load, workers[0].folder)
        if contender == Contender(OURS) and not measured.failure:
            ours = int(worker.ask("run").get("peak", 0))
    for turn in range(rounds):
        for worker, measured in zip(workers, found, strict=True):
            is_peer = measured.contender.program not in (PLAIN, OURS)
            if not measured.failure and (turn < peer_rounds or not is_peer):
                _note(measured, worker.ask("run"))
        console.print(f"{datetime.now(UTC):%H:%M:%S} {case.name}: round {turn + 1} of {rounds}")
    return {"case": str(case), "found": [measured.as_dict(found[0]) for measured in found]}


def _find_equal_memory(worker: Worker, case: Case, load: str, most: int) -> str:
    """Make another program's tiles smaller until it takes no more memory than unetari.

    Return what loads it with these tiles. Each is tried in a process of its own, because what
    a process once had, the next run can use unseen; a first run loads libraries.
    """
    found = load
    for attempt in range(5):
        trial = Worker(worker.contender, worker.folder / f"trial {attempt}", worker.threads)
        loaded = trial.ask(found)
        trial.ask("run")
        peak = int(trial.ask("run").get("peak", 0))
        trial.close()
        console.print(f"{worker.contender}: {peak >> 20} MiB with {loaded.get('tile')}")
        if peak <= most:
            break
        tile = smaller_tile(loaded["tile"], case, most / peak)
        if tile is None:
            break
        found = f"{load} {'x'.join(map(str, tile))}"
    return found


def _check(worker: Worker, measured: Measured, load: str, plain: Path) -> None:
    """Load the case, run it once without timing, and compare what comes out."""
    for what in (load, "check"):
        answer = worker.ask(what)
        measured.tile = tuple(answer.get("tile", measured.tile))
        measured.failure = answer.get("error", "")
        if measured.failure:
            console.print(f"{measured.contender}: {measured.failure}")
            return
    measured.peak = int(answer["peak"])
    expected, scores = (np.load(plain / f"{name}.npy") for name in ("labels", "scores"))
    own_labels, own_scores = (np.load(worker.folder / f"{n}.npy") for n in ("labels", "scores"))
    measured.error = float(np.abs(own_scores - scores).max())
    measured.flips = float((own_labels != expected).mean())


def _note(measured: Measured, answer: dict[str, Any]) -> None:
    measured.failure = answer.get("error", "")
    if not measured.failure:
        first = not measured.wall
        measured.wall.append(answer["wall"])
        measured.cpu.append(answer["cpu"])
        # The check makes probabilities, too; a round is what counts.
        measured.peak = int(answer["peak"] if first else max(measured.peak, answer["peak"]))


def describe_machine(threads: int) -> dict[str, Any]:
    """Return what the numbers depend on."""
    names = ["unetari", "torch", "numpy", *DISTRIBUTIONS.values()]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in names},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if not said:
        return platform.processor()
    fast = [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if name in said["flags"]]
    return f"{said['model name']} (family {said['cpu family']}, model {said['model']}; " + (
        f"{', '.join(fast) or 'no avx512'})"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def installed_peers() -> tuple[str, ...]:
    """Return the programs that this environment has."""
    return tuple(
        peer for peer, module in MODULES.items() if importlib.util.find_spec(module.split(".")[0])
    )


def main(
    quick: Annotated[bool, typer.Option(help="One small image, one round.")] = False,
    sizes: Annotated[
        str, typer.Option(help="Cases such as article-2d:1024x1024, separated by commas.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 5,
    peer_rounds: Annotated[
        int, typer.Option(min=1, help="Rounds in which other programs take part.")
    ] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    peers: Annotated[
        str, typer.Option(help="Other programs, separated by commas; default: those installed.")
    ] = "installed",
    only: Annotated[
        str, typer.Option(help="Only contenders whose key has one of these parts.")
    ] = "",
    out: Annotated[Path, typer.Option(help="JSON file.")] = Path("inference.json"),
) -> None:
    """Measure, and write the numbers as JSON after every case."""
    cases: tuple[Case, ...] = SMALL if quick else CASES
    if sizes:
        cases = tuple(Case.parse(text) for text in sizes.split(","))
    chosen = installed_peers() if peers == "installed" else tuple(filter(None, peers.split(",")))
    wanted = [part for part in only.split(",") if part]
    contenders = [
        contender
        for contender in list_contenders(chosen)
        if contender.program == PLAIN
        or not wanted
        or any(part in str(contender) for part in wanted)
    ]
    found: list[dict[str, Any]] = []
    report = {"machine": describe_machine(threads), "cases": found}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workers = [
            Worker(contender, folder / str(index), threads)
            for index, contender in enumerate(contenders)
        ]
        try:
            for case in cases:
                turns = rounds if case.is_timed else 1
                found.append(measure(case, workers, folder, turns, peer_rounds))
                out.write_text(json.dumps(report, indent=1) + "\n")
        finally:
            for worker in workers:
                worker.close()
    console.print(f"{out}: {len(cases)} cases, {len(contenders)} contenders.")


if __name__ == "__main__":
    typer.run(main)
