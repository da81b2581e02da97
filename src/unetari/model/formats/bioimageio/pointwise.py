"""Steps of pre- and postprocessing that look at one voxel at a time, so that tiles do not matter.

Tensors are (N, C, [Z,] Y, X), float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unetari.errors import ModelFileError
from unetari.model.formats.bioimageio.axes import Layout
from unetari.model.formats.onnx_steps import GraphBuilder
from unetari.model.formats.wrappers import Wrapper, onnx_graph, plain_module

_FLOAT = 1  # float32, in ONNX


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
        self.limits = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Return what lies beyond a limit as the limit."""
        return x.clamp(*self.limits)


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


class Packaged(Wrapper):
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

    @property
    def is_bare(self) -> bool:
        """Whether the network has our axes, and nothing comes before or after it."""
        plain = all(layout.letters == "nc" + layout.space for layout in (self._given, self._made))
        return plain and not len(self.before) and not len(self.after)

    def unwrapped(self) -> nn.Module:
        """Return the network, with the steps around it where there are any."""
        network = plain_module(self.network)
        if self.is_bare:
            return network
        return Packaged(
            network, self._given, self._made, list(self.before), list(self.after)
        ).eval()

    def onnx_graph(self) -> Any | None:
        """Return the graph with the steps around it."""
        model = onnx_graph(self.network)
        if model is None or self.is_bare:
            return model
        builder = GraphBuilder(model)
        given, made = self._given, self._made
        ours_in, ours_out = "nc" + given.space, "nc" + made.space
        image = builder.value_like(
            "unetari.image", ours_in, builder.given, given.letters, given.channels
        )
        scores = builder.value_like(
            "unetari.scores", ours_out, builder.made, made.letters, made.channels
        )
        value = _add_steps(builder, image.name, self.before)
        value = builder.reorder(value, ours_in, given.letters)
        entry = builder.cast(value, image, builder.given)
        before = list(builder.nodes)
        value = builder.cast(builder.made.name, builder.made, scores)
        value = builder.reorder(value, made.letters, ours_out)
        leave = _add_steps(builder, value, self.after)
        return builder.finish(image, scores, before, (entry, leave))

    def forward(self, x: Tensor) -> Tensor:
        """Compute (1, classes, [Z,] Y, X) from (1, C, [Z,] Y, X)."""
        scores = self.network(to_package(self.before(x), self._given))
        plain: Tensor = self.after(from_package(scores, self._made))
        return plain


def _add_steps(builder: GraphBuilder, value: str, steps: Iterable[nn.Module]) -> str:
    """Add pointwise steps to a graph; return the name of the result."""
    for step in steps:
        if isinstance(step, Linear):
            scaled = builder.add("Mul", value, builder.constant(step.gain.numpy()))
            value = builder.add("Add", scaled, builder.constant(step.offset.numpy()))
        elif isinstance(step, Clip):
            limits = ("" if end is None else builder.constant(end) for end in step.limits)
            value = builder.add("Clip", value, *limits)
        elif isinstance(step, Threshold):
            above = builder.add("Greater", value, builder.constant(step.threshold.numpy()))
            value = builder.add("Cast", above, to=_FLOAT)
        elif isinstance(step, nn.Sigmoid):
            value = builder.add("Sigmoid", value)
        elif isinstance(step, nn.Softmax):
            value = builder.add("Softmax", value, axis=1)
        else:
            raise ModelFileError(
                f"Its step {type(step).__name__} cannot be written into an ONNX graph. Keep the "
                "package."
            )
    return value


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
