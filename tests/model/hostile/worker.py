"""Opens hostile files in a process of their own, and says what came of each.

    python -m tests.model.hostile.worker FOLDER [cli] < NAMES

writes a line of JSON for every name. The process that opens files is a copy of this one, which
has everything imported; when a file ends it, the next file is opened by another copy.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import hashlib
import json
import math
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tests.model.hostile import material
from tests.model.hostile.cases import Case
from tests.model.hostile.corpus import find_case

SECONDS = 60
"""Most time that a file may take; the machines that run tests are slow."""
_MEASURED = re.compile(r"tmp/measurements(/\w+\.json)?")
_MEMORY = 8 * 2**30  # more than this is not even reserved
_RUNS_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen",
              "pty.spawn", "webbrowser.open", "ctypes.dlopen", "os.remove", "os.rename",
              "shutil.rmtree", "os.chmod", "os.link", "os.symlink")  # fmt: skip
_GOES_ONLINE = ("socket.connect", "socket.getaddrinfo", "urllib.Request", "http.client.connect",
                "socket.bind", "ftplib.connect")  # fmt: skip

Task = Callable[[Case, Path, Path], dict[str, Any]]
"""What is done to a file: of the case, the file, and where the process writes what it prints."""


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    root.mkdir(parents=True, exist_ok=True)
    task = _show_info if "cli" in sys.argv[2:] else _load
    names = sys.stdin.read().splitlines()
    _warm_up()
    while names:
        done = _open_in_child(names, root, task)
        names = names[done:]


def _open_in_child(names: list[str], root: Path, task: Task) -> int:
    """Open files until one ends the process; return how many there were."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        os.close(receiver)
        with os.fdopen(sender, "w") as out:
            _be_child(names, root, task, out)
    os.close(sender)
    done = 0
    with os.fdopen(receiver) as pipe:
        for line in pipe:
            sys.stdout.write(line)
            sys.stdout.flush()
            done += 1
    _, status = os.waitpid(child, 0)
    if done == len(names):
        return done
    log = (root / "log").read_text(errors="replace")
    result = {"name": names[done], "outcome": "died", "status": status, "message": log[-3000:]}
    print(json.dumps(result), flush=True)  # noqa: T201 -- this is how it answers
    return done + 1


def _be_child(names: list[str], root: Path, task: Task, out: IO[str]) -> None:
    """Open files behind a guard; never returns."""
    with (root / "log").open("a+") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        faulthandler.enable(log)
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + _MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        guard = Guard()
        try:
            for name in names:
                log.truncate(0)
                faulthandler.dump_traceback_later(SECONDS, exit=True, file=log)
                result = {"name": name, "status": 0, **run(find_case(name), root, task, guard)}
                faulthandler.cancel_dump_traceback_later()
                out.write(json.dumps(result) + "\n")
                out.flush()
        except BaseException:  # noqa: BLE001 -- the file could not be made: the log says why
            traceback.print_exc(file=log)
            log.flush()
        finally:
            os._exit(0)


def run(case: Case, root: Path, task: Task, guard: Guard) -> dict[str, Any]:
    """Make a file, open it, and look at what is left."""
    base = Path(tempfile.mkdtemp(dir=root))
    for name in ("files", "tmp", "home", "cwd"):
        (base / name).mkdir()
    try:
        path = case.build(base / "files")
        before, started = snapshot(base), time.monotonic()
        _forget()
        _set_home(base)
        gc.collect()
        memory = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # what was the most memory is the present
        with guard.watching(base / "tmp") as events:
            result = task(case, path, root / "log")
        result["memory"] = _status("VmHWM") - memory
        result["seconds"] = round(time.monotonic() - started, 2)
        after = snapshot(base)
    finally:
        os.chdir(root)
        tempfile.tempdir = str(root)
        shutil.rmtree(base, ignore_errors=True)
    shown = os.fsencode(path).decode("utf-8", "replace")
    left = sorted(set(after.items()) ^ set(before.items()))
    # What was measured of a network is kept, also where its package is refused for other reasons.
    left = [item for item in left if not _MEASURED.fullmatch(item[0])]
    return {**result, "events": sorted(set(events)), "left": left, "path": shown}


def snapshot(base: Path) -> dict[str, str]:
    """Every file, and what is in it."""
    found = {}
    for path in base.rglob("*"):
        name = os.fsencode(path.relative_to(base)).decode("utf-8", "replace")
        is_file = path.is_file() and not path.is_symlink()
        readable = is_file and os.access(path, os.R_OK)
        found[name] = hashlib.md5(path.read_bytes()).hexdigest() if readable else "no file"
    return found


