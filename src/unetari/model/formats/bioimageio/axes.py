"""The axes of a package's tensors: in which order, how large, and how far they reach."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from unetari.core.sizes import Reach, SizeRule, round_up
from unetari.errors import ModelFileError
from unetari.model.formats.bioimageio.description import Axis, Tensor

_SPACE = "zyx"
_TO_MICROMETER = {
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
}


@dataclass(frozen=True)
class Layout:
    """Where a tensor has its axes, in terms of (N, C, [Z,] Y, X)."""

    letters: str
    """One letter per axis: n, c, z, y, x; "1" for an axis of size 1 that means nothing to us."""
    channels: int
    """Number of channels, 1 without an axis for them."""

    @property
    def space(self) -> str:
        """The spatial axes in our order."""
        return "".join(letter for letter in _SPACE if letter in self.letters)


def find_layout(tensor: Tensor) -> Layout:
    """Return the order of a tensor's axes.

    Raises
    ------
    ModelFileError
        If it is no image or volume with channels.
    """
    letters = "".join(_letter(axis, tensor) for axis in tensor.axes)
    layout = Layout(letters, tensor.channels.smallest if tensor.channels else 1)
    if layout.space not in ("yx", "zyx"):
        raise ModelFileError(
            f"Its tensor {tensor.id!r} has the spatial axes {layout.space or 'none'!r}, and y, x "
            "or z, y, x are needed. Choose a model that segments images or volumes."
        )
    return layout


def _letter(axis: Axis, tensor: Tensor) -> str:
    if axis.type == "batch":
        return "n"
    if axis.type == "channel" and axis is tensor.channels:
        return "c"
    if axis.type == "space" and axis.id in _SPACE:
        return axis.id
    if axis.smallest == 1 and axis.step is None and axis.follows is None:
        return "1"
    raise ModelFileError(
        f"Its tensor {tensor.id!r} has an axis {axis.id!r} of type {axis.type}, and unetari gives "
        "a network one image at a time: batch, channel, z, y and x. Choose another model."
    )


def declared_reaches(given: Tensor, made: Tensor) -> tuple[Reach, ...]:
    """Return sizes and surroundings per axis, ([z,] y, x), as the description states them.

    Raises
    ------
    ModelFileError
        If the output does not lie on the image.
    """
    inputs = {axis.id: axis for axis in given.axes}
    outputs = {axis.id: axis for axis in made.axes}
    names = find_layout(given).space
    if find_layout(made).space != names:
        raise ModelFileError(
            f"It takes the axes {names} and gives {find_layout(made).space}: its output does not "
            "lie on the image. Choose a model that gives scores for every voxel."
        )
    return tuple(_reach(inputs[name], outputs[name], given) for name in names)


def _reach(given: Axis, made: Axis, tensor: Tensor) -> Reach:
    source = _independent(given, tensor)
    smallest = source.smallest + (given.offset if given.follows else 0)
    step = source.step or 1
    largest = None if source.step else smallest
    loss = _loss(given, made, smallest, tensor)
    halo = made.halo
    if smallest < 1 or smallest - 2 * loss < 1:
        raise ModelFileError(f"Its sizes along {given.id!r} leave nothing of the image.")
    rule = SizeRule(step, smallest, loss)
    if loss:
        return Reach(rule, 0, halo, largest)
    return Reach(rule, round_up(halo, step), 0, largest)


def _independent(axis: Axis, tensor: Tensor) -> Axis:
    """Return the axis whose size an axis has, which is itself if it has one of its own."""
    if axis.follows is None:
        return axis
    found = next((other for other in tensor.axes if other.id == axis.follows[1]), None)
    if found is None or found.follows or found.scale != axis.scale:
        raise ModelFileError(
            f"The size of its axis {axis.id!r} follows {'.'.join(axis.follows)}, which is no axis "
            "of the image at the same scale. Ask its author to correct the description."
        )
    return found


def _loss(given: Axis, made: Axis, smallest: int, tensor: Tensor) -> int:
    """Return the voxels that the output loses per side."""
    if made.follows is None:
        less = smallest - made.smallest
    elif made.follows[1] != given.id and not _same_size(given, made.follows[1], tensor):
        raise _elsewhere(given, f"follows {'.'.join(made.follows)}")
    elif made.scale != given.scale:
        factor = given.scale / made.scale
        raise _elsewhere(given, f"has {factor:g} times the resolution of the image")
    else:
        less = -made.offset
    if less < 0 or less % 2:
        change = f"{abs(less)} voxels {'more' if less < 0 else 'less'} than the image"
        raise _elsewhere(given, f"has {change}, which cannot be the same on both sides")
    return less // 2


def _same_size(given: Axis, other: str, tensor: Tensor) -> bool:
    """Whether two axes of the image always have the same size: both follow, or one the other."""
    axes = {axis.id: axis for axis in tensor.axes}
    pairs = ((given, other), (axes.get(other), given.id))
    return any(
        axis is not None and axis.follows is not None and axis.follows[1] == name
        for axis, name in pairs
    )


def _elsewhere(axis: Axis, reason: str) -> ModelFileError:
    return ModelFileError(
        f"Its output along {axis.id!r} {reason}: it does not lie on the image. Choose a model that "
        "gives scores for every voxel."
    )


def combine(declared: Reach, measured: Reach) -> Reach:
    """Return the stricter of what is stated and what was measured, on one axis.

    Where a package states a halo that is too small for tiles to be exact, the
    measured one counts.
    """
    loss = measured.loss
    multiple = lcm(declared.multiple, measured.multiple)
    if declared.largest is not None or measured.largest is not None:
        size = declared.largest or measured.largest or 0
        rule = SizeRule(measured.multiple, size, loss)
        return _widest(rule, declared, measured, size)
    smallest = _smallest(declared.rule, measured.rule, multiple)
    if smallest is None:
        return measured  # the sizes that are stated are not taken: what was tried counts
    return _widest(SizeRule(multiple, smallest, loss), declared, measured, None)


def _smallest(first: SizeRule, second: SizeRule, multiple: int) -> int | None:
    """Return the smallest size that two rules allow."""
    start = max(first.smallest, second.smallest)
    sizes = range(start, start + multiple)
    return next((size for size in sizes if first.allows(size) and second.allows(size)), None)


def _widest(rule: SizeRule, declared: Reach, measured: Reach, largest: int | None) -> Reach:
    if rule.loss:
        return Reach(rule, 0, max(declared.trim, measured.trim), largest)
    halo = max(declared.halo, measured.halo)
    return Reach(rule, round_up(halo, rule.multiple), 0, largest)


def voxel_size(tensor: Tensor) -> tuple[float, ...]:
    """Return the voxel size in micrometre, ([z,] y, x); empty if it is not stated."""
    axes = {axis.id: axis for axis in tensor.axes if axis.type == "space"}
    sizes = [axes[name] for name in _SPACE if name in axes]
    if not all(axis.unit in _TO_MICROMETER for axis in sizes):
        return ()
    return tuple(axis.scale * _TO_MICROMETER[str(axis.unit)] for axis in sizes)
