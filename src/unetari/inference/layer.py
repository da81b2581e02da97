"""`Layer`: a convolution with the activation and normalization that follow it, made lean."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unetari.inference import onednn
from unetari.inference.winograd import Winograd


class Layer(nn.Module):
    """A convolution, activation and normalization.

    Computed in two steps, so that the second can write where the result is needed:
    the call, which fills a new array, and `finish`, which works in place or into
    another array. The activation belongs to the first where it comes first. Weights
    must not change once a CPU has convolved with them.

    Parameters
    ----------
    convolution : nn.Module
        A convolution of stride 1, or a transposed one.
    activation, normalization : nn.Module
        What follows it, in evaluation mode.
    norm_first : bool
        Whether normalization comes before activation.
    frozen : bool
        Whether instance and group normalization keep statistics that they find once.
    """

    def __init__(
        self,
        convolution: nn.Module,
        activation: nn.Module,
        normalization: nn.Module,
        *,
        norm_first: bool,
        frozen: bool,
    ) -> None:
        super().__init__()
        is_batch = isinstance(normalization, _BatchNorm)
        if is_batch and norm_first:
            transposed = isinstance(convolution, nn.ConvTranspose2d | nn.ConvTranspose3d)
            convolution = fuse_conv_bn_eval(
                cast("nn.Conv2d", convolution), cast("nn.BatchNorm2d", normalization), transposed
            )
            normalization = nn.Identity()
        elif is_batch:
            normalization = _Affine(cast("_BatchNorm", normalization))
        elif frozen and isinstance(normalization, _InstanceNorm | nn.GroupNorm):
            normalization = Frozen(normalization)
        activation.inplace = True  # type: ignore[assignment]
        self.convolution, self.activation, self.normalization = (
            convolution,
            activation,
            normalization,
        )
        self._activates_first = not norm_first or isinstance(normalization, nn.Identity)
        self._fused = onednn.find_activation(activation) if self._activates_first else None

    def forward(self, x: Tensor, rows_padded: bool = True) -> Tensor:
        """Compute the first step, of features (N, C, [Z,] Y, X).

        `rows_padded` is whether zeros are put beyond the first and last row, as the
        convolution does by itself; they can be part of `x` instead.
        """
        if self.winograd is not None and self.winograd.pays(x):
            return self.activate(self.winograd(x, rows_padded))
        if self._fused is not None and onednn.can_convolve(x):
            return self._by_onednn(x, rows_padded=rows_padded, activation=self._fused)
        return self.activate(self.convolve(x, rows_padded))

    def convolve(self, x: Tensor, rows_padded: bool = True) -> Tensor:
        """Compute the convolution alone."""
        if onednn.can_convolve(x):
            return self._by_onednn(x, rows_padded=rows_padded)
        if rows_padded:
            return cast("Tensor", self.convolution(x))
        convolution = cast("nn.Conv2d", self.convolution)
        padding = [0, *convolution.padding[1:]]
        compute = functional.conv2d if x.ndim == 4 else functional.conv3d
        return compute(x, convolution.weight, convolution.bias, padding=padding)

    @cached_property
    def _by_onednn(self) -> onednn.Convolution:
        return onednn.Convolution.of(cast("nn.Conv2d", self.convolution))

    @cached_property
    def winograd(self) -> Winograd | None:
        """What does the work of large convolutions on a CPU, if that pays."""
        if not Winograd.suits(self.convolution):
            return None
        return Winograd(cast("nn.Conv2d", self.convolution), self._by_onednn)

    def forget(self) -> None:
        """Let go of kernels in other orders; they are made anew when they are needed."""
        for name in ("_by_onednn", "winograd"):
            self.__dict__.pop(name, None)

    def activate(self, x: Tensor) -> Tensor:
        """Activate what the convolution gave, in place, if that comes first."""
        return cast("Tensor", self.activation(x)) if self._activates_first else x

    def finish(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute the second step, in place where possible, or into an array of x's shape.

        `x` is used up in both cases.
        """
        if isinstance(self.normalization, _PerChannel) and self._activates_first:
            return cast("Tensor", self.normalization(x, out))
        x = self.normalization(x)
        if not self._activates_first:
            x = self.activation(x)
        return x if out is None else out.copy_(x)

    @property
    def frozen(self) -> Frozen | None:
        """The normalization, if it keeps the statistics that it finds."""
        return self.normalization if isinstance(self.normalization, Frozen) else None

    @property
    def halts(self) -> bool:
        """Whether no features get past it, because its statistics are still to be gathered."""
        return self.frozen is not None and self.frozen.state in ("waits", "gathers")

    def gathers(self, x: Tensor) -> bool:
        """Take statistics from what `finish` would get, if that is all it is for."""
        if self.frozen is None or self.frozen.state != "gathers":
            return False
        self.frozen.add(x)
        return True


