"""Convolutions by `Winograd` and by oneDNN: `python -m benchmarks.winograd`.

Layers as in the networks of the benchmark, with features as large as a strip's: time in turns
in one process, and the error of both against float64.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from unetari.inference.allocator import keep_freed_memory
from unetari.inference.onednn import Convolution
from unetari.inference.winograd import Winograd

CASES = (
    (32, 32, (66, 1024)),
    (64, 32, (66, 1024)),
    (64, 64, (34, 512)),
    (128, 64, (34, 512)),
    (128, 128, (18, 256)),
    (256, 256, (10, 128)),
    (16, 16, (10, 256, 256)),
    (32, 16, (10, 256, 256)),
    (32, 32, (6, 128, 128)),
    (64, 32, (6, 128, 128)),
)
"""Channels in and out, and the size of the features, ([Z,] Y, X)."""
_KINDS: dict[int, Any] = {
    2: (nn.Conv2d, functional.conv2d, torch.channels_last),
    3: (nn.Conv3d, functional.conv3d, torch.channels_last_3d),
}


@torch.inference_mode()
def measure(channels: tuple[int, int], sizes: tuple[int, ...], rounds: int) -> str:
    """Return a row of the table."""
    kind, compute, last = _KINDS[len(sizes)]
    layer = kind(*channels, 3, padding=1)
    x = torch.randn(1, channels[0], *sizes).relu().contiguous(memory_format=last)
    convolve = Convolution.of(layer)
    ways: list[Any] = [convolve, Winograd(layer, convolve)]
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds + 1):
        for way, seconds in zip(ways, taken, strict=True):
            began = time.perf_counter()
            way(x, rows_padded=False)
            seconds.append(time.perf_counter() - began)
    direct, divided = (median(seconds[1:]) for seconds in taken)
    few = x[:, :, :10, :64]
    padding = [0, *[1] * (len(sizes) - 1)]
    true = compute(few.double(), layer.weight.double(), layer.bias.double(), padding=padding)
    errors = [_distance(way(few, rows_padded=False), true) for way in ways]
    names = [f"{channels[0]} to {channels[1]}", " x ".join(map(str, sizes))]
    numbers = [f"{direct * 1000:.1f} ms", f"{divided / direct:.2f}", f"{errors[1] / errors[0]:.1f}"]
    return f"| {' | '.join(names + numbers)} |"


def _distance(found: Tensor, true: Tensor) -> float:
    return float((found - true).square().mean().sqrt())


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 25,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
) -> None:
    """Print a table."""
    torch.set_num_threads(threads)
    console = Console(soft_wrap=True)
    console.print("| channels | features | oneDNN | time of it | rounding of it |", markup=False)
    console.print("|---|---|---|---|---|", markup=False)
    with keep_freed_memory():
        for in_channels, out_channels, sizes in CASES:
            row = measure((in_channels, out_channels), sizes, rounds)
            console.print(row, markup=False)


if __name__ == "__main__":
    typer.run(main)
