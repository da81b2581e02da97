"""The sizes of an image on each level of a network, with and without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unetari.core.config import UNetConfig
from unetari.core.sizes import Reach, axis_levels
from unetari.core.tiles import plan_tiles


@dataclass(frozen=True)
class Level:
    """The sizes of an image on one level, [Z,] Y, X, after the convolutions of its block."""

    plain: tuple[int | None, ...]
    """In a pass without padding; None where the axis failed on a level above."""
    wrong: tuple[str, ...]
    """Why a plain pass fails here, "odd" or "too small"; empty where it does not."""
    encoder: tuple[int, ...]
    """As prediction runs it, in the encoder."""
    decoder: tuple[int, ...]
    """As prediction runs it, in the decoder; on the deepest level the same."""


def find_levels(config: UNetConfig, shape: Sequence[int]) -> tuple[Level, ...]:
    """Follow the sizes of an image through the levels of a network.

    Parameters
    ----------
    config : UNetConfig
        The network.
    shape : sequence of int
        Size of the image in voxels, ([Z,] Y, X).

    Returns
    -------
    tuple of Level
        One per block of the encoder.

    Raises
    ------
    ShapeError
        If the number of axes is not that of the network, or one is empty.

    Examples
    --------
    >>> for level in find_levels(UNetConfig(n_blocks=3), (510, 512)):
    ...     print(level.plain, level.wrong, level.encoder)
    (510, 512) ('', '') (512, 512)
    (255, 256) ('odd', '') (256, 256)
    (None, 128) ('', '') (128, 128)
    """
    axes = range(-len(shape), 0)
    plain = [list(_plain_sizes(size, config, axis)) for axis, size in zip(axes, shape, strict=True)]
    tile = plan_tiles(shape, config).tile_shape
    runs = [_run_sizes(size, config, axis) for axis, size in zip(axes, tile, strict=True)]
    return tuple(
        Level(
            plain=tuple(axis[level][0] for axis in plain),
            wrong=tuple(axis[level][1] for axis in plain),
            encoder=tuple(encoder[level] for encoder, _ in runs),
            decoder=tuple(decoder[level] for _, decoder in runs),
        )
        for level in range(config.n_blocks)
    )


def _loss(config: UNetConfig, radius: int) -> int:
    """Voxels that the convolutions of a block, of this summed radius, take from an axis."""
    return 2 * radius if config.conv_mode == "valid" else 0


def _plain_sizes(size: int, config: UNetConfig, axis: int) -> Iterator[tuple[int | None, str]]:
    """Yield the size on each level, and what is wrong with it."""
    fits = Reach.of(config, axis).rule.allows(size)
    levels = axis_levels(config, axis)
    failed = False
    for level in levels:
        if failed:
            yield None, ""
            continue
        is_deepest = level is levels[-1]
        size = max(0, size - _loss(config, level.encoder))
        wrong = ""
        if size < 1 or (is_deepest and not fits):
            wrong = "too small"  # on the deepest level: for the way up
        elif not is_deepest and size % level.pool:
            wrong = "odd"
        yield size, wrong
        failed = bool(wrong)
        size //= level.pool


def _run_sizes(size: int, config: UNetConfig, axis: int) -> tuple[list[int], list[int]]:
    """Return the sizes on each level in the encoder and in the decoder; `size` fits."""
    levels = axis_levels(config, axis)
    down = []
    for level in levels:
        down.append(size - _loss(config, level.encoder))
        size = down[-1] // level.pool
    up = [down[-1]]
    for level in reversed(levels[:-1]):
        up.insert(0, level.pool * up[0] - _loss(config, level.decoder))
    return down, up
