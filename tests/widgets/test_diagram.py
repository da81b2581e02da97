"""The diagram of the network in the panel."""

from __future__ import annotations

from pathlib import Path

import napari
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QByteArray
from qtpy.QtGui import QFont, QFontMetricsF
from qtpy.QtSvg import QSvgRenderer
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from unetari import UNetConfig, draw_svg
from unetari.core.diagram import lay_out
from unetari.core.source import ImageSource
from unetari.widgets.diagram import DiagramSection, DiagramView
from unetari.widgets.dock import UnetariDock
from unetari.widgets.messages import State

ODD = ImageSource(np.zeros((51, 134), np.uint8), "YX")
DARK, LIGHT = "background-color: #202020; color: white", "background-color: #eeeeee; color: black"


@pytest.fixture
def window(qtbot: QtBot) -> QWidget:
    """Return a small window."""
    window = QWidget()
    qtbot.addWidget(window)
    return window


@pytest.fixture
def section(window: QWidget) -> DiagramSection:
    """Return an unfolded diagram."""
    section = DiagramSection(window)
    column = QVBoxLayout(window)
    column.addWidget(section.toggle)
    column.addWidget(section)
    section.set_network(UNetConfig(), "cells")
    section.set_open(True)
    return section


# In the panel


def test_the_diagram_is_folded_away_at_first(viewer: napari.Viewer, dock: UnetariDock) -> None:
    diagram = dock.model.diagram
    assert not diagram.toggle.isHidden()
    assert diagram.isHidden()
    diagram.toggle.click()
    assert not diagram.isHidden()
    diagram.toggle.click()
    assert diagram.isHidden()


def test_the_diagram_follows_model_options_and_image(
    viewer: napari.Viewer, dock: UnetariDock
) -> None:
    diagram = dock.model.diagram
    diagram.set_open(True)
    config = UNetConfig(n_blocks=2, start_filters=4)
    assert diagram.view.svg == draw_svg(config, None, "dark")
    viewer.add_image(np.zeros((61, 82), np.uint8))
    assert diagram.view.svg == draw_svg(config, (61, 82), "dark")
    assert "Y odd" in diagram.view.svg
    dock.model.set_page("Build")
    dock.model.editor.set_value(UNetConfig())
    dock.model.editor.fields["n_blocks"].value = 3
    dock.model.editor.fields["up_mode"].value = "bilinear"
    config = UNetConfig(n_blocks=3, up_mode="bilinear")
    assert diagram.view.svg == draw_svg(config, (61, 82), "dark")
    viewer.layers[0].data = np.zeros((64, 96), np.uint8)
    assert diagram.view.svg == draw_svg(config, (64, 96), "dark")
    viewer.layers.clear()
    assert diagram.view.svg == draw_svg(config, None, "dark")


def test_a_stack_is_a_volume_only_for_a_3d_network(
    viewer: napari.Viewer, dock: UnetariDock
) -> None:
    diagram = dock.model.diagram
    diagram.set_open(True)
    viewer.add_image(np.zeros((9, 40, 44), np.uint8), axis_labels=("z", "y", "x"))
    dock.model.set_page("Build")
    for config, shape in ((UNetConfig(dim=3), (9, 40, 44)), (UNetConfig(dim=2), (40, 44))):
        dock.model.editor.set_value(config)
        assert diagram.view.svg == draw_svg(config, shape, "dark")
    viewer.layers[0].data = np.zeros((9, 40, 44), np.uint8)
    dock.model.editor.set_value(UNetConfig(dim=3))
    dock.image.set_axes("TYX")  # no Z: the report says so, and no sizes can be shown
    assert diagram.view.svg == draw_svg(UNetConfig(dim=3), None, "dark")


def test_the_diagram_follows_the_theme(viewer: napari.Viewer, dock: UnetariDock) -> None:
    view = dock.model.diagram.view
    dock.model.diagram.set_open(True)
    for theme in ("light", "dark", "light"):
        viewer.theme = theme
        view.grab()  # paints
        assert view.theme == theme
        assert view.svg == draw_svg(UNetConfig(n_blocks=2, start_filters=4), None, theme)


def test_options_that_do_not_go_together_have_no_diagram(dock: UnetariDock) -> None:
    dock.model.set_page("Build")
    dock.model.diagram.set_open(True)
    editor = dock.model.editor
    editor.set_value(UNetConfig(normalization="group8"))
    assert dock.model.diagram.is_open
    editor.fields["start_filters"].value = 20
    assert dock.model.diagram.isHidden()
    editor.fields["start_filters"].value = 16
    assert dock.model.diagram.is_open
    assert "group norm (8)" in dock.model.diagram.view.svg


# By itself


def test_another_network_has_no_diagram(section: DiagramSection) -> None:
    section.set_network(object())
    assert section.toggle.isHidden()
    assert section.isHidden()
    assert not section.is_open
    section.set_network(UNetConfig())
    assert section.is_open


