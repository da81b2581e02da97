"""Draw docs/images/decoder.svg: what the decoder computes for a tile, level by level."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unetari import UNetConfig
from unetari.core.sizes import Reach, axis_levels
from unetari.core.stencils import plan_decoder

INNER = 128
"""Voxels that the tile writes; its halo comes on both sides."""
SCALE, LEFT, TOP, STEP, BAR = 2.4, 150, 46, 46, 22
BLUE, ORANGE, GREY = "#1f77b4", "#e6820a", "#8a8a8a"


def bar(level: int, start: float, size: float, color: str, fill: float) -> str:
    """Return a bar of a level; its voxels are as wide as they are at the image's resolution."""
    width, x, y = size * SCALE, LEFT + start * SCALE, TOP + level * STEP
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{color}" '
        f'fill-opacity="{fill}" stroke="{color}" stroke-width="1.5"/>'
    )


def text(x: float, y: float, words: str, color: str, anchor: str = "start") -> str:
    """Return text as SVG."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" font-size="14" font-family="sans-serif" '
        f'text-anchor="{anchor}">{words}</text>'
    )


def draw() -> Iterator[str]:
    """Yield the lines of the figure."""
    config = UNetConfig(n_blocks=4)
    levels, halo = axis_levels(config), Reach.of(config).halo
    size = INNER + 2 * halo
    plan = plan_decoder(levels, size, slice(halo, halo + INNER))
    needed = [*(step.skip for step in plan.steps), plan.deepest]
    width, height = LEFT + size * SCALE + 90, TOP + config.n_blocks * STEP + 14
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}">'
    yield '<rect width="100%" height="100%" fill="white"/>'
    middle = LEFT + size * SCALE / 2
    yield text(LEFT, 24, "encoder: everything that is read", BLUE)
    yield text(LEFT + size * SCALE, 24, "decoder: what the tile needs", ORANGE, "end")
    for level, part in enumerate(needed):
        voxel = 2**level
        share = (part.stop - part.start) * voxel / size
        baseline = TOP + level * STEP + 16
        yield text(LEFT - 12, baseline, f"level {level}: {size // voxel}", GREY, "end")
        yield bar(level, 0, size, BLUE, 0.12)
        yield bar(level, part.start * voxel, (part.stop - part.start) * voxel, ORANGE, 0.3)
        yield text(middle, baseline, str(part.stop - part.start), ORANGE, "middle")
        yield text(LEFT + size * SCALE + 12, baseline, f"{share:.0%}", ORANGE)
    yield "</svg>\n"


if __name__ == "__main__":
    target = Path(__file__).parent / "images" / "decoder.svg"
    target.write_text("\n".join(draw()))
