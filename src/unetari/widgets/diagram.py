"""`DiagramSection`: the network as a picture, folded away until somebody asks for it."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import QByteArray, QRectF, QSize, Qt
from qtpy.QtGui import QPainter, QPaintEvent, QPalette
from qtpy.QtSvg import QSvgRenderer
from qtpy.QtWidgets import (
    QFileDialog,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from unetari.core.config import UNetConfig
from unetari.core.diagram import Theme, draw_svg
from unetari.core.scaling import Scaling
from unetari.core.source import ImageSource
from unetari.errors import AxesError, ShapeError, UnetariError
from unetari.storage.svg import SUFFIX, save_svg
from unetari.widgets.messages import Message, State


class DiagramView(QWidget):
    """Draws a network in the colours of the window, as wide as there is room.

    Parameters
    ----------
    parent : QWidget, optional
        The owner.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._config = UNetConfig()
        self._shape: tuple[int, ...] | None = None
        self._renderer = QSvgRenderer(self)
        self.svg = ""
        """What is drawn."""
        self.setAccessibleName("Diagram of the network")
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def show_network(self, config: UNetConfig, shape: tuple[int, ...] | None) -> None:
        """Draw a network, and the sizes of an image ([Z,] Y, X) if there is one."""
        self._config, self._shape = config, shape
        self._draw()
        self.updateGeometry()
        self.update()

    @property
    def theme(self) -> Theme:
        """Light or dark, whatever the window is."""
        # The palette follows napari's style sheet, and that of any other window.
        ground = self.palette().color(QPalette.ColorRole.Window)
        return "dark" if ground.lightness() < 128 else "light"

    def _draw(self) -> None:
        svg = draw_svg(self._config, self._shape, self.theme)
        if svg != self.svg:
            self.svg = svg
            self._renderer.load(QByteArray(svg.encode()))

    def sizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """Return the size in which the letters are those of the panel."""
        return self._renderer.defaultSize()

    def minimumSizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """Leave the width to the panel; the layout asks for the height that belongs to it."""
        return QSize(0, 0)

    def hasHeightForWidth(self) -> bool:  # noqa: N802 (Qt's name)
        """Whether the height follows from the width."""
        return True

    def heightForWidth(self, width: int) -> int:  # noqa: N802 (Qt's name)
        """Return the height that keeps the proportions."""
        return round(self._renderer.defaultSize().height() * self._scale(width))

    def _scale(self, width: int) -> float:
        """Return how far the picture shrinks; it never grows."""
        return min(1.0, width / max(1, self._renderer.defaultSize().width()))

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: ARG002, N802 (Qt's name)
        """Draw the picture in the middle; Qt scales it for the screen's resolution."""
        self._draw()  # the colours may have changed
        size, scale = self._renderer.defaultSize(), self._scale(self.width())
        width, height = size.width() * scale, size.height() * scale
        painter = QPainter(self)
        self._renderer.render(painter, QRectF((self.width() - width) / 2, 0, width, height))
        painter.end()


class DiagramSection(QWidget):
    """The diagram and its button, below a toggle that the owner puts where there is room.

    Parameters
    ----------
    parent : QWidget, optional
        The owner.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._config: UNetConfig | None = None
        self._source: ImageSource | None = None
        self._factors: tuple[float, ...] | None = None
        self._name = ""
        self.toggle = QToolButton(self)
        self.toggle.setText("Diagram")
        self.toggle.setToolTip("Draw the network, with the sizes of this image on each level")
        self.toggle.setCheckable(True)
        self.toggle.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.view = DiagramView()
        self.message = Message()
        self.save_button = QPushButton("Save as SVG...")
        self.save_button.setToolTip("Write the picture to a file")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.view)
        column.addWidget(self.message)
        column.addWidget(self.save_button)
        self.toggle.toggled.connect(self._update)
        self.save_button.clicked.connect(self._ask_and_save)
        self._update()

    @property
    def is_open(self) -> bool:
        """Whether the diagram is unfolded, and there is one."""
        return self._config is not None and self.toggle.isChecked()

    def set_open(self, is_open: bool) -> None:
        """Unfold the diagram, or fold it away."""
        self.toggle.setChecked(is_open)

    def set_network(self, config: object, name: str = "") -> None:
        """Show a network; what is no `UNetConfig` has no diagram."""
        self._config = config if isinstance(config, UNetConfig) else None
        self._name = name
        self.message.show_text("")
        self._update()

    def set_image(
        self, source: ImageSource | None, factors: tuple[float, ...] | None = None
    ) -> None:
        """Show the sizes of an image, which may be rescaled for the network."""
        self._source, self._factors = source, factors
        self._update()

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Sizes of the image as the network sees it, ([Z,] Y, X); None if it cannot see it."""
        if self._source is None or self._config is None:
            return None
        try:
            shape = self._source.spatial_shape(self._config.dim)
            scaling = Scaling.of(shape, self._factors)
        except (AxesError, ShapeError):
            return None  # the report on the image says why
        if not all(shape):
            return None
        return shape if scaling is None else scaling.rescaled_shape

    def save_to(self, path: str) -> None:
        """Save the diagram; the dialog has asked about that file, if it exists."""
        if self._config is None:
            return
        svg = draw_svg(self._config, self.shape)
        try:
            # Without a suffix it is another file that is written, and nobody was asked about it.
            written = save_svg(svg, path, overwrite=bool(Path(path).suffix))
        except UnetariError as error:
            self.message.show_text(str(error), State.PROBLEM)
        else:
            self.message.show_text(f"Saved to {written}", State.GOOD)

    def _update(self) -> None:
        arrow = Qt.ArrowType.DownArrow if self.toggle.isChecked() else Qt.ArrowType.RightArrow
        self.toggle.setArrowType(arrow)
        self.toggle.setVisible(self._config is not None)
        self.setVisible(self.is_open)
        if self._config is not None and self.is_open:
            self.view.show_network(self._config, self.shape)

    def _ask_and_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the diagram", f"{self._name or 'unet'}{SUFFIX}", f"SVG (*{SUFFIX})"
        )
        if path:
            self.save_to(path)
