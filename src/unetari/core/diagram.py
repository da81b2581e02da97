"""The U-Net as a picture: which blocks it has, and where a size of the image goes odd.

`lay_out` computes where everything stands; `draw_svg` writes it down. The
picture is a U: the encoder goes down on the left, the decoder up on the right,
and the deepest block lies across the bottom.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args
from xml.sax.saxutils import escape

from unetari.core.config import UNetConfig
from unetari.core.diagram_words import Line, Role, Row, Run, Words, total_height
from unetari.errors import ConfigError

Theme = Literal["light", "dark", "auto"]

_MARGIN = 8.0
_PADDING = 8.0
_INSET = 20.0  # from the edge of a column to its arrow
_LABEL_GAP = 10.0  # from an arrow to its label
_SHORTEST = 22.0  # of an arrow
_HEAD = 7.0  # length of an arrow's head
_CLEAR = 2.0  # between an arrow and what it points to
_FONTS = "Helvetica, Arial, 'DejaVu Sans', sans-serif"

_PALETTES: dict[str, dict[str, tuple[str, ...]]] = {
    "light": {
        "background": ("#ffffff",),
        "text": ("#1b1f24",),
        "muted": ("#4d5661",),
        "alert": ("#b3261e",),
        "flow": ("#57606a",),
        "skip": ("#57606a",),
        "image": ("#f2f3f5", "#7b8590"),
        "encoder": ("#e3eefb", "#2f6fb5"),
        "deepest": ("#ece4f7", "#7a4fb5"),
        "decoder": ("#e2f3ea", "#2a7d50"),
        "labels": ("#f2f3f5", "#7b8590"),
    },
    "dark": {
        "background": ("#23242b",),
        "text": ("#f0f1f2",),
        "muted": ("#b9c1cb",),
        "alert": ("#ff8f86",),
        "flow": ("#a5aeb9",),
        "skip": ("#a5aeb9",),
        "image": ("#353a43", "#8b95a1"),
        "encoder": ("#1f3550", "#6fa8e6"),
        "deepest": ("#382a50", "#b493e6"),
        "decoder": ("#1c3a2e", "#5fbd8d"),
        "labels": ("#353a43", "#8b95a1"),
    },
}
"""Per role the colour of its inside, and of its border if it has one."""


@dataclass(frozen=True)
class Rect:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def middle(self) -> tuple[float, float]:
        """The point (x, y) in the middle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


@dataclass(frozen=True)
class Box:
    """A block of the network, the image or the labels."""

    rect: Rect
    role: Role


@dataclass(frozen=True)
class Arrow:
    """A horizontal or vertical arrow."""

    start: tuple[float, float]
    """Where it begins, (x, y)."""
    end: tuple[float, float]
    """Where it points, (x, y)."""
    role: Role


@dataclass(frozen=True)
class Text:
    """A line at its place."""

    line: Line
    x: float
    """Of its middle or, unless `centred`, its beginning."""
    y: float
    """Of the baseline."""
    centred: bool = True

    @property
    def rect(self) -> Rect:
        """What it covers at most."""
        left = self.x - self.line.width / 2 if self.centred else self.x
        size = self.line.size
        return Rect(left, self.y - 0.8 * size, left + self.line.width, self.y + 0.25 * size)


@dataclass(frozen=True)
class Diagram:
    """All parts of a picture, in pixels."""

    title: str
    width: float
    height: float
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    texts: tuple[Text, ...]


def draw_svg(config: UNetConfig, shape: Sequence[int] | None = None, theme: Theme = "auto") -> str:
    """Draw a network as SVG: blocks, channels, and the sizes of an image on each level.

    Parameters
    ----------
    config : UNetConfig
        The network.
    shape : sequence of int, optional
        Size of the image in voxels, ([Z,] Y, X). Its sizes are shown as they
        would be without padding, red where they go odd, and as prediction pads
        them. Without it the diagram has no sizes.
    theme : str
        "light", "dark", or "auto": dark where a browser prefers it, else light.

    Returns
    -------
    str
        An SVG document.

    Raises
    ------
    ShapeError
        If the number of axes is not that of the network, or one is empty.
    ConfigError
        If the theme is unknown.

    Examples
    --------
    >>> svg = draw_svg(UNetConfig(n_blocks=3), (510, 512), "light")
    >>> "max pool" in svg, "Y odd" in svg
    (True, True)
    """
    if theme not in get_args(Theme):
        choices = ", ".join(get_args(Theme))
        raise ConfigError(f"theme={theme!r} is unknown. Choose one of: {choices}.")
    return "\n".join(_write(lay_out(config, shape), theme)) + "\n"


