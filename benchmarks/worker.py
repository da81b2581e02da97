"""One contender in a process of its own; others wait while it computes.

Each line of the standard input asks for something, each line of the standard output
answers in JSON. Settings of the memory allocator hold for a whole process, so two
contenders cannot share one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.contenders import Contender


class Worker:
    """A process that runs one contender.

    Parameters
    ----------
    contender : Contender
        Who runs.
    folder : Path
        Gets the log, labels and probabilities.
    threads : int
        Threads of torch.
    """

    def __init__(self, contender: Contender, folder: Path, threads: int) -> None:
        self.contender = contender
        self.folder = folder
        self.threads = threads
        folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            **contender.environment,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONWARNINGS": "ignore",
        }
        command = [sys.executable, "-m", "benchmarks.worker", str(contender), str(folder)]
        self._log = (folder / "log.txt").open("w")
        self._process = subprocess.Popen(
            [*command, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    def ask(self, what: str) -> dict[str, Any]:
        """Have it do something; return what that took, or `{"error": ...}`.

        "load CASE FILE [TILE]", then "check", which also writes what was found, or "run".
        """
        ended = {"error": f"ended early, see {self._log.name}"}
        if self._process.stdin is None or self._process.stdout is None:
            return ended
        try:
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return ended
        for line in self._process.stdout:
            if line.startswith("{"):  # others print what they like
                answer: dict[str, Any] = json.loads(line)
                return answer
        return ended

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self._log.close()


def read_status(name: str) -> int:
    """Return a value of /proc/self/status, in bytes; 0 on other systems than Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def reset_peak() -> None:
    """Make the system forget the most memory that this process ever had."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def serve(contender: Contender, folder: Path, threads: int) -> None:
    """Answer until the input ends."""
    import torch

    torch.set_num_threads(threads)
    task: Task | None = None
    for line in sys.stdin:
        what, *values = line.split()
        try:
            if what == "load":
                task = None  # its memory is free before the next one's is taken
                task = Task(contender, values, folder)
                answer: dict[str, Any] = {"tile": task.tile}
            elif task is not None:
                answer = task.run(writes=what == "check")
        except Exception as error:  # noqa: BLE001 -- other programs may raise what they like
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:200]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


class Task:
    """One contender with its model, and an image; given are a case, a file, and perhaps a tile."""

    def __init__(self, contender: Contender, given: list[str], folder: Path) -> None:
        import numpy as np

        from benchmarks.contenders import build

        case, image, *tile = given
        chosen = tuple(map(int, tile[0].split("x"))) if tile else None
        self.tile, self._segment = build(contender, Case.parse(case), chosen)
        self._image = np.load(image)
        self._folder = folder
        self._idle = read_status("VmRSS")

    def run(self, *, writes: bool) -> dict[str, float]:
        """Segment the image; return seconds, and bytes beyond those of the idle process."""
        import numpy as np

        reset_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        labels, scores = self._segment(self._image, writes)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = max(0, read_status("VmHWM") - self._idle)
        if scores is not None:
            np.save(self._folder / "labels.npy", labels)
            np.save(self._folder / "scores.npy", scores)
        return {"wall": wall, "cpu": cpu, "peak": peak}


if __name__ == "__main__":
    serve(Contender.parse(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
