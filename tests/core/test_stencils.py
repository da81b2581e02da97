"""Derived sizes and surroundings are those that probing finds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from unetari.core.sizes import Reach, SizeRule
from unetari.core.stencils import (
    COPY,
    LINEAR,
    TRANSPOSED_3,
    TRANSPOSED_3_SHIFTED,
    AxisLevel,
)
from unetari.errors import ShapeError
from unetari.model.probe import probe_network


class LineNet(nn.Module):
    """A U-Net of known layers, which are the same on both axes."""

    def __init__(self, levels: Sequence[AxisLevel], *, valid: bool) -> None:
        super().__init__()
        self.levels, self.valid = levels, valid
        self.stem = nn.Conv2d(1, 4, 1)
        self.head = nn.Conv2d(4, 1, 1)

    def block(self, x: Tensor, radius: int) -> Tensor:
        if not self.valid:
            x = nn.functional.pad(x, [radius] * 4)
        return nn.functional.avg_pool2d(x, 2 * radius + 1, 1) if radius else x

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.stem(x), []
        for level in self.levels[:-1]:
            x = self.block(x, level.encoder)
            skips.append(x)
            if any(size % level.pool for size in x.shape[2:]):
                raise ValueError(x.shape)
            x = nn.functional.max_pool2d(x, level.pool)
        x = self.block(x, self.levels[-1].encoder)
        for level, skip in zip(reversed(self.levels[:-1]), reversed(skips), strict=True):
            x = self.upsample(x, level)
            excess = (skip.shape[2] - x.shape[2]) // 2
            skip = skip[..., excess : excess + x.shape[2], excess : excess + x.shape[3]]
            x = self.block(x + skip * 0.7, level.decoder)
        scores: Tensor = self.head(x)
        return scores

    def upsample(self, x: Tensor, level: AxisLevel) -> Tensor:
        if level.pool == 1:
            return x
        if level.stencil in (TRANSPOSED_3, TRANSPOSED_3_SHIFTED):
            kernel, extra = torch.full((4, 1, 3, 3), 0.3), int(level.stencil == TRANSPOSED_3)
            x = nn.functional.conv_transpose2d(
                x, kernel, stride=2, padding=1, output_padding=extra, groups=4
            )
            size = [n + 1 - extra for n in x.shape[2:]]
            return nn.functional.interpolate(x, size)
        mode = "bilinear" if level.stencil == LINEAR else "nearest"
        return nn.functional.interpolate(x, scale_factor=2, mode=mode)


@pytest.mark.parametrize("stencil", [COPY, LINEAR, TRANSPOSED_3, TRANSPOSED_3_SHIFTED])
@pytest.mark.parametrize("n_levels", [1, 2, 3])
def test_same_convolution(n_levels: int, stencil: tuple[tuple[int, int], ...]) -> None:
    levels = [AxisLevel(2, 1, stencil=stencil) for _ in range(n_levels)]  # type: ignore[arg-type]
    derived = Reach.derive(levels)
    probe = probe_network(LineNet(levels, valid=False), dim=2, in_channels=1)
    assert probe.exact
    assert probe.reaches == (derived, derived)


@pytest.mark.parametrize("stencil", [COPY, LINEAR])
def test_valid_convolution(stencil: tuple[tuple[int, int], ...]) -> None:
    levels = [AxisLevel(2, 1, stencil=stencil), AxisLevel(1, 2, stencil=stencil), AxisLevel(1)]  # type: ignore[arg-type]
    derived = Reach.derive(levels, valid=True)
    probe = probe_network(LineNet(levels, valid=True), dim=2, in_channels=1)
    assert probe.exact
    assert probe.reaches == (derived, derived)


def test_levels_that_are_not_pooled() -> None:
    levels = [AxisLevel(1, 1, pool=1), AxisLevel(1, 1), AxisLevel(1)]
    derived = Reach.derive(levels)
    probe = probe_network(LineNet(levels, valid=False), dim=2, in_channels=1)
    assert probe.reaches == (derived, derived)
    assert derived.multiple == 2


def test_more_than_one_voxel_on_the_deepest_level() -> None:
    assert Reach.derive([AxisLevel(1, 1), AxisLevel(1)], smallest=2).rule == SizeRule(2, 4, 0)


def test_no_size_fits() -> None:
    levels = [*[AxisLevel(1000, 1000)] * 9, AxisLevel(1000)]
    with pytest.raises(ShapeError, match="more than 8192 voxels"):
        Reach.derive(levels, valid=True)
