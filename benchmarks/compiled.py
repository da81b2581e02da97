"""The lean network and what torch.compile makes of a plain one: `python -m benchmarks.compiled`.

One thread, one process, in turns: the lean network at once and in strips, and inductor's code
with frozen weights and channels innermost. Compiling needs a C++ compiler.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from benchmarks.cases import ARTICLE
from unetari import UNetConfig
from unetari.inference.allocator import keep_freed_memory
from unetari.inference.lean import LeanUNet
from unetari.inference.memory import choose_tiling
from unetari.model.unet import UNet

SIZES = {"article-2d": (1024, 1024), "article-3d": (48, 256, 256)}
_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
_AMPLE = 2**36
console = Console(soft_wrap=True)


def run_in_strips(network: LeanUNet, image: Tensor, config: UNetConfig) -> None:
    """Push an image through a network, strip by strip, as the engine does on a CPU."""
    sizes = tuple(image.shape[2:])
    strip = choose_tiling(sizes, config, budget=_AMPLE, on_cpu=True).strip
    stream = network.stream(sizes)
    for start in range(0, sizes[0], strip):
        for _ in stream.push(image[:, :, start : start + strip]):
            pass


def compile_plain(network: UNet, image: Tensor) -> tuple[Callable[[], object], float]:
    """Return inductor's pass over an image, and how many seconds compiling took."""
    plain = copy.deepcopy(network).to(image.dtype).to(memory_format=_FORMATS[image.ndim - 2])  # type: ignore[call-overload]
    torch._dynamo.reset()
    compiled: Callable[[Tensor], Tensor] = torch.compile(plain, options={"freezing": True})
    image = image.contiguous(memory_format=_FORMATS[image.ndim - 2])
    began = time.perf_counter()
    with torch.no_grad():
        compiled(image)
    return lambda: compiled(image), time.perf_counter() - began


def measure(name: str, dtype: torch.dtype, rounds: int) -> None:
    """Print CPU seconds of one network in one format."""
    config, sizes = ARTICLE[name], SIZES[name]
    network = UNet(config).eval()
    image = torch.randn(1, 1, *sizes).to(dtype)
    lean = LeanUNet(network).to(dtype)
    with keep_freed_memory():
        compiled, seconds = compile_plain(network, image)
        ways: dict[str, Callable[[], object]] = {
            "lean": lambda: lean(image),
            "in strips": lambda: run_in_strips(lean, image, config),
            "compiled": compiled,
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, compute in ways.items():
                began = time.process_time()
                with torch.no_grad():
                    compute()
                taken[way].append(time.process_time() - began)
    found = ", ".join(f"{way} {median(each):.2f} s" for way, each in taken.items())
    console.print(f"{name} {dtype}: {found}; compiling took {seconds:.0f} s.")


def main(rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 5) -> None:
    """Measure both networks of the article in float32 and bfloat16."""
    torch.set_num_threads(1)
    for name in SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            measure(name, dtype, rounds)


if __name__ == "__main__":
    typer.run(main)
