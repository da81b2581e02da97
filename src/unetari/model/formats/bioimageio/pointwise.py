"""Steps of pre- and postprocessing that look at one voxel at a time, so that tiles do not matter.

Tensors are (N, C, [Z,] Y, X), float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetari.model.formats.bioimageio.axes import Layout


class Linear(nn.Module):
    """Multiply with `gain` and add `offset`: one number each, or one per channel."""

    gain: Tensor
    offset: Tensor

    def __init__(self, gain: Sequence[float], offset: Sequence[float], dim: int) -> None:
        super().__init__()
        shape = (1, -1, *[1] * dim)
        self.register_buffer("gain", torch.tensor(gain, dtype=torch.float32).reshape(shape))
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return gain * x + offset."""
        return x * self.gain + self.offset


class Clip(nn.Module):
    """Limit values."""

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self._low, self._high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Return what lies beyond a limit as the limit."""
        return x.clamp(self._low, self._high)


class Threshold(nn.Module):
    """1 where values exceed a threshold, one number or one per channel, and 0 elsewhere."""

    threshold: Tensor

    def __init__(self, threshold: Sequence[float], dim: int) -> None:
        super().__init__()
        shape = (1, -1, *[1] * dim)
        values = torch.tensor(threshold, dtype=torch.float32).reshape(shape)
        self.register_buffer("threshold", values)

    def forward(self, x: Tensor) -> Tensor:
        """Return 0 and 1."""
        return (x > self.threshold).to(x.dtype)


class Packaged(nn.Module):
    """A network with the axes that its package gives it, and what comes before and after it.

    Parameters
    ----------
    network : nn.Module
        Takes and gives tensors with the axes of the package.
    given, made : Layout
        Axes of what it takes and gives.
    before, after : sequence of nn.Module
        Pointwise steps.
    """

    def __init__(
        self,
        network: nn.Module,
        given: Layout,
        made: Layout,
        before: Sequence[nn.Module] = (),
        after: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.before = nn.Sequential(*before)
        self.after = nn.Sequential(*after)
        self._given, self._made = given, made

    def forward(self, x: Tensor) -> Tensor:
        """Compute (1, classes, [Z,] Y, X) from (1, C, [Z,] Y, X)."""
        scores = self.network(to_package(self.before(x), self._given))
        plain: Tensor = self.after(from_package(scores, self._made))
        return plain


def to_package(image: Tensor, layout: Layout) -> Tensor:
    """Bring (1, C, [Z,] Y, X) into the order of a package's axes."""
    ours = "nc" + layout.space
    kept = [letter for letter in layout.letters if letter != "1"]
    dropped = [axis for axis, letter in enumerate(ours) if letter not in kept]
    image = image.squeeze(dropped) if dropped else image
    left = [letter for letter in ours if letter in kept]
    image = image.permute([left.index(letter) for letter in kept])
    for axis, letter in enumerate(layout.letters):
        if letter == "1":
            image = image.unsqueeze(axis)
    return image


def from_package(scores: Tensor, layout: Layout) -> Tensor:
    """Bring a tensor with the axes of a package into (1, C, [Z,] Y, X)."""
    if not isinstance(scores, Tensor) or scores.ndim != len(layout.letters):
        return scores  # what a foreign network gives; the caller's checks say what is wrong
    extra = [axis for axis, letter in enumerate(layout.letters) if letter == "1"]
    scores = scores.squeeze(extra) if extra else scores
    kept = [letter for letter in layout.letters if letter != "1"]
    ours = "nc" + layout.space
    scores = scores.permute([kept.index(letter) for letter in ours if letter in kept])
    for axis, letter in enumerate(ours):
        if letter not in kept:
            scores = scores.unsqueeze(axis)
    return scores
