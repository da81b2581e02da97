"""Which floating-point format a network runs in, and what that changes."""

from __future__ import annotations

from math import prod
from typing import Any, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from unetari.core.config import FrozenModel
from unetari.core.network import NetworkConfig, reach_of
from unetari.core.tiles import Tile, TilePlan, plan_tiles
from unetari.errors import DeviceError
from unetari.inference.runner import Precision
from unetari.model.decisions import to_labels
from unetari.model.unet import UNet

MOST_CHANGED = 0.0005
"""Largest share of labels that a faster format may change, 0.05 %."""
_SAMPLE = {2: 192, 3: 48}
"""Voxels per axis of which the labels are compared, where that decides about the format; half
as many where it only tells how well one does that was asked for."""
_WORTH_IT = 6  # times the sample; of less, checking takes more time than a faster format saves
_SUPPORTED: dict[str, tuple[Precision, ...]] = {
    # The fastest first.
    "cuda": ("fp16", "bf16", "tf32", "float32"),
    "mps": ("fp16", "float32"),
    "cpu": ("bf16", "float32"),
}
_CPU_BF16 = ("amx_bf16", "avx512_bf16", "bf16")


class PrecisionCheck(FrozenModel):
    """How a sample came out in another format than float32."""

    precision: Precision
    """The format."""
    changed_labels: float = Field(ge=0, le=1)
    """Share of the labels of a sample that differ from those in float32."""
    is_finite: bool
    """Whether all scores were finite."""

    @property
    def passes(self) -> bool:
        """Whether the format may be used without being asked for."""
        return self.is_finite and self.changed_labels <= MOST_CHANGED

    def __str__(self) -> str:
        finite = "" if self.is_finite else " and gives numbers that are not finite"
        return f"{self.precision} changes {self.changed_labels:.3%} of the labels{finite}."


def find_precisions(name: str, device: torch.device, network: nn.Module) -> tuple[Precision, ...]:
    """Return the formats to try, the fastest first; float32 needs no check.

    Parameters
    ----------
    name : str
        "auto", or one of "float32", "tf32", "bf16" and "fp16".
    device : torch.device
        Where the network runs.
    network : nn.Module
        The network.

    Returns
    -------
    tuple of str
        At least one; the one that was named, or those that "auto" means.

    Raises
    ------
    DeviceError
        If the name is unknown, or the device or the network offers no such format.
    """
    supported = _find_supported(device) if isinstance(network, UNet) else ("float32",)
    if name == "auto":
        is_slow = device.type == "cpu" and not _has_fast_bf16()
        return ("float32",) if is_slow else supported
    if name not in supported:
        where = f"on {device.type}" if isinstance(network, UNet) else "with this kind of network"
        known = name in get_args(Precision)
        raise DeviceError(
            f"precision={name!r} {f'does not exist {where}' if known else 'is unknown'}. "
            f"Choose one of: auto, {', '.join(supported)}."
        )
    return tuple(precision for precision in supported if precision == name)


def _find_supported(device: torch.device) -> tuple[Precision, ...]:
    # Cards of NVIDIA before Ampere round nothing to tf32, and cuDNN convolves no bf16 on them;
    # `torch.cuda.is_bf16_supported` means any way to compute, of the card that is current.
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    if is_nvidia and torch.cuda.get_device_capability(device)[0] < 8:
        return ("fp16", "float32")
    return _SUPPORTED[device.type]


def _has_fast_bf16() -> bool:
    # Older versions of torch do not tell.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in _CPU_BF16)


def choose_sample(plan: TilePlan, config: NetworkConfig, rim: int, *, decides: bool) -> Tile:
    """Return a tile in the middle of an image, whose labels are compared; no larger than planned.

    `rim` is that of `plan_tiles`, and `decides` is whether the format depends on it.
    """
    size = _SAMPLE[config.dim] if decides else _SAMPLE[config.dim] // 2
    tile_shape = [
        max(min(size + 2 * reach.margin, most), reach.smallest_tile)
        for reach, most in zip(reach_of(config, rim), plan.tile_shape, strict=True)
    ]
    tiles = plan_tiles(plan.shape, config, tile_shape=tile_shape, region=plan.region, rim=rim)
    return tiles.at([n // 2 for n in tiles.grid])


def is_worth_it(sample: Tile, plan: TilePlan, n_images: int) -> bool:
    """Whether a faster format may save more time than the comparison takes."""
    work = n_images * len(plan) * prod(plan.tile_shape)
    return work >= _WORTH_IT * prod(sample.shape)


def check_precision(
    precision: Precision, found: Tensor, expected: Tensor, config: NetworkConfig
) -> PrecisionCheck:
    """Compare a format with float32 on a sample.

    Parameters
    ----------
    precision : str
        The format.
    found, expected : Tensor, (classes, [Z,] Y, X)
        The logits of the sample in the format, and in float32.
    config : UNetConfig or ForeignConfig
        The network.

    Returns
    -------
    PrecisionCheck
    """
    changed = to_labels(found, config) != to_labels(expected, config)
    return PrecisionCheck(
        precision=precision,
        changed_labels=float(changed.float().mean()),
        is_finite=bool(torch.isfinite(found).all()),
    )
