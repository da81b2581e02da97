"""`Runner`: one network on one device."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unetari.core.config import UNetConfig
from unetari.core.network import NetworkConfig, decides, reach_of
from unetari.errors import Cancelled, DeviceError, OutOfMemoryError
from unetari.inference.lean import LeanUNet, cut
from unetari.model.unet import UNet

Result = TypeVar("Result")

Precision = Literal["float32", "tf32", "bf16", "fp16"]
"""Floating-point format of a network: tf32 rounds the factors of float32 to 10 bits."""

_DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_AGREEMENT = 1e-5
_NOT_LEAN = (
    "The network runs as it is, more slowly: the fast way gave other numbers on this device."
)
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "backend out of memory")


class Runner:
    """Runs a private copy of a network; the user's own stays where it is.

    A `UNet` runs as a `LeanUNet`, once that was seen to give the same numbers on
    this device.

    Parameters
    ----------
    network : nn.Module
        Takes (N, C, [Z,] Y, X) and gives logits (N, classes, [Z,] Y, X).
    device : torch.device
        Where to run it.
    should_stop : callable
        Asked before every convolution, so that a run ends within one layer.
    precision : str
        Floating-point format; others than float32 are for a `UNet`.
    frozen_norm : bool
        Whether instance and group normalization of a `UNet` take their statistics
        from what `freeze` gets, instead of from each block.

    Raises
    ------
    DeviceError
        If `frozen_norm` is asked for and the network cannot run as a `LeanUNet`.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        should_stop: Callable[[], bool],
        precision: Precision = "float32",
        *,
        frozen_norm: bool = False,
    ) -> None:
        self.device = device
        self.precision = precision
        self.notes: tuple[str, ...] = ()
        """What the user should know of how the network is run."""
        self._should_stop = should_stop
        self._network: nn.Module = Plain(copy.deepcopy(network)).to(device).eval()
        if isinstance(network, UNet):
            self._use_lean(network, frozen_norm)
        self._dtype = _DTYPES["float32" if self.notes else precision]
        for module in self._network.modules():
            if not list(module.children()):
                module.register_forward_pre_hook(self._check)

    def _use_lean(self, network: UNet, frozen_norm: bool) -> None:
        with torch.inference_mode():
            lean = LeanUNet(network).to(self.device).eval()
            if not agree(lean, self._network, network.config):
                if frozen_norm:
                    raise DeviceError(
                        f"frozen_norm=True is not possible on {self.device}. {_NOT_LEAN}"
                    )
                self.notes = (_NOT_LEAN,)
                return
            if frozen_norm:
                lean = LeanUNet(network, frozen=True).to(self.device).eval()
            self._network = lean.to(_DTYPES[self.precision])

    def freeze(self, blocks: NDArray[np.float32]) -> None:
        """Take the statistics of normalization from blocks, (N, C, [Z,] Y, X).

        Raises
        ------
        OutOfMemoryError
            If the device has too little memory for them.
        Cancelled
            If `should_stop` said so.
        """

        def compute() -> bool:
            batch = torch.from_numpy(blocks).to(self.device, self._dtype)
            cast("LeanUNet", self._network).freeze(batch)
            return True

        if not self._attempt(compute):
            raise self._out_of_memory("A set of samples", blocks.shape)

    def __call__(
        self,
        block: NDArray[np.float32],
        part: Sequence[slice] | None,
        decide: Callable[[Tensor], Result],
    ) -> Result:
        """Compute one block.

        Parameters
        ----------
        block : ndarray of float32, (C, [Z,] Y, X)
            Normalized intensities.
        part : sequence of slice, optional
            The part of the output that is needed, ([Z,] Y, X), start and stop given;
            default: everything.
        decide : callable
            Turns that part of the logits, float32 (classes, [Z,] Y, X) on the device, into
            the result.

        Returns
        -------
        object
            What `decide` returns.

        Raises
        ------
        OutOfMemoryError
            If the device has too little memory for this block.
        Cancelled
            If `should_stop` said so.
        """
        result = self._forward(block, part, decide)
        if result is None:
            raise self._out_of_memory("A tile", block.shape[1:])
        return result

    def _out_of_memory(self, what: str, shape: Sequence[int]) -> OutOfMemoryError:
        # Made outside the except clause, whose frame keeps the tensors alive.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        sizes = " x ".join(map(str, shape))
        return OutOfMemoryError(f"{what} of {sizes} voxels does not fit on {self.device}.")

    def _forward(
        self,
        block: NDArray[np.float32],
        part: Sequence[slice] | None,
        decide: Callable[[Tensor], Result],
    ) -> Result | None:
        def compute() -> Result:
            batch = torch.from_numpy(block)[None].to(self.device, self._dtype)
            return decide(self._network(batch, part)[0].float())

        return self._attempt(compute)

    def _attempt(self, compute: Callable[[], Result]) -> Result | None:
        """Compute something; None if memory ran short."""
        try:
            with torch.inference_mode(), _rounding(self.device, self.precision):
                return compute()
        except (torch.OutOfMemoryError, MemoryError):
            return None
        except RuntimeError as error:
            if any(phrase in str(error) for phrase in _OUT_OF_MEMORY):
                return None
            raise

    def _check(self, *_: Any) -> None:
        if self._should_stop():
            raise Cancelled("Stopped on request.")