def test_a_folded_diagram_is_up_to_date_once_unfolded(section: DiagramSection) -> None:
    section.set_open(False)
    section.set_network(UNetConfig(n_blocks=6))
    section.set_image(ODD)
    section.set_open(True)
    assert section.view.svg == draw_svg(UNetConfig(n_blocks=6), (51, 134), section.view.theme)


@pytest.mark.parametrize("width", [250, 330, 1200])
@pytest.mark.parametrize("n_blocks", [1, 4, 8])
def test_the_picture_keeps_its_proportions_and_never_grows(
    section: DiagramSection, width: int, n_blocks: int
) -> None:
    section.set_network(UNetConfig(n_blocks=n_blocks, start_filters=8))
    diagram = lay_out(UNetConfig(n_blocks=n_blocks, start_filters=8))
    height = section.view.heightForWidth(width)
    assert height <= diagram.height + 1
    assert height == pytest.approx(diagram.height * min(1, width / diagram.width), abs=1.5)


@pytest.mark.parametrize("style", [DARK, LIGHT])
def test_what_is_odd_is_painted_red(section: DiagramSection, style: str) -> None:
    def count_red(source: ImageSource | None) -> int:
        section.set_image(source)
        section.window().resize(400, 700)
        image = section.window().grab().toImage()
        colors = (
            image.pixelColor(x, y) for y in range(image.height()) for x in range(image.width())
        )
        return sum(
            color.red() > color.green() + 80 and color.red() > color.blue() + 80 for color in colors
        )

    section.window().setStyleSheet(f"QWidget {{{style}}}")
    assert section.view.theme == ("dark" if style == DARK else "light")
    assert count_red(None) == 0
    assert count_red(ODD) > 50


@pytest.mark.parametrize("theme", ["light", "dark", "auto"])
@pytest.mark.parametrize("shape", [None, (51, 134)])
def test_qt_reads_every_theme(qapp: object, theme: str, shape: tuple[int, int] | None) -> None:
    svg = draw_svg(UNetConfig(), shape, theme)  # type: ignore[arg-type]
    assert QSvgRenderer(QByteArray(svg.encode())).isValid()


@pytest.mark.parametrize("family", ["DejaVu Sans", "Arial", "Helvetica", "sans-serif"])
def test_estimated_widths_are_not_too_small(qapp: object, family: str) -> None:
    configs = [
        UNetConfig(),
        UNetConfig(dim=3, activation="leaky", normalization="instance", up_mode="trilinear"),
        UNetConfig(conv_mode="valid", activation="elu", normalization="group16", up_mode="bicubic"),
        UNetConfig(n_blocks=8, start_filters=512, out_channels=65535, in_channels=4096),
    ]
    texts = [
        text
        for config in configs
        for text in lay_out(config, (51, 132_001, 134_444)[-config.dim :]).texts
    ]
    for text in texts:
        width = 0.0
        for run in text.line.runs:
            font = QFont(family)
            font.setPixelSize(10 * text.line.size)
            font.setBold(text.line.bold or run.role == "alert")
            width += QFontMetricsF(font).horizontalAdvance(run.text) / 10
        assert width <= text.line.width, text.line.text


# Saving


def test_the_diagram_is_saved_for_dark_and_light(section: DiagramSection, tmp_path: Path) -> None:
    section.set_image(ODD)
    section.save_to(str(tmp_path / "net"))
    assert section.message.state is State.GOOD
    assert "net.svg" in section.message.text
    saved = (tmp_path / "net.svg").read_text(encoding="utf-8")
    assert saved == draw_svg(UNetConfig(), (51, 134), "auto")


def test_the_dialog_asks_before_it_replaces_a_file(
    section: DiagramSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [str(tmp_path / "net"), "", str(tmp_path / "net.svg")]
    offered: list[str] = []

    def ask(parent: QWidget, title: str, name: str, kinds: str) -> tuple[str, str]:
        offered.append(name)
        return answers.pop(0), kinds

    monkeypatch.setattr(QFileDialog, "getSaveFileName", ask)
    old = tmp_path / "net.svg"
    old.write_text("mine")
    section.save_button.click()  # "net": the dialog has not asked about net.svg
    assert "exists already" in section.message.text
    section.save_button.click()  # cancelled
    assert old.read_text() == "mine"
    section.save_button.click()  # "net.svg": it has
    assert "Saved to" in section.message.text
    assert "<svg" in old.read_text(encoding="utf-8")
    assert offered == ["cells.svg"] * 3


def test_a_view_alone_has_a_size(qtbot: QtBot) -> None:
    view = DiagramView()
    qtbot.addWidget(view)
    view.show_network(UNetConfig(), None)
    assert view.hasHeightForWidth()
    assert view.sizeHint().width() > 300
    assert view.minimumSizeHint().width() == 0