def _forget() -> None:
    """No file is trusted that was trusted before."""
    from unetari.model import trust

    trust._trusted.clear()


def _set_home(base: Path) -> None:
    os.environ |= {"HOME": str(base / "home"), "XDG_CACHE_HOME": str(base / "home")}
    os.environ["UNETARI_CACHE"] = str(base / "tmp" / "measurements")
    os.environ |= {"TMPDIR": str(base / "tmp"), "CANARY": str(base / "cwd" / "canary")}
    tempfile.tempdir = str(base / "tmp")
    os.chdir(base / "cwd")


def _status(name: str) -> int:
    """A number of bytes that the system knows of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


class Guard:
    """Notes what no model file has any business to do."""

    def __init__(self) -> None:
        self._events: list[str] | None = None
        self._temporary = ""
        sys.addaudithook(self._note)  # hooks stay

    @contextlib.contextmanager
    def watching(self, temporary: Path) -> Iterator[list[str]]:
        """Collect events, but those about temporary files."""
        events: list[str] = []
        self._events, self._temporary = events, str(temporary)
        try:
            yield events
        finally:
            self._events = None

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._events is None:
            return
        runs = event.startswith(_RUNS_CODE) and not self._is_temporary(arguments)
        writes = event == "open" and _writes(arguments) and not self._is_temporary(arguments)
        if runs or writes or event.startswith(_GOES_ONLINE):
            self._events.append(f"{event} {str(arguments)[:100]}")

    def _is_temporary(self, arguments: tuple[Any, ...]) -> bool:
        """Whether this is about temporary files; they are removed relative to an open folder."""
        in_folder = len(arguments) == 2 and isinstance(arguments[1], int) and arguments[1] > 0
        return in_folder or self._temporary in str(arguments)


def _writes(arguments: tuple[Any, ...]) -> bool:
    path, mode, flags = arguments
    if not isinstance(path, str | bytes) or os.fsdecode(path).startswith(("/dev/", "/proc/")):
        return False
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))


# --- what is done to a file ---------------------------------------------------------------------


def _load(case: Case, path: Path, _: Path) -> dict[str, Any]:
    from unetari import load_model
    from unetari.errors import UnetariError

    try:
        model = load_model(path, trust=case.trust, **case.options)
    except UnetariError as error:
        return {"outcome": "refused", "type": type(error).__name__, "message": str(error)}
    except BaseException as error:  # noqa: BLE001 -- this is what must not happen
        return {"outcome": "escaped", "type": type(error).__name__,
                "message": "".join(traceback.format_exception(error))[-3000:]}  # fmt: skip
    return {"outcome": "loaded", "message": " ".join(model.notes), "scores": scores_of(model)}


def scores_of(model: Any) -> list[float]:
    """Some scores of a fixed image, or a note why there are none."""
    import torch

    from unetari.core.network import reach_of

    shape = [reach.rule.above(max(24, reach.rule.smallest)) for reach in reach_of(model.config)]
    if math.prod(shape) > 2**20:
        return []
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, model.config.in_channels, *shape), generator=generator)
    with torch.no_grad():
        scores = model.network(image)
    kept: list[float] = scores.flatten()[:: max(1, scores.numel() // 50)].double().tolist()
    return [*map(float, scores.shape), *kept]


def _show_info(case: Case, path: Path, log: Path) -> dict[str, Any]:
    """Run `unetari info`, and return what it printed."""
    from unetari.cli import app

    trust = ["--trust"] if case.trust else []
    try:
        app(["info", str(path), *trust], prog_name="unetari")
    except SystemExit as stop:
        code = stop.code
    sys.stdout.flush()
    sys.stderr.flush()
    return {"outcome": "exited", "code": code, "message": log.read_text(errors="replace")}


def _warm_up() -> None:
    """Import what every file needs, in the process that the others are copies of."""
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in ("unetari.model.checkpoint", "unetari.cli", "onnx", "onnxruntime", "yaml",
                 "bioimageio.spec", "torch.export", "torch.jit", "torch._dynamo",
                 "torch._export.serde.serialize"):  # fmt: skip
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for make in (material.native, material.state_dict, material.legacy, material.script,
                 material.export, material.package):  # fmt: skip
        make()
    gc.freeze()


if __name__ == "__main__":
    main()
