"""Who is measured: a plain pass, our engine, and other programs around the same network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.cases import Case, make_model, normalize, pad
from unetari import Model, predict
from unetari.core.network import reach_of
from unetari.core.tiles import TilePlan, plan_tiles
from unetari.inference.allocator import keep_freed_memory
from unetari.inference.job import Job, prepare
from unetari.inference.lean import LeanUNet
from unetari.inference.memory import Tiling, peak_bytes, shrink
from unetari.model.decisions import to_labels
from unetari.model.unet import UNet

OURS = "unetari"
PLAIN = "plain pass"
PEERS = ("MONAI", "nnU-Net", "torch-em", "elektronn3", "bioimageio.core", "careamics")
PEER_TILES = {2: (512, 512), 3: (64, 128, 128)}
"""None of the programs has a tile size of its own: these are those of their documentation."""


@dataclass(frozen=True)
class Contender:
    """A program, with what can be varied."""

    program: str
    tiles: Literal["usual", "ours", "whole"] = "ours"
    """Tiles as large as is usual with other programs, those of unetari (for other programs: as
    large as its memory allows), or one."""
    lean: bool = False
    """Whether another program gets our faster network and our memory settings."""
    precision: str = "float32"

    @classmethod
    def parse(cls, text: str) -> Contender:
        """Read what `str` wrote."""
        program, tiles, lean, precision = text.split("/")
        return cls(program, tiles, lean == "lean", precision)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return "/".join((self.program, self.tiles, "lean" if self.lean else "own", self.precision))

    @property
    def environment(self) -> dict[str, str]:
        """Settings of the process; torch reads them once. Others get what torch has by itself."""
        tuned = self.program == OURS or self.lean
        return {"THP_MEM_ALLOC_ENABLE": "1" if tuned else "0"}


def list_contenders(peers: tuple[str, ...]) -> Iterator[Contender]:
    """Yield all of them, the plain pass first."""
    yield Contender(PLAIN, "whole")
    yield Contender(OURS)
    yield Contender(OURS, "usual")
    yield Contender(OURS, precision="bf16")
    yield Contender(OURS, precision="auto")
    for program in peers:
        yield Contender(program, "usual")
        yield Contender(program, "ours")
        yield Contender(program, "ours", lean=True)


@dataclass(frozen=True)
class Setting:
    """What another program needs to know."""

    network: nn.Module
    dim: int
    classes: int
    tile: tuple[int, ...]
    """Outer size of a tile, ([Z,] Y, X)."""
    halo: tuple[int, ...]
    """Voxels per side that a tile reads and does not write, where the program lets one say."""


Apply = Callable[[NDArray[np.float32]], NDArray[np.float32] | Tensor]
"""From (C, [Z,] Y, X) to scores, (classes, [Z,] Y, X)."""
Segment = Callable[[NDArray[np.uint16], bool], tuple[NDArray[np.uint8], NDArray[np.float32] | None]]
"""From an image to labels and, if asked for, probabilities."""


def build(
    contender: Contender, case: Case, tile: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...], Segment]:
    """Load the model; return the outer size of the tiles, and what is timed.

    The latter goes from a uint16 image to uint8 labels. Other programs can be given a tile.
    """
    model = make_model(case)
    if contender.program == PLAIN:
        return case.shape, _build_plain(model)
    tile = tile or tile_of(contender, case, model)
    if contender.program == OURS:
        return tile, _build_ours(contender, tile, model)
    return tile, _build_peer(contender, tile, case, model)


def tile_of(contender: Contender, case: Case, model: Model) -> tuple[int, ...]:
    """Return the outer size of the tiles, at most that of the image."""
    if contender.tiles == "usual":
        sizes = zip(PEER_TILES[len(case.shape)], case.shape, strict=True)
        usual = tuple(min(tile, size // 8 * 8) for tile, size in sizes)
        if contender.program != OURS:
            return usual
        # Deep networks need more than that to write anything at all.
        reaches = zip(usual, reach_of(model.spec.config), strict=True)
        return tuple(max(tile, reach.smallest_tile) for tile, reach in reaches)
    return _of_equal_memory(prepare(np.zeros(case.shape, np.uint16), model, device="cpu"))


def smaller_tile(tile: Sequence[int], case: Case, share: float) -> tuple[int, ...] | None:
    """Return the best tile of at most a share of another one's voxels; None if there is none.

    Of all that are square in the plane, that is the one with which fewest voxels are computed.
    """
    config, most = make_model(case).spec.config, share * prod(tile)
    reaches = reach_of(config)
    depths = range(reaches[0].smallest_tile, case.shape[0] + 1, reaches[0].multiple)
    plans = []
    for depth in depths if len(tile) == 3 else [1]:
        side = int((most / depth) ** 0.5)
        if side >= reaches[-1].smallest_tile:
            limit = (depth, side, side)[-len(tile) :]
            plans.append(plan_tiles(case.shape, config, tile_shape=limit))
    plans = [plan for plan in plans if prod(plan.tile_shape) <= most]
    if not plans:
        return None
    return min(plans, key=lambda plan: len(plan) * prod(plan.tile_shape)).tile_shape


def _of_equal_memory(job: Job) -> tuple[int, ...]:
    """Return the largest tile that the lean network computes at once in the memory of a job."""
    shape, config = job.plan.shape, job.model.spec.config

    def plan(limit: Sequence[int] | None) -> TilePlan:
        return plan_tiles(shape, config, tile_shape=limit)

    tile = plan(None).tile_shape
    while peak_bytes(plan(tile), config, on_cpu=True) > job.peak_bytes:
        smaller = shrink(Tiling(tile, tile[0]), config)
        if smaller is None:
            break
        tile = smaller.tile_shape
    return plan(tile).tile_shape


def _build_ours(contender: Contender, tile: tuple[int, ...], model: Model) -> Segment:
    # Our own tile size is left to the engine, as for everybody who calls it.
    limit = tile if contender.tiles == "usual" else None

    def segment(
        image: NDArray[np.uint16], scores: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        found = predict(
            image,
            model,
            device="cpu",
            precision=contender.precision,
            tile_shape=limit,
            scores=scores,
        )
        return found.labels.astype(np.uint8, copy=False), found.scores

    return segment


def _build_plain(model: Model) -> Segment:
    network = model.network.eval()

    def apply(image: NDArray[np.float32]) -> Tensor:
        sizes = (slice(0, size) for size in image.shape[1:])
        scores: Tensor = network(torch.from_numpy(pad(model, image))[None])[0]
        return scores[(slice(None), *sizes)]

    return _finish(model, apply)


def _build_peer(contender: Contender, tile: tuple[int, ...], case: Case, model: Model) -> Segment:
    from benchmarks import peers

    network = model.network.eval()
    if contender.lean and isinstance(network, UNet):
        network = LeanUNet(network).eval()
    plan_halo = prepare(np.zeros(case.shape, np.uint16), model, device="cpu").plan.halo
    halo = plan_halo if contender.tiles == "ours" else tuple(size // 8 for size in tile)
    setting = Setting(network, model.spec.config.dim, model.spec.config.out_channels, tile, halo)
    return _finish(model, peers.BUILDERS[contender.program](setting), kept=contender.lean)


def _finish(model: Model, apply: Apply, *, kept: bool = False) -> Segment:
    """Add what comes before and after the scores, the same for everybody."""

    def segment(
        image: NDArray[np.uint16], scores: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        with torch.inference_mode(), keep_freed_memory() if kept else nullcontext():
            found = torch.as_tensor(apply(normalize(model, image)))
            labels = to_labels(found, model.spec.config).numpy()
            return labels, found.float().softmax(dim=0).numpy() if scores else None

    return segment
