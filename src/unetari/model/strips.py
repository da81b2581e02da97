"""A network that is only a callable, and images that are long on one axis, to measure it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from threading import Lock

import torch
from torch import Tensor

from unetari.errors import Cancelled, NetworkError

MAX_VOXELS = 2_000_000
"""Largest image to measure with, in voxels."""

LOUD = 100.0
"""Amplitude of noise that wakes units which rest at usual values."""

PATCH = 8
"""Voxels that differ from their surroundings."""

TOLERANCE = 1e-4
"""What tiles may differ by, as a share of the spread of the scores, and still count as equal."""

_ROUNDING = 3e-6  # of the largest score: what float32 makes of another order of additions
_SWITCH = Lock()
_USUAL_SIZES = (8, 16, 32, 64, 128)
_LARGEST_SIZE = 256  # the search for sizes of any kind ends here
_LARGEST_IMAGE = 2**26  # values of one image
_MOST_VALUES = 2**27  # of all images together that are tried to find a size that is taken
_FIXED_SIZES = (384, 512, 1024)  # usual among networks of one size


class Blackbox:
    """A network that is only a callable; it may refuse sizes by raising anything."""

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        dim: int,
        in_channels: int,
        seed: int = 0,
        max_voxels: int = MAX_VOXELS,
    ) -> None:
        self._forward = forward
        self._seed = seed
        self.max_voxels = max_voxels
        self.dim = dim
        self.in_channels = in_channels
        self.axes = "ZYX"[-dim:]
        self.out_channels = 0
        self.jitter = 0.0
        """Largest difference between two runs on the same image."""
        self.refusal = "it took no image"
        """Why the last image was not taken."""

    def allows(self, shape: Sequence[int]) -> bool:
        """Whether an image of this shape, ([Z,] Y, X), is within the limit of voxels."""
        return prod(shape) <= self.max_voxels

    def noise(self, shape: Sequence[int], salt: int = 0, amplitude: float = 1.0) -> Tensor:
        """Return normally distributed values, (1, C, [Z,] Y, X), the same for the same salt."""
        generator = torch.Generator().manual_seed(self._seed * 1000 + salt)
        return amplitude * torch.randn((1, self.in_channels, *shape), generator=generator)

    def scores(self, image: Tensor) -> Tensor | None:
        """Return the scores of an image, (classes, [Z,] Y, X), or None if it is not taken.

        Raises
        ------
        NetworkError
            If what the network returns are no scores of one image.
        """
        if not self.allows(image.shape[2:]):
            self.refusal = f"more than {self.max_voxels:,} voxels are not tried"
            return None
        try:
            with torch.no_grad():
                output = self._forward(image.clone())
        except (Cancelled, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 -- each runtime refuses with types of its own
            self.refusal = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return None
        scores = self._checked(output)
        if not scores.numel():
            self.refusal = f"the output is empty, of shape {tuple(scores.shape)}"
            return None
        return scores

    def _checked(self, output: object) -> Tensor:
        if not isinstance(output, Tensor):
            raise NetworkError(
                f"The network returns a {type(output).__name__}, and one tensor of scores is "
                "needed. Wrap it so that it returns the scores alone."
            )
        if output.layout != torch.strided:
            raise NetworkError(
                f"The network returns a tensor of layout {output.layout}, and an ordinary one is "
                "needed. Wrap it so that it returns its scores as such (to_dense)."
            )
        if not output.is_floating_point():
            raise NetworkError(
                f"The network returns {output.dtype} values, and floating-point scores are "
                "needed, one channel per class. Remove the step that turns scores into labels."
            )
        if output.ndim != self.dim + 2 or output.shape[0] != 1 or output.shape[1] < 1:
            axes = ", ".join(self.axes)
            raise NetworkError(
                f"The network returns shape {tuple(output.shape)}, and (1, classes, {axes}) is "
                "needed. Check the number of dimensions, or wrap the network to reorder its axes."
            )
        channels = output.shape[1]
        if self.out_channels not in (0, channels):
            raise NetworkError(
                f"The network returns {channels} channels for one size and {self.out_channels} "
                "for another. One channel per class is needed."
            )
        self.out_channels = channels
        return output[0].float()

    def check_repeatable(self, shape: Sequence[int]) -> None:
        """Raise NetworkError unless the scores are finite and the same for the same image."""
        image = self.noise(shape)
        first, second = self.scores(image), self.scores(image)
        if first is None or second is None or not torch.isfinite(first).all():
            raise NetworkError(
                f"The network returns values that are NaN or infinite for random numbers of size "
                f"{tuple(shape)}. The training diverged, or the file is damaged."
            )
        self.jitter = float((first - second).abs().max())
        if not self.jitter <= 1e-5 * float(first.abs().max()):
            raise NetworkError(
                f"The network returns other values when it is run again: {self.jitter:.2g} apart. "
                "Switch dropout and the like off (evaluation mode) before saving it."
            )


def find_shape(network: Blackbox, example: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return a small shape, ([Z,] Y, X), that a network takes.

    Raises
    ------
    NetworkError
        If none was found.
    """
    cubes = [(size,) * network.dim for size in _USUAL_SIZES]
    others = sorted(range(1, _LARGEST_SIZE + 1), key=lambda size: (size % 4 > 0, size))
    others += _FIXED_SIZES
    cubes += [(size,) * network.dim for size in others if size not in _USUAL_SIZES]
    if example is not None:
        cubes.insert(len(_USUAL_SIZES), tuple(example))
    left = _MOST_VALUES
    for shape in filter(network.allows, cubes):
        values = prod(shape) * network.in_channels
        left -= values
        if left < 0 or values > _LARGEST_IMAGE:
            break
        if network.scores(network.noise(shape)) is not None:
            return shape
    largest = max(shape for shape in cubes if network.allows(shape))
    raise NetworkError(
        f"The network took none of the sizes up to {' x '.join(map(str, largest))} along "
        f"{', '.join(network.axes)}, with {network.in_channels} channels. It said: "
        f"{network.refusal}. Check the number of dimensions and channels, or name a size "
        "that it takes."
    )