class Plain(nn.Module):
    """A network as it is, of which a part of the output is taken."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, part: Sequence[slice] | None = None) -> Tensor:
        """Compute the scores, (N, classes, [Z,] Y, X), of a part of the output."""
        scores: Tensor = self.network(x)
        return scores if part is None else cut(scores, part)


def agree(lean: nn.Module, plain: nn.Module, config: UNetConfig) -> bool:
    """Whether two ways to run a network give the same numbers, but for rounding."""
    reaches = reach_of(config)
    sizes = [reach.rule.above(reach.rule.smallest + 2 * reach.multiple) for reach in reaches]
    outputs = [size - 2 * reach.loss for size, reach in zip(sizes, reaches, strict=True)]
    part = [slice(size // 3, size - size // 3) for size in outputs]
    device = next(plain.parameters()).device
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, config.in_channels, *sizes), generator=generator).to(device)
    expected = plain(image, part)
    scale = float(expected.abs().max())
    return torch.allclose(lean(image, part), expected, rtol=0, atol=_AGREEMENT * (1 + scale))


def to_labels(output: Tensor, config: NetworkConfig, *, is_scores: bool = False) -> Tensor:
    """Decide the class of every voxel, on the device.

    Exclusive classes: the highest channel wins. Independent ones: the highest
    channel wins where it exceeds one half, and the rest is background.

    Parameters
    ----------
    output : Tensor, (channels, [Z,] Y, X)
        What the network gives.
    config : UNetConfig or ForeignConfig
        Says how classes follow from it.
    is_scores : bool
        Whether `to_scores` has made probabilities of it.

    Returns
    -------
    Tensor of uint8 (uint16 beyond 256 classes), ([Z,] Y, X)
    """
    classes, is_logits = decides(config)
    dtype = torch.uint8 if config.n_classes <= 256 else torch.uint16
    if classes == "exclusive":
        return output.argmax(dim=0).to(dtype)
    highest, channel = output.max(dim=0)
    is_foreground = highest > (0.0 if is_logits and not is_scores else 0.5)
    return torch.where(is_foreground, channel + 1, 0).to(dtype)


def to_scores(output: Tensor, config: NetworkConfig) -> Tensor:
    """Turn what the network gives into probabilities; softmax is for exclusive classes."""
    classes, is_logits = decides(config)
    if not is_logits:
        return output
    return output.softmax(dim=0) if classes == "exclusive" else output.sigmoid()


@contextlib.contextmanager
def _rounding(device: torch.device, precision: Precision) -> Iterator[None]:
    """Keep cuDNN from rounding float32 convolutions to tf32, which would break exactness."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=precision == "tf32"):
        yield
