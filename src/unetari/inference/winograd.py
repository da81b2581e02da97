"""`Winograd`: convolutions that are three rows high, with half of the multiplications.

A convolution makes four rows of its output from six of its input. Winograd's minimal filtering
F(4, 3) spreads the six into six others by a few additions, convolves each of them with a kernel
that is one row high, and gathers the four rows from what comes out. That takes 6 x 3
multiplications per column and pair of channels instead of 4 x 9, and in 3D 6 x 9 instead of
4 x 27. The numbers are those of the convolution; their rounding is 1.3 to 1.7 times as large.

Winograd, Arithmetic complexity of computations (1980); Lavin and Gray, Fast algorithms for
convolutional neural networks (2016), arXiv:1509.09308.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetari.inference import onednn

_GIVES, _TAKES = 4, 6
"""So many rows of the output are made from so many of the input."""
_LEAST_WORK = 64
"""Multiplications per value and row of the kernel for which the additions pay."""
LEAST_SIZE = 2**27
"""Multiplications of a whole convolution for which it pays to call several instead."""
_MOST_VALUES = 2**21
"""Values of the input that are worked on at once, so that they stay in the processor's cache."""
_A, _B = 0.75, 1.5
"""Points of the interpolation. The usual 1 and 2 save a few multiplications, and round more."""
_POINTS = (0.0, _A, -_A, _B, -_B)  # and infinity
_NEAR, _FAR, _RATIO = _A**2, _B**2, _B / _A


class Winograd:
    """Does the work of a convolution in float32, which has digits to spare for it.

    Parameters
    ----------
    layer : nn.Conv2d or nn.Conv3d
        A layer that `suits`.
    convolve : onednn.Convolution
        The same layer, for the last rows, which make no group.
    """

    def __init__(self, layer: nn.Conv2d, convolve: onednn.Convolution) -> None:
        self._layer, self._convolve = layer, convolve
        self.least_size = LEAST_SIZE
        """Multiplications of the whole convolution from which on it is divided."""

    @staticmethod
    def suits(layer: nn.Module) -> bool:
        """Whether a layer is a convolution of three rows with channels enough, and no more."""
        if not isinstance(layer, nn.Conv2d | nn.Conv3d) or layer.bias is None:
            return False
        steps = {*layer.stride, *layer.dilation, layer.groups}
        if steps != {1} or layer.padding_mode != "zeros":
            return False
        return _suits(layer.in_channels, layer.out_channels, layer.kernel_size)

    def pays(self, x: Tensor) -> bool:
        """Whether features, (N, C, [Z,] Y, X), are many enough, with channels innermost."""
        if not onednn.can_convolve(x) or x.dtype != torch.float32 or x.stride(1) != 1:
            return False
        work = x.numel() * self._layer.out_channels * prod(self._layer.kernel_size)
        return x.shape[2] >= _TAKES and work >= self.least_size

    def __call__(self, x: Tensor, rows_padded: bool) -> Tensor:
        """Convolve; `rows_padded` is whether zeros are put beyond the first and last row."""
        if rows_padded and (border := int(self._layer.padding[0])):
            x = functional.pad(x, [0] * (2 * x.ndim - 6) + [border, border])
        out = self._allocate(x)
        whole, step = out.shape[2] // _GIVES * _GIVES, _step(x.shape)
        groups = min(step, whole) // _GIVES
        spare = [torch.empty_like(x[:, :, :groups]) for _ in range(3)]
        for start in range(0, whole, step):
            stop = min(start + step, whole)
            self._compute(x[:, :, start : stop + 2], out[:, :, start:stop], spare)
        if whole < out.shape[2]:
            out[:, :, whole:] = self._convolve(x[:, :, whole:], rows_padded=False)
        return out

    def _allocate(self, x: Tensor) -> Tensor:
        """Return an array for the output."""
        sizes = [x.shape[2] - 2]
        for axis, size in enumerate(x.shape[3:], start=1):
            lost = self._layer.kernel_size[axis] - 1 - 2 * int(self._layer.padding[axis])
            sizes.append(size - lost)
        return torch.empty(
            (x.shape[0], self._layer.out_channels, *sizes),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d,
        )

    def _compute(self, x: Tensor, out: Tensor, spare: Sequence[Tensor]) -> None:
        pairs = zip(self._kernels, _spread(x, spare), strict=True)
        _assemble([convolve(rows) for convolve, rows in pairs], out)

    def forget(self) -> None:
        """Let go of the kernels; they are made anew when they are needed."""
        self.__dict__.pop("_kernels", None)

    @cached_property
    def _kernels(self) -> list[onednn.Convolution]:
        """What each of the six rows is convolved with."""
        weight, bias = self._layer.weight, cast("Tensor", self._layer.bias)
        first, middle, last = (weight[:, :, row : row + 1] for row in range(3))
        padding = [0, *(int(border) for border in self._layer.padding[1:])]
        kernels = []
        for point in _POINTS:
            others = [other for other in _POINTS if other != point]
            value = first + point * middle + point**2 * last
            kernel = value / prod(point - other for other in others)
            # Row k of a group is the sum of all, each times point**k: a bias is what that gives
            # for any k, if it is shared out as the interpolation of a value at 1.
            share = prod((1 - other) / (point - other) for other in others)
            kernels.append(onednn.Convolution(kernel, share * bias, padding))
        return [*kernels, onednn.Convolution(last, torch.zeros_like(bias), padding)]