def _narrow(network: Blackbox, shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """Return a shape that the network takes, as small as possible on all axes but one."""
    for size in range(_USUAL_SIZES[0], max(shape), 4):
        smaller = [other if at == axis else min(size, other) for at, other in enumerate(shape)]
        if network.scores(network.noise(smaller)) is not None:
            return tuple(smaller)
    return tuple(shape)


class Strip:
    """One axis of a network: images of any length on this axis, and of a fixed size on the others.

    Images and outputs have the axis last: (C, others, length) and (features, length).
    """

    def __init__(self, network: Blackbox, shape: Sequence[int], axis: int) -> None:
        self.network = network
        self.name = network.axes[axis]
        self.usual = shape[axis]
        self.shape = _narrow(network, shape, axis)
        self._axis = axis + 1
        self._others = [size for at, size in enumerate(self.shape) if at != axis]
        self._outputs: dict[int, int | None] = {}

    def allows(self, size: int) -> bool:
        """Whether an image of this size is within the limit of voxels."""
        return self.network.allows((size, *self._others))

    def zeros(self, size: int) -> Tensor:
        """Return an image of zeros."""
        return torch.zeros((self.network.in_channels, *self._others, size))

    def noise(self, size: int, salt: int = 0, amplitude: float = 1.0) -> Tensor:
        """Return an image of normally distributed values, the same for the same salt."""
        return self.network.noise((*self._others, size), salt, amplitude)[0]

    def run(self, image: Tensor) -> Tensor:
        """Return the scores of an image whose size is taken, (features, length)."""
        scores = self._scores(image)
        if scores is None:
            raise NetworkError(
                f"The network takes size {image.shape[-1]} along {self.name} for some images and "
                f"not for others. It said: {self.network.refusal}."
            )
        return scores

    def run_plainly(self, image: Tensor) -> Tensor:
        """Return the scores as `run` does, by kernels that do not spread NaN between voxels."""
        with _plain_kernels():
            return self.run(image)

    def _scores(self, image: Tensor) -> Tensor | None:
        scores = self.network.scores(image.movedim(-1, self._axis)[None])
        return None if scores is None else scores.movedim(self._axis, -1).flatten(0, -2)

    def output(self, size: int) -> int | None:
        """Return the size of the output for a size, None if the size is not taken."""
        if size not in self._outputs:
            scores = self._scores(self.noise(size))
            self._outputs[size] = None if scores is None else scores.shape[-1]
        return self._outputs[size]

    def lost(self, size: int) -> int | None:
        """Return how much smaller the output is than the input, None if the size is not taken."""
        output = self.output(size)
        return None if output is None else size - output

    def above(self, size: int) -> int | None:
        """Return a size that is taken, at least `size` and not much larger, None if none is."""
        likely = [self.usual - (self.usual - size) // step * step for step in (64, 96)]
        sizes = (*likely, *range(size, size + 129))
        return next((s for s in sizes if s >= size and self.output(s)), None)

    def lengths(self, first: int, last: int) -> Iterator[int]:
        """Yield sizes that are taken, each about twice the one before; one if there is only one."""
        wanted, previous = first, 0
        while wanted <= last and (size := self.above(wanted)):
            if size > previous:
                yield size
            wanted, previous = 2 * wanted, size
        if not previous:
            yield self.usual


def swing(scores: Tensor) -> Tensor:
    """Return how far scores, (features, length), lie from their mean along the axis."""
    return (scores - scores.mean(dim=1, keepdim=True)).abs().max()


def rounding(scores: Tensor) -> Tensor:
    """Return the error that float32 may leave in scores."""
    return _ROUNDING * scores.abs().max()


def tolerated(scores: Tensor, share: float = TOLERANCE / 10) -> Tensor:
    """Return how much scores may differ and still count as equal: a share of their swing."""
    return share * swing(scores) + rounding(scores)


@contextmanager
def _plain_kernels() -> Iterator[None]:
    # oneDNN may compute several voxels together, where a NaN in one reaches the others. The
    # switch is one for the process: a second probe that ran meanwhile would leave it off.
    mkldnn = torch.backends.mkldnn
    with _SWITCH:
        before = mkldnn.enabled
        mkldnn.enabled = False  # type: ignore[assignment]  # a property, declared as its class
        try:
            yield
        finally:
            mkldnn.enabled = before
