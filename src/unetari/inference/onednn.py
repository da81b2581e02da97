"""`Convolution`: a convolution by oneDNN, with the activation that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn


class Activation(NamedTuple):
    """What oneDNN can compute within a convolution, by its name there."""

    name: str
    scalars: tuple[float, ...] = ()


_NONE = Activation("none")


def find_activation(module: nn.Module) -> Activation | None:
    """Return what oneDNN calls an activation, None if it does not know it."""
    if isinstance(module, nn.ReLU):
        return Activation("relu")
    if isinstance(module, nn.LeakyReLU):
        return Activation("leaky_relu", (module.negative_slope,))
    return None


def can_convolve(x: Tensor) -> bool:
    """Whether oneDNN convolves an array on this device in its format."""
    return x.device.type == "cpu" and x.dtype in _find_dtypes()


@cache
def _find_dtypes() -> tuple[torch.dtype, ...]:
    """Return what oneDNN convolves on this CPU; torch can be built without it."""
    operators = torch.ops.mkldnn
    if not hasattr(operators, "_convolution_transpose_pointwise"):
        return ()
    if not operators._is_mkldnn_bf16_supported():
        return (torch.float32,)
    return (torch.float32, torch.bfloat16)


class Convolution:
    """Convolves; torch itself takes slower ways in some cases.

    The kernel of an ordinary convolution is brought into the order that oneDNN works with
    when the first features come with channels innermost, and not again for every strip: it
    must not change any more. (With channels outermost, the order would be one that rounds more.)

    Parameters
    ----------
    weight, bias : Tensor
        Kernel, (out, in, [Z,] Y, X), or (in, out, ...) of a transposed convolution.
    padding : sequence of int
        Zeros around the features, ([Z,] Y, X).
    stride : sequence of int, optional
        Of a transposed convolution, and no other, all others have 1.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        padding: Sequence[int],
        stride: Sequence[int] | None = None,
    ) -> None:
        self._weight, self._bias = weight, bias
        self._padding, self._stride = tuple(padding), stride
        self._is_ready = False

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Convolution:
        """Take over from a layer, which may be 3D or transposed, too."""
        padding = [int(border) for border in layer.padding]
        stride = layer.stride if layer.transposed else None
        return cls(layer.weight, cast("Tensor", layer.bias), padding, stride)

    def __call__(
        self, x: Tensor, *, rows_padded: bool = True, activation: Activation | None = None
    ) -> Tensor:
        """Convolve (N, C, [Z,] Y, X) and activate; rows may bring their padding along."""
        name, scalars = activation or _NONE
        rows, *others = self._padding
        padding, ones = [rows if rows_padded else 0, *others], [1] * len(self._padding)
        if not self._is_ready and self._stride is None and x.stride(1) == 1:
            self._prepare(x)
        result: Tensor
        if self._stride is None:
            result = torch.ops.mkldnn._convolution_pointwise(
                x, self._weight, self._bias, padding, ones, ones, 1, name, scalars, ""
            )
        else:
            result = torch.ops.mkldnn._convolution_transpose_pointwise(
                x, self._weight, self._bias, padding, [0] * len(ones), self._stride, ones, 1,
                name, scalars, "",
            )  # fmt: skip
        return result

    def _prepare(self, x: Tensor) -> None:
        ones = [1] * len(self._padding)
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            self._weight, self._padding, ones, ones, 1, x.shape
        )
        self._is_ready = True