def _suits(in_channels: int, out_channels: int, kernel: Sequence[int]) -> bool:
    rows, *others = kernel
    return rows == 3 and min(in_channels, out_channels) * prod(others) >= _LEAST_WORK


def _step(shape: Sequence[int]) -> int:
    """Return how many rows of features, (N, C, [Z,] Y, X), are worked on at once."""
    batch, channels, _, *sizes = shape
    return _GIVES * max(1, _MOST_VALUES // (_GIVES * batch * channels * prod(sizes)))


def count_extra(
    features: Sequence[int],
    found: Sequence[int],
    kernel: Sequence[int],
    *,
    pads: bool,
) -> int:
    """Count the values that the work takes, besides the convolution's input and output.

    Parameters
    ----------
    features, found : sequence of int
        Shapes of input and output, (N, C, [Z,] Y, X).
    kernel : sequence of int
        That of the convolution, ([Z,] Y, X).
    pads : bool
        Whether rows of zeros are put around the features.

    Returns
    -------
    int
        0 if the convolution is too small for `Winograd`, or of another kind.
    """
    work = prod(features) * found[1] * prod(kernel)
    is_large = work >= LEAST_SIZE and features[2] >= _TAKES
    if not is_large or not _suits(features[1], found[1], kernel):
        return 0
    groups = min(_step(features), found[2]) // _GIVES
    spread, gathered = (prod(shape) // shape[2] * groups for shape in (features, found))
    alive = 3 * spread + (_TAKES + 2) * gathered
    return alive + pads * prod(features) // features[2] * (features[2] + 2)


def _spread(x: Tensor, spare: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the six rows of every group of the input; the next group begins four rows later.

    Each is written into one of three spare arrays, and is gone when the next but one is.
    """
    r0, r1, r2, r3, r4, r5 = (x[:, :, i : x.shape[2] - 5 + i : _GIVES] for i in range(_TAKES))
    a, b, c = (each[:, :, : r0.shape[2]] for each in spare)
    yield torch.sub(r4, r2, alpha=_NEAR + _FAR, out=a).add_(r0, alpha=_NEAR * _FAR)
    for point, other in ((_A, _FAR), (_B, _NEAR)):
        torch.sub(r4, r2, alpha=other, out=a)
        torch.sub(r3, r1, alpha=other, out=b)
        yield torch.add(a, b, alpha=point, out=c)
        yield a.sub_(b, alpha=point)
    yield torch.sub(r5, r3, alpha=_NEAR + _FAR, out=b).add_(r1, alpha=_NEAR * _FAR)


def _assemble(rows: list[Tensor], out: Tensor) -> None:
    """Put four rows of every group of the output together."""
    m0, m1, m2, m3, m4, m5 = rows
    y0, y1, y2, y3 = (out[:, :, i::_GIVES] for i in range(_GIVES))
    even, odd = m1 + m2, m1.sub_(m2)
    far_even, far_odd = m3 + m4, m3.sub_(m4)
    torch.add(even, far_even, out=y0).add_(m0)
    torch.add(odd, far_odd, alpha=_RATIO, out=y1).mul_(_A)
    torch.add(even, far_even, alpha=_RATIO**2, out=y2).mul_(_A**2)
    torch.add(m5, odd.add_(far_odd, alpha=_RATIO**3), alpha=_A**3, out=y3)
