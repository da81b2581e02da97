"""Draw the networks of the documentation: docs/images/diagram_*.svg."""

from __future__ import annotations

from pathlib import Path

from unetari import UNetConfig, draw_svg

DIAGRAMS = {
    "plane": (UNetConfig(n_blocks=4), (510, 690)),
    "volume": (UNetConfig(dim=3, n_blocks=4, up_mode="trilinear"), (51, 132, 134)),
    "valid": (UNetConfig(n_blocks=5, start_filters=64, conv_mode="valid"), (572, 570)),
}
"""Per picture the network, and the size of an image."""


if __name__ == "__main__":
    folder = Path(__file__).parent / "images"
    folder.mkdir(exist_ok=True)
    for name, (config, shape) in DIAGRAMS.items():
        svg = draw_svg(config, shape)
        (folder / f"diagram_{name}.svg").write_text(svg, encoding="utf-8")
