"""`LeanUNet`: the same numbers as a `UNet`, in less time and memory.

- Activation and batch normalization work in place; where normalization comes
  before activation, batch normalization is part of the convolution's weights.
- The encoder's features are kept in the very array in which the decoder joins
  them with its own, and only as much of them as it needs.
- The decoder computes the voxels that the wanted part of the output depends on,
  and no others: less on every level (`unetari.core.stencils.plan_decoder`).
- Interpolation comes after the 1x1 convolution instead of before it: the two
  commute, because an interpolation's weights add up to 1.
- Channels are innermost in memory, which CPUs and tensor cores prefer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unetari.core.sizes import axis_levels, valid_output_size
from unetari.core.stencils import DecoderPlan, plan_decoder
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
        images given to `freeze`, instead of from each input.
    """

    def __init__(self, network: UNet, *, frozen: bool = False) -> None:
        super().__init__()
        self.config = network.config
        self.tiles_exactly = frozen or self.config.tiles_exactly
        """Whether a part of the output depends on its surroundings only."""
        # Normalization by statistics of the input gains nothing from it, and is slow in 3D.
        last = _CHANNELS_LAST[self.config.dim]
        self._format = last if self.tiles_exactly else torch.contiguous_format
        lean = copy.deepcopy(network)
        for block in (*lean.down_blocks, *lean.up_blocks):
            _make_lean(block, norm_first=self.config.block_order == "conv-norm-act", frozen=frozen)
        self.network: UNet = lean.to(memory_format=self._format)  # type: ignore[call-overload]

    def freeze(self, images: Tensor) -> None:
        """Take the statistics of instance and group normalization from a batch, as if of one image.

        Parameters
        ----------
        images : Tensor
            (N, C, [Z,] Y, X), of a size that fits the network.
        """
        for module in self.modules():
            if isinstance(module, _Freezing):
                module.scale = module.shift = None
        self(images)

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
        network = self.network
        plans = self._plan(x.shape[2:], part)
        down_blocks = cast("list[DownBlock]", list(network.down_blocks))
        joined: list[Tensor] = []
        x = x.contiguous(memory_format=self._format)
        for level, down in enumerate(down_blocks[:-1]):
            x = down.convolve(x)
            joined.append(self._keep(cut(x, [plan.steps[level].skip for plan in plans])))
            x = down.pool(x)
        x = cut(down_blocks[-1].convolve(x), [plan.deepest for plan in plans])
        for up in cast("list[UpBlock]", list(network.up_blocks)):
            steps = [plan.steps[len(joined) - 1] for plan in plans]
            join = joined.pop()
            raised = up.follow(_raise(up, x), up.act0, up.norm0)
            join[:, : raised.shape[1]].copy_(cut(raised, [step.up for step in steps]))
            x = join
            del raised, join  # so that the next line frees the largest array of the pass
            x = up.follow(up.conv1(x), up.act1, up.norm1)
            x = up.follow(up.conv2(x), up.act2, up.norm2)
            x = cut(x, [step.result for step in steps])
        scores: Tensor = network.conv_final(x)
        return scores if part is None or self.tiles_exactly else cut(scores, part)

    def _plan(self, sizes: Sequence[int], part: Sequence[slice] | None) -> list[DecoderPlan]:
        config, axes = self.config, range(-self.config.dim, 0)
        if part is None or not self.tiles_exactly:
            outputs = zip(sizes, axes, strict=True)
            part = [slice(0, valid_output_size(size, config, axis)) for size, axis in outputs]
        return [
            plan_decoder(axis_levels(config, axis), size, wanted, valid=config.conv_mode == "valid")
            for axis, size, wanted in zip(axes, sizes, part, strict=True)
        ]

    def _keep(self, skip: Tensor) -> Tensor:
        """Return an array that ends with these features and has room for as many before them."""
        batch, channels, *sizes = skip.shape
        join = torch.empty(
            (batch, 2 * channels, *sizes),
            dtype=skip.dtype,
            device=skip.device,
            memory_format=self._format,
        )
        join[:, channels:].copy_(skip)
        return join


def cut(x: Tensor, part: Sequence[slice]) -> Tensor:
    """Return a part of an array, one slice per spatial axis."""
    return x[(slice(None), slice(None), *part)]


def _raise(block: UpBlock, x: Tensor) -> Tensor:
    """Bring the features of the next level to the resolution of a block, and to its channels."""
    raised: Tensor = block.up(block.conv0(x) if block.reduces_after_up else x)
    return raised


def _make_lean(block: nn.Module, *, norm_first: bool, frozen: bool) -> None:
    for index in (0, 1, 2):
        norm = getattr(block, f"norm{index}", None)
        if norm is None:  # down blocks begin with 1
            continue
        act = getattr(block, f"act{index}")
        act.inplace = True
        if frozen and isinstance(norm, _InstanceNorm | nn.GroupNorm):
            setattr(block, f"norm{index}", _Freezing(norm))
        if not isinstance(norm, _BatchNorm):
            continue
        if norm_first:
            name = f"conv{index}"
            if index == 0 and not getattr(block, "reduces_after_up", False):
                name = "up"
            convolution = getattr(block, name)
            fused = fuse_conv_bn_eval(convolution, norm, transpose=name == "up")
            setattr(block, name, fused)
            setattr(block, f"norm{index}", nn.Identity())
        else:
            setattr(block, f"norm{index}", _Affine(norm))


class _Affine(nn.Module):
    """Batch normalization with its own statistics, in place."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
        scale = norm.weight.detach() / torch.sqrt(variance + norm.eps)
        shift = norm.bias.detach() - mean * scale
        axes = [1, -1] + [1] * (2 if isinstance(norm, nn.BatchNorm2d) else 3)
        self.register_buffer("scale", scale.view(axes))
        self.register_buffer("shift", shift.view(axes))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale, out=x)


class _Freezing(nn.Module):
    """Normalization by the statistics of the first batch it sees, its images taken together."""

    def __init__(self, norm: _InstanceNorm | nn.GroupNorm) -> None:
        super().__init__()
        self._norm = norm
        self.scale: Tensor | None = None
        self.shift: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None or self.shift is None:
            self.scale, self.shift = self._find(x)
        return torch.addcmul(self.shift, x, self.scale, out=x)

    def _find(self, x: Tensor) -> tuple[Tensor, Tensor]:
        norm, channels = self._norm, x.shape[1]
        groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else channels
        values = x.transpose(0, 1).reshape(groups, -1).float()
        variance, mean = torch.var_mean(values, dim=1, correction=0)
        scale = torch.rsqrt(variance + norm.eps).repeat_interleave(channels // groups)
        shift = -mean.repeat_interleave(channels // groups) * scale
        if norm.weight is not None:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        axes = [1, -1] + [1] * (x.ndim - 2)
        return scale.view(axes).to(x.dtype), shift.view(axes).to(x.dtype)