def lay_out(config: UNetConfig, shape: Sequence[int] | None = None) -> Diagram:
    """Compute where each part of a diagram stands.

    Parameters
    ----------
    config : UNetConfig
        The network.
    shape : sequence of int, optional
        Size of the image in voxels, ([Z,] Y, X).

    Returns
    -------
    Diagram
        Boxes, arrows and texts. No text leaves its box or covers another part.

    Raises
    ------
    ShapeError
        If the number of axes is not that of the network, or one is empty.
    """
    words = Words(config, shape)
    columns = _Columns.of(words)
    parts = list(_place_all(words, columns))
    texts = tuple(part for part in parts if isinstance(part, Text))
    boxes = tuple(part for part in parts if isinstance(part, Box))
    bottom = max(rect.bottom for rect in (*(b.rect for b in boxes), *(t.rect for t in texts)))
    return Diagram(
        title=words.title,
        width=columns.right.right + _MARGIN,
        height=bottom + _MARGIN,
        boxes=boxes,
        arrows=tuple(part for part in parts if isinstance(part, Arrow)),
        texts=texts,
    )


_Part = Box | Arrow | Text


class _Column(Rect):
    """Where the boxes of one side stand; its height means nothing."""

    @property
    def arrow(self) -> float:
        """Where the arrows between its boxes are."""
        return self.left + _INSET

    @property
    def label(self) -> float:
        """Where the labels of these arrows begin."""
        return self.arrow + _LABEL_GAP


@dataclass(frozen=True)
class _Columns:
    """The two sides of the U."""

    left: _Column
    right: _Column

    @classmethod
    def of(cls, words: Words) -> _Columns:
        """Make them wide enough for all words."""
        rows = words.rows()
        gap = 20 + max(12, *(_widest(row.skip) for row in rows))
        boxes = max(_widest((*row.left, *row.right)) for row in rows) + 2 * _PADDING
        labels = max(_widest([line for side in row.below for line in side]) for row in rows)
        across = _widest([*words.deepest(), *words.legend()]) + 2 * _PADDING
        width = max(boxes, labels + _INSET + 2 * _LABEL_GAP, (across - gap) / 2)
        left, right = _MARGIN, _MARGIN + width + gap
        return cls(_Column(left, 0, left + width, 0), _Column(right, 0, right + width, 0))


def _widest(lines: Iterable[Line]) -> float:
    return max((line.width for line in lines), default=0)


def _place_all(words: Words, columns: _Columns) -> Iterator[_Part]:
    top = _MARGIN
    for row in words.rows():
        bottom = top + total_height(row.tallest) + 2 * _PADDING
        yield from _place_row(row, columns, top, bottom)
        top = bottom + max(_SHORTEST, *(total_height(side) + 8 for side in row.below))
        yield from _place_arrows(row, columns, bottom, top)
    lines = words.deepest()
    bottom = top + total_height(lines) + 2 * _PADDING
    rect = Rect(columns.left.left, top, columns.right.right, bottom)
    yield from _place_box(rect, "deepest", lines)
    yield from _stack(words.legend(), rect.middle[0], bottom + _PADDING)


def _place_row(row: Row, columns: _Columns, top: float, bottom: float) -> Iterator[_Part]:
    left = Rect(columns.left.left, top, columns.left.right, bottom)
    right = Rect(columns.right.left, top, columns.right.right, bottom)
    yield from _place_box(left, row.roles[0], row.left)
    yield from _place_box(right, row.roles[1], row.right)
    if not row.skip:
        return
    x, y = Rect(left.right, top, right.left, bottom).middle
    yield Arrow((left.right + _CLEAR, y), (right.left - _CLEAR, y), "skip")
    above, *below = row.skip
    yield from _stack([above], x, y - above.height - 4)
    yield from _stack(below, x, y + 4)


def _place_box(rect: Rect, role: Role, lines: Sequence[Line]) -> Iterator[_Part]:
    yield Box(rect, role)
    x, y = rect.middle
    yield from _stack(lines, x, y - total_height(lines) / 2)


