"""`LeanUNet`: the same numbers as a `UNet`, in less time and memory.

- Activation and batch normalization work in place; where normalization comes
  before activation, batch normalization is part of the convolution's weights.
  On a CPU, oneDNN activates within the convolution, and large convolutions take
  half of the multiplications (`unetari.inference.winograd`).
- The decoder computes the voxels that the wanted part of the output depends on,
  and no others: less on every level (`unetari.core.stencils.plan_decoder`).
- Interpolation comes after the 1x1 convolution instead of before it: the two
  commute, because an interpolation's weights add up to 1.
- Channels are innermost in memory, which CPUs and tensor cores prefer.
- An image may come in pieces (`unetari.inference.stream`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from unetari.core.config import UNetConfig
from unetari.inference.layer import Frozen, Layer
from unetari.inference.stream import Stream
from unetari.model.unet import DownBlock, UNet, UpBlock

_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class LeanUNet(nn.Module):
    """Runs a U-Net for prediction.

    Parameters
    ----------
    network : UNet
        The network, in evaluation mode; it is copied.
    frozen : bool
        Whether instance and group normalization take their statistics from the
        images given to `freeze` or after `gather`, instead of from each input.
    innermost : bool
        Whether channels may be innermost in memory.
    """

    def __init__(self, network: UNet, *, frozen: bool = False, innermost: bool = True) -> None:
        super().__init__()
        self.config = network.config
        self.is_frozen = frozen
        """Whether statistics of normalization are kept."""
        self.tiles_exactly = frozen or self.config.tiles_exactly
        """Whether a part of the output depends on its surroundings only."""
        # Normalization by statistics of the input gains nothing from it, and is slow in 3D.
        last = _CHANNELS_LAST[self.config.dim]
        suits = innermost and self.tiles_exactly
        self.memory_format = last if suits else torch.contiguous_format
        lean = copy.deepcopy(network)
        ups = [*reversed(lean.up_blocks), None]
        self.blocks = nn.ModuleList(
            LeanBlock(cast("DownBlock", down), cast("UpBlock | None", up), self.config, frozen)
            for down, up in zip(lean.down_blocks, ups, strict=True)
        )
        self.final = Layer(
            lean.conv_final, nn.Identity(), nn.Identity(), norm_first=False, frozen=False
        )
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def freeze(self, images: Tensor) -> None:
        """Take the statistics of instance and group normalization from a batch, as if of one image.

        Parameters
        ----------
        images : Tensor
            (N, C, [Z,] Y, X), of a size that fits the network.
        """
        for frozen in self._find_frozen():
            frozen.begin("learns")
        self(images)

    def gather(self) -> Iterator[None]:
        """Take the statistics of instance and group normalization from one image in pieces.

        One layer after the other, because each sees what the ones before it give.

        Yields
        ------
        None
            Once per layer with such normalization: the image has to pass through a `stream`
            of everything before the next one is asked for. No scores come out.
        """
        found = self._find_frozen()
        for frozen in found:
            frozen.begin("waits")
        for frozen in found:
            frozen.begin("gathers")
            yield
            frozen.settle()

    def _find_frozen(self) -> list[Frozen]:
        """Return the normalizations that keep their statistics, as they follow each other."""
        blocks = [cast("LeanBlock", block) for block in self.blocks]
        layers = [layer for block in blocks for layer in (block.first, block.second)]
        for block in reversed(blocks[:-1]):
            layers += [block.raised, block.third, block.fourth]
        return [layer.frozen for layer in layers if layer.frozen is not None]

    @contextmanager
    def all_by_winograd(self) -> Iterator[None]:
        """For a while, have `Winograd` do all convolutions that it can, however small."""
        layers = [module for module in self.modules() if isinstance(module, Layer)]
        found = [layer.winograd for layer in layers if layer.winograd is not None]
        before = [each.least_size for each in found]
        try:
            for each in found:
                each.least_size = 0
            yield
        finally:
            for each, least_size in zip(found, before, strict=True):
                each.least_size = least_size
                each.forget()

    def stream(self, sizes: Sequence[int], part: Sequence[slice] | None = None) -> Stream:
        """Return a pass over one image that comes in pieces.

        Parameters
        ----------
        sizes : sequence of int
            Size of the image, ([Z,] Y, X); it fits the network.
        part : sequence of slice, optional
            The wanted part of the output, ([Z,] Y, X), start and stop given. Default:
            everything.
        """
        return Stream(self, sizes, part)

    def arrange(self, x: Tensor) -> Tensor:
        """Bring an image into the memory format of the network."""
        return x.contiguous(memory_format=self.memory_format)

    def allocate(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return a new array, in the memory format of the network."""
        return torch.empty(
            tuple(shape),
            dtype=like.dtype,
            device=like.device,
            memory_format=self.memory_format,
        )

    def forward(self, x: Tensor, part: Sequence[slice] | None = None) -> Tensor:
        """Compute a part of the scores.

        Parameters
        ----------
        x : Tensor
            Image, (N, C, [Z,] Y, X), of a size that fits the network.
        part : sequence of slice, optional
            The wanted part of the output, ([Z,] Y, X), start and stop given. Default:
            everything. Statistics of instance and group normalization are those of
            the whole input all the same.

        Returns
        -------
        Tensor
            Logits, (N, classes, [Z,] Y, X), of that part.
        """
        return next(self.stream(x.shape[2:], part).push(x))


class LeanBlock(nn.Module):
    """The layers of one level, and what leads to the next level and back."""

    def __init__(
        self, down: DownBlock, up: UpBlock | None, config: UNetConfig, frozen: bool
    ) -> None:
        super().__init__()

        def layer(convolution: nn.Module, block: nn.Module, index: int) -> Layer:
            return Layer(
                convolution,
                getattr(block, f"act{index}"),
                getattr(block, f"norm{index}"),
                norm_first=config.block_order == "conv-norm-act",
                frozen=frozen,
            )

        self.channels = cast("nn.Conv2d", down.conv2).out_channels
        self.first, self.second = layer(down.conv1, down, 1), layer(down.conv2, down, 2)
        self.pool = down.pool
        if up is None:
            return
        reduces = up.reduces_after_up
        self.raised = layer(up.conv0 if reduces else up.up, up, 0)
        self.up = up.up if reduces else nn.Identity()
        self.third, self.fourth = layer(up.conv1, up, 1), layer(up.conv2, up, 2)

    def rise(self, x: Tensor) -> Tensor:
        """Bring features of the next level to this one's resolution and channels; activate them."""
        if isinstance(self.up, nn.Identity):
            return cast("Tensor", self.raised(x))
        return self.raised.activate(self.up(self.raised.convolve(x)))
