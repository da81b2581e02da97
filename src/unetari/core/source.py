"""`ImageSource`: an array-like with axes, read as frames and boxes.

Only what is asked for is read, so that memory-mapped, zarr and dask arrays
of any size work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Integral
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from unetari.core.axes import NAMES, parse_axes
from unetari.core.dtypes import check_dtype
from unetari.errors import AxesError, ShapeError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""

BLOCK_BYTES = 64 * 2**20
"""Size that blocks for statistics stay below, where a single row allows it."""


class ArrayLike(Protocol):
    """What a source needs of an array: numpy, zarr, dask, memmap all have it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the values."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """Read a part, given integers and slices."""
        ...


@dataclass(frozen=True, eq=False)
class ImageSource:
    """An image with named axes, which the network sees frame by frame.

    Parameters
    ----------
    data : array-like
        numpy, zarr, dask or memory-mapped array of real numbers. Never written.
    axes : str
        One letter per axis of `data`: T, C, Z, Y, X, and S for RGB samples.
    channel : int, optional
        Use this channel (or RGB sample) only; negative counts from the end.
    grey : bool
        Turn RGB into one channel by its luma (ITU-R BT.601), in float32. For S,
        or for a C of 3.

    Raises
    ------
    AxesError
        If the axes do not match the data, the channel does not exist, or there
        is no RGB to turn into grey.
    ImageFileError
        If the values are not real numbers.

    Notes
    -----
    RGB samples act as channels. Of RGBA the fourth, alpha, is dropped: it says
    how to display a pixel, not what was measured.

    Examples
    --------
    >>> source = ImageSource(np.zeros((5, 2, 64, 48), np.uint16), "ZCYX")
    >>> source.n_channels, source.label_axes, source.label_shape
    (2, 'ZYX', (5, 64, 48))
    >>> next(source.frames(dim=2))
    {'Z': 0}
    >>> source.read({"Z": 3}, (slice(0, 16), slice(8, 48))).shape
    (2, 16, 40)
    """

    data: ArrayLike
    axes: str
    channel: int | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", parse_axes(self.axes, self.data.shape))
        check_dtype(self.data.dtype)
        if self.channel is not None:
            object.__setattr__(self, "channel", self._check_channel(self.channel))
        if self.grey:
            self._check_grey()

    def _check_channel(self, channel: object) -> int:
        count = self.data_channels
        is_whole = isinstance(channel, Integral) and not isinstance(channel, bool)
        if not is_whole or not -count <= int(cast("int", channel)) < count:
            choices = f"0 to {count - 1}" if count > 1 else "0"
            raise AxesError(
                f"channel={channel!r} does not exist: the image has {count} "
                f"channel{'s' if count > 1 else ''} (axes {self.axes}). Choose {choices}."
            )
        return int(cast("int", channel)) % count

    def _check_grey(self) -> None:
        if self.channel is not None:
            raise AxesError(
                f"channel={self.channel} and grey=True exclude each other. Give one of the two."
            )
        if self.data_channels != 3:
            raise AxesError(
                f"grey=True needs red, green and blue, and the image has {self.data_channels} "
                f"channel{'s' if self.data_channels != 1 else ''} (axes {self.axes}). "
                "Choose a channel instead."
            )

    @property
    def size(self) -> dict[str, int]:
        """Size of each axis of the data, by letter."""
        return {letter: int(n) for letter, n in zip(self.axes, self.data.shape, strict=True)}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type that `read` returns."""
        return np.dtype(np.float32) if self.grey else np.dtype(self.data.dtype)

    @property
    def data_channels(self) -> int:
        """Channels in the data, before one is selected; alpha does not count."""
        if "S" in self.axes:
            return 3
        return self.size.get("C", 1)

    @property
    def may_be_rgb(self) -> bool:
        """Whether the channels can be red, green and blue: named S, or three of 8 bits at the end.

        Three channels are more often stains, whose mean weighted by colour means nothing.
        """
        is_last = self.axes[-1] == "C" and self.data_channels == 3
        return "S" in self.axes or (is_last and np.dtype(self.data.dtype) == np.uint8)

    @property
    def n_channels(self) -> int:
        """Channels the network will see."""
        return 1 if self.grey or self.channel is not None else self.data_channels

    @property
    def label_axes(self) -> str:
        """Axes of the result: those of the data, in order, without C and S."""
        return "".join(letter for letter in self.axes if letter not in "CS")

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return tuple(self.size[letter] for letter in self.label_axes)

    def spatial_axes(self, dim: int) -> str:
        """Return the axes the network sees: "YX", or "ZYX" for 3D.

        Raises
        ------
        AxesError
            If a 3D network meets an image without Z.
        """
        if dim == 3 and "Z" not in self.axes:
            raise AxesError(
                f"A 3D network needs a Z axis, and the image has {self.describe()}. Use a 2D "
                "network, or name the axis that is depth Z."
            )
        return "ZYX"[-dim:]

    def spatial_shape(self, dim: int) -> tuple[int, ...]:
        """Return the sizes of the spatial axes, ([Z,] Y, X)."""
        return tuple(self.size[letter] for letter in self.spatial_axes(dim))

    def loop_axes(self, dim: int) -> str:
        """Return the label axes that are looped over, in order."""
        spatial = self.spatial_axes(dim)
        return "".join(letter for letter in self.label_axes if letter not in spatial)

    def describe(self) -> str:
        """Return the axes with their sizes, such as "Z 30, Y 512, X 512"."""
        return ", ".join(f"{letter} {size}" for letter, size in self.size.items())

    def frames(self, dim: int, region: Sequence[slice] | None = None) -> Iterator[dict[str, int]]:
        """Yield one {axis: index} per network input, in the order of the axes.

        Parameters
        ----------
        dim : int
            Dimensions of the network.
        region : sequence of slice, optional
            One slice per label axis (step 1); only frames inside are yielded.

        Raises
        ------
        AxesError
            If the region has another number of slices.
        """
        axes = self.loop_axes(dim)
        ranges = self._ranges(region)
        for index in product(*(ranges[letter] for letter in axes)):
            yield dict(zip(axes, index, strict=True))

    def _ranges(self, region: Sequence[slice] | None) -> dict[str, range]:
        full = {
            letter: range(n) for letter, n in zip(self.label_axes, self.label_shape, strict=True)
        }
        if region is None:
            return full
        if len(region) != len(full):
            raise AxesError(
                f"The region has {len(region)} slices, and the image has the label axes "
                f"{self.label_axes}. Give one slice per axis."
            )
        return {letter: full[letter][part] for letter, part in zip(full, region, strict=True)}

    def read(self, frame: Mapping[str, int], box: Sequence[slice]) -> NDArray[Any]:
        """Read a box of one frame.

        Parameters
        ----------
        frame : mapping
            The index on each looped axis, as `frames` yields it.
        box : sequence of slice
            ([Z,] Y, X), start and stop within bounds, step 1.

        Returns
        -------
        ndarray
            Raw values, (C, [Z,] Y, X), of the data's dtype (float32 if grey). It
            may be a view of the data: do not write to it.

        Raises
        ------
        ShapeError
            If the box reaches beyond the image.
        AxesError
            If an axis has neither an index nor a slice.
        """
        parts = dict(zip("ZYX"[-len(box) :], box, strict=True))
        for letter, part in parts.items():
            self._check_part(letter, part)
        return self._read({**frame, **parts})

    def _check_part(self, letter: str, part: slice) -> None:
        size = self.size.get(letter, 0)
        if not ((part.start or 0) >= 0 and (part.stop is None or part.stop <= size)):
            raise ShapeError(
                f"The box {part.start}:{part.stop} reaches beyond axis {letter}, which has "
                f"{size} px. Read within the image and mirror what lies outside."
            )

    def _read(self, parts: Mapping[str, int | slice]) -> NDArray[Any]:
        """Read by letter: the channels first, then the sliced axes as in the data."""
        missing = [letter for letter in self.label_axes if letter not in parts]
        if missing:
            names = ", ".join(f"{letter} ({NAMES[letter]})" for letter in missing)
            raise AxesError(f"Reading needs an index or a slice on every axis; {names} has none.")
        key = {**parts, **self._channel_key()}
        block = np.asarray(self.data[tuple(key[letter] for letter in self.axes)])
        kept = [letter for letter in self.axes if isinstance(key[letter], slice)]
        if not {"C", "S"} & set(kept):
            return block[np.newaxis]
        place = next(place for place, letter in enumerate(kept) if letter in "CS")
        block = np.moveaxis(block, place, 0)
        return _luma(block) if self.grey else block

    def _channel_key(self) -> dict[str, int | slice]:
        channels = slice(0, self.data_channels) if self.channel is None else self.channel
        return dict.fromkeys("CS", channels)

    def iter_blocks(
        self,
        dim: int,
        frame: Mapping[str, int] | None = None,
        *,
        max_bytes: int = BLOCK_BYTES,
    ) -> Iterator[NDArray[Any]]:
        """Yield raw blocks that partition the image, or one frame, for statistics.

        Blocks of the whole image span as many planes as fit into `max_bytes`, so
        that the chunks of a zarr array are not read once per plane; chunks that
        are larger than a block are read several times.

        Parameters
        ----------
        dim : int
            Dimensions of the network: what a frame is.
        frame : mapping, optional
            Only this frame; default all.
        max_bytes : int
            Size a block stays below, down to a single row.

        Yields
        ------
        ndarray
            (C, ...), the other axes as in the data.
        """
        axes = self.label_axes if frame is None else self.spatial_axes(dim)
        shape = tuple(self.size[letter] for letter in axes)
        room = max_bytes // (self.n_channels * self.dtype.itemsize)
        for box in _split(shape, room):
            yield self._read({**(frame or {}), **dict(zip(axes, box, strict=True))})


def _split(shape: Sequence[int], room: int) -> Iterator[tuple[slice, ...]]:
    """Cut a shape into boxes of at most `room` voxels, but never a row."""
    steps = []
    for axis, size in enumerate(shape):
        inner = math.prod(shape[axis + 1 :])
        is_row = axis == len(shape) - 1
        steps.append(max(1, size if is_row else min(size, room // max(1, inner))))
    starts = (range(0, size, step) for size, step in zip(shape, steps, strict=True))
    for corner in product(*starts):
        yield tuple(
            slice(start, min(start + step, size))
            for start, step, size in zip(corner, steps, shape, strict=True)
        )


def _luma(block: NDArray[Any]) -> NDArray[np.float32]:
    """Reduce (3, ...) to (1, ...) in float32."""
    weights = np.array(LUMA, np.float32)
    return np.tensordot(weights, block.astype(np.float32), axes=1)[np.newaxis]