def _place_arrows(row: Row, columns: _Columns, top: float, bottom: float) -> Iterator[_Part]:
    """Place the arrows between a row and the next one, with their labels."""
    start, end = top + _CLEAR, bottom - _CLEAR
    role: Role = "alert" if row.is_wrong else "flow"
    yield Arrow((columns.left.arrow, start), (columns.left.arrow, end), role)
    yield Arrow((columns.right.arrow, end), (columns.right.arrow, start), "flow")
    for column, lines in zip((columns.left, columns.right), row.below, strict=True):
        middle = (top + bottom - total_height(lines)) / 2
        yield from _stack(lines, column.label, middle, centred=False)


def _stack(lines: Iterable[Line], x: float, top: float, *, centred: bool = True) -> Iterator[Text]:
    """Place lines below each other."""
    for line in lines:
        yield Text(line, x, top + 2 + 0.85 * line.size, centred)
        top += line.height


def _write(diagram: Diagram, theme: Theme) -> Iterator[str]:
    colors = _PALETTES["light" if theme == "auto" else theme]
    width, height = _number(diagram.width), _number(diagram.height)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{_FONTS}">'
    )
    yield f"<title>{escape(diagram.title)}</title>"
    if theme == "auto":
        yield f"<style>@media (prefers-color-scheme: dark) {{{_style_sheet()}}}</style>"
    background = _paint("background", colors)
    yield f'<rect width="{width}" height="{height}" rx="6" {background}/>'
    yield from (_write_box(box, colors) for box in diagram.boxes)
    yield from (_write_arrow(arrow, colors) for arrow in diagram.arrows)
    yield from (_write_text(text, colors) for text in diagram.texts)
    yield "</svg>"


def _paint(role: str, colors: Mapping[str, tuple[str, ...]]) -> str:
    """Return the attributes that give a part its colours."""
    fill, *stroke = colors[role]
    border = f' stroke="{stroke[0]}"' if stroke else ""
    return f'class="unetari-{role}" fill="{fill}"{border}'


def _style_sheet() -> str:
    """Return the dark colours as rules, which go before the attributes."""
    rules = []
    for role, (fill, *stroke) in _PALETTES["dark"].items():
        border = f";stroke:{stroke[0]}" if stroke else ""
        rules.append(f".unetari-{role}{{fill:{fill}{border}}}")
    return "".join(rules)


def _write_box(box: Box, colors: Mapping[str, tuple[str, ...]]) -> str:
    rect = box.rect
    width, height = rect.right - rect.left, rect.bottom - rect.top
    return (
        f'<rect x="{_number(rect.left)}" y="{_number(rect.top)}" width="{_number(width)}" '
        f'height="{_number(height)}" rx="5" stroke-width="1.5" {_paint(box.role, colors)}/>'
    )


def _write_arrow(arrow: Arrow, colors: Mapping[str, tuple[str, ...]]) -> str:
    """Return an arrow as one filled shape, which needs no markers."""
    (x, y), (to_x, to_y) = arrow.start, arrow.end
    length = abs(to_x - x) + abs(to_y - y)
    along = ((to_x - x) / length, (to_y - y) / length)
    points = " ".join(
        f"{_number(x + u * along[0] - v * along[1])},{_number(y + u * along[1] + v * along[0])}"
        for u, v in _outline(length)
    )
    return f'<polygon points="{points}" {_paint(arrow.role, colors)}/>'


def _outline(length: float) -> tuple[tuple[float, float], ...]:
    """Return the corners of an arrow, along its direction and across."""
    neck = length - _HEAD
    half = ((0.0, 0.8), (neck, 0.8), (neck, 4.0))
    return (*half, (length, 0.0), *((u, -v) for u, v in reversed(half)))


def _write_text(text: Text, colors: Mapping[str, tuple[str, ...]]) -> str:
    line = text.line
    bold = ' font-weight="bold"' if line.bold else ""
    anchor = ' text-anchor="middle"' if text.centred else ""
    runs = "".join(_write_run(run, colors) for run in line.runs)
    return (
        f'<text x="{_number(text.x)}" y="{_number(text.y)}" font-size="{line.size}"{bold}{anchor} '
        f'xml:space="preserve">{runs}</text>'
    )


def _write_run(run: Run, colors: Mapping[str, tuple[str, ...]]) -> str:
    bold = ' font-weight="bold"' if run.role == "alert" else ""
    return f"<tspan {_paint(run.role, colors)}{bold}>{escape(run.text)}</tspan>"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