class _PerChannel(nn.Module):
    """A factor and a summand per channel."""

    scale: Tensor
    shift: Tensor

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        if (
            x.device.type == "cpu"
            and x.element_size() == 2
            and x.stride(1) == 1
            and x.shape[1] < 32
        ):
            # torch takes ten times as long with so few factors in 16 bits. With factors for all
            # of a row it does not, if the array is dense.
            row = x[:1, :, :1] if x.ndim == 4 else x[:1, :, :1, :1]
            scale, shift = (torch.empty_like(row).copy_(v) for v in (self.scale, self.shift))
            torch.addcmul(shift, x, scale, out=x)
            return x if out is None else out.copy_(x)
        return torch.addcmul(self.shift, x, self.scale, out=x if out is None else out)


class _Affine(_PerChannel):
    """Batch normalization with its own statistics."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
        scale = norm.weight.detach() / torch.sqrt(variance + norm.eps)
        shift = norm.bias.detach() - mean * scale
        axes = [1, -1] + [1] * (2 if isinstance(norm, nn.BatchNorm2d) else 3)
        self.register_buffer("scale", scale.view(axes))
        self.register_buffer("shift", shift.view(axes))


class Frozen(_PerChannel):
    """Normalization by statistics that are found once, and kept.

    Mean and variance are those of all images of a batch taken together, and of all
    pieces in which an image comes. They are put together in float64, by the pairwise
    update of Chan, Golub and LeVeque (1983).
    """

    def __init__(self, norm: _InstanceNorm | nn.GroupNorm) -> None:
        super().__init__()
        self._norm = norm
        self.begin("learns")

    def begin(self, state: Literal["learns", "waits", "gathers"]) -> None:
        """Forget the statistics; they come from the next batch, later, or from all pieces."""
        self.state: Literal["learns", "waits", "gathers", "knows"] = state
        self._count = 0
        self._mean = self._squares = torch.zeros((), dtype=torch.float64, device="cpu")

    def add(self, x: Tensor) -> None:
        """Take in features, (N, C, [Z,] Y, X)."""
        axes = (0, *range(2, x.ndim))
        moments = torch.var_mean(x.float(), dim=axes, correction=0)
        variance, mean = (moment.cpu().double() for moment in moments)
        count = x.numel() // x.shape[1]
        total = self._count + count
        shift = mean - self._mean
        self._mean = self._mean + shift * (count / total)
        self._squares = (
            self._squares + variance * count + shift.square() * (self._count / total * count)
        )
        self._count = total
        self.scale = x.new_empty((1, x.shape[1], *[1] * (x.ndim - 2)))

    def settle(self) -> None:
        """Keep what was found."""
        norm, channels = self._norm, len(self._mean)
        groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else channels
        means = self._mean.view(groups, -1)
        mean = means.mean(dim=1, keepdim=True)
        variance = (self._squares.view(groups, -1) / self._count + (means - mean).square()).mean(
            dim=1, keepdim=True
        )
        scale = torch.rsqrt(variance + norm.eps).expand_as(means).flatten()
        shift = -mean.expand_as(means).flatten() * scale
        if norm.weight is not None:
            weight, bias = (each.detach().cpu().double() for each in (norm.weight, norm.bias))
            scale, shift = scale * weight, shift * weight + bias
        like = self.scale
        self.scale, self.shift = scale.view_as(like).to(like), shift.view_as(like).to(like)
        self.state = "knows"

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Normalize features in place, or into another array."""
        if self.state == "learns":
            self.add(x)
            self.settle()
        return super().forward(x, out)
