"""Draw docs/images/halo.svg: the tiles of one image, as `plan_tiles` plans them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from unetari import UNetConfig, plan_tiles
from unetari.core.tiles import Span

SHAPE = (400, 640)
CHOSEN = (1, 1)
MARGIN = 30
BLUE, ORANGE, GREY = "#1f77b4", "#e6820a", "#8a8a8a"


def rectangle(box: Sequence[Span], color: str, fill: float = 0.0, width: float = 1.5) -> str:
    """Return one box, (Y, X), as SVG."""
    y, x = box
    return (
        f'<rect x="{x.start + MARGIN}" y="{y.start + MARGIN}" width="{x.size}" height="{y.size}" '
        f'fill="{color}" fill-opacity="{fill}" stroke="{color}" stroke-width="{width}"/>'
    )


def text(y: int, x: int, words: str, color: str) -> str:
    """Return centred text as SVG."""
    return (
        f'<text x="{x + MARGIN}" y="{y + MARGIN}" fill="{color}" font-size="15" '
        f'font-family="sans-serif" text-anchor="middle">{words}</text>'
    )


def draw() -> Iterator[str]:
    """Yield the lines of the figure."""
    plan = plan_tiles(SHAPE, UNetConfig(n_blocks=4), tile_shape=(240, 272))
    chosen = plan.at(CHOSEN)
    height, width = (size + 2 * MARGIN for size in SHAPE)
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    yield '<rect width="100%" height="100%" fill="white"/>'
    for tile in plan:
        yield rectangle(tile.inner, GREY)
    yield rectangle(chosen.outer, BLUE, fill=0.12, width=2.5)
    yield rectangle(chosen.inner, ORANGE, fill=0.25, width=2.5)
    y, x = chosen.inner
    yield text((y.start + y.stop) // 2, (x.start + x.stop) // 2, "inner: written", ORANGE)
    yield text(chosen.outer[0].start + 20, (x.start + x.stop) // 2, "outer: read", BLUE)
    halo = plan.halo[0]
    yield text(y.stop + halo // 2 + 5, (x.start + x.stop) // 2, f"halo: {halo}", BLUE)
    yield text(-10, SHAPE[1] // 2, f"image {SHAPE[0]} x {SHAPE[1]}, {len(plan)} tiles", GREY)
    yield "</svg>\n"


if __name__ == "__main__":
    target = Path(__file__).parent / "images" / "halo.svg"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(draw()))
