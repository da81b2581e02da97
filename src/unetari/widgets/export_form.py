"""`ExportDialog`: asks for what a package must say beyond the model, and shows its cover."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from magicgui.widgets import LineEdit, PushButton
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtGui import QPixmap, QShowEvent
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from unetari.core.source import ImageSource
from unetari.core.spec import ModelSpec
from unetari.errors import AxesError, ConfigError
from unetari.model.attachments import COVER_SUFFIXES, Attachments, read_cover
from unetari.model.publishing import FIELDS, find_problem
from unetari.widgets.background import Background
from unetari.widgets.card_fields import card_value, make_card_field, text_field
from unetari.widgets.fields import align_labels, choice, form, put_below, row
from unetari.widgets.messages import Message, State, mark

if TYPE_CHECKING:
    from unetari.model.checkpoint import Model

DRAWN, KEPT, FILE = "drawn", "kept", "file"
GENERATED, CURRENT = "generated", "current"
_PICTURES = f"Pictures ({' '.join(f'*{suffix}' for suffix in COVER_SUFFIXES)})"
_PREVIEW = (430, 215)
_WIDTH = 900
_MOST = {2: 512, 3: 96}  # voxels per axis of a test image


@dataclass(frozen=True)
class PackageRequest:
    """What the form says."""

    card: Mapping[str, Any]
    """Fields of `ModelSpec`."""
    cover: bytes
    """PNG or JPEG; empty for one drawn of the test image."""
    documentation: str
    """Markdown; empty for one written of the card."""
    read_image: Callable[[], NDArray[Any] | None]
    """Gives the test image, (C, [Z,] Y, X); None for a generated one. May take seconds."""

    def complete(self, model: Model) -> Model:
        """Return the model with all this, in place of what it had."""
        attachments = Attachments(self.cover, self.documentation, self.read_image())
        return replace(model.replace(**self.card), attachments=attachments)


def draw(get_model: Callable[[], Model], request: PackageRequest, to: str) -> bytes:
    """Draw the cover that a package gets."""
    from unetari.model.export import draw_cover

    return draw_cover(request.complete(get_model()), to)


class ExportDialog(QDialog):
    """A form with the card of a package; `open` does not wait.

    It stays open until the package is saved, so that nothing typed is lost.

    Parameters
    ----------
    spec : ModelSpec
        Fills the form.
    get_model : callable
        Gives the model, for the preview of the cover.
    to : str
        The format, see `unetari.model.export.export_model`.
    source : ImageSource, optional
        The current image.
    attachments : Attachments
        What the model came with.
    parent : QWidget, optional
        The owner.
    """

    requested = Signal(object)
    """Emitted with a `PackageRequest` when the package is to be saved."""

    def __init__(
        self,
        spec: ModelSpec,
        get_model: Callable[[], Model],
        to: str,
        *,
        source: ImageSource | None = None,
        attachments: Attachments | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("About the model")
        self.setMinimumWidth(_WIDTH)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._get_model, self._to = get_model, to
        self._kept = attachments or Attachments()
        self._source = source if source is not None and _fits(source, spec) else None
        self._dim = spec.config.dim
        self._picture = b""
        self._is_saving = False
        self.fields = {field.name: make_card_field(field, spec) for field in FIELDS}
        self.problems = {field.name: Message() for field in FIELDS}
        hint = "Markdown; empty: written of the card"
        self.documentation = text_field(8, "Documentation", hint)
        self.documentation.value = self._kept.documentation
        self.image = choice(self._images(), label="Test image")
        self.cover = choice(self._covers(), label="Cover")
        self.file = LineEdit(tooltip="PNG or JPEG, twice as wide as high or square")
        self._browse = PushButton(text="Browse...")
        self._file = row([self.file, self._browse], label=" ")
        self.file_problem = Message()
        self.preview = QLabel()
        self.message = Message()
        self.save, self.cancel = QPushButton("Save"), QPushButton("Cancel")
        self._drawing = Background(self)
        self._lay_out()
        self._connect()
        self._check()
        self._show_cover()

    # --- building -------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        card = form(list(self.fields.values()))
        for name, field in self.fields.items():
            put_below(field, self.problems[name])
        papers = form([self.image, self.cover, self._file, self.documentation])
        put_below(self._file, self.file_problem)
        self.preview.setFixedSize(*_PREVIEW)
        self.preview.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.preview.setFrameShape(QFrame.Shape.StyledPanel)
        right = QVBoxLayout()
        right.addWidget(self.preview)
        right.addWidget(papers.native)
        right.addStretch(1)
        left = QVBoxLayout()
        left.addWidget(card.native)
        left.addStretch(1)
        both = QHBoxLayout()
        both.addLayout(left, stretch=1)
        both.addSpacing(12)
        both.addLayout(right)
        buttons = QDialogButtonBox()
        buttons.addButton(self.save, QDialogButtonBox.ButtonRole.AcceptRole)
        buttons.addButton(self.cancel, QDialogButtonBox.ButtonRole.RejectRole)
        column = QVBoxLayout(self)
        column.addLayout(both)
        column.addWidget(self.message)
        column.addWidget(buttons)
        self._forms = (card, papers)  # magicgui's containers live as long as they are held

    def _connect(self) -> None:
        for field in self.fields.values():
            # magicgui's own signal says nothing of the letters in a text of several lines.
            letters = getattr(field.native, "textChanged", field.changed)
            letters.connect(self._check)
        self.image.changed.connect(self._show_cover)
        self.cover.changed.connect(self._show_cover)
        self.file.native.editingFinished.connect(self._show_cover)
        self._browse.changed.connect(self._ask_for_picture)
        self._drawing.done.connect(self._show_picture)
        self._drawing.failed.connect(self._on_not_drawn)
        self.save.clicked.connect(self._save)
        self.cancel.clicked.connect(self.reject)

    def _images(self) -> dict[str, str]:
        images = {KEPT: "as in the package"} if self._kept.image is not None else {}
        current = {CURRENT: "the current image"} if self._source is not None else {}
        return {**images, **current, GENERATED: "a generated one"}

    def _covers(self) -> dict[str, str]:
        kept = {KEPT: "as in the package"} if self._kept.cover else {}
        return {**kept, DRAWN: "test image and result", FILE: "a picture of yours"}

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Align the labels, whose font is known now."""
        super().showEvent(event)
        for part in self._forms:
            align_labels(part.native)

    # --- what it says ---------------------------------------------------------------------------

    def card(self) -> dict[str, Any]:
        """Return what is filled in, as fields of `ModelSpec`."""
        return {field.name: card_value(field, self.fields[field.name]) for field in FIELDS}

    def request(self) -> PackageRequest:
        """Return all that the form says."""
        return PackageRequest(
            card=self.card(),
            cover=self._picture if self.cover.value != DRAWN else b"",
            documentation=self.documentation.value.strip(),
            read_image=self._image_reader(),
        )

    def _image_reader(self) -> Callable[[], NDArray[Any] | None]:
        if self.image.value == CURRENT and self._source is not None:
            return partial(read_middle, self._source, self._dim)
        kept = self._kept.image if self.image.value == KEPT else None
        return lambda: kept

    @property
    def is_complete(self) -> bool:
        """Whether the package can be saved."""
        needs_picture = self.cover.value == FILE and not self._picture
        return not needs_picture and not any(map(find_problem, FIELDS, self.card().values()))

    def draft(self) -> dict[str, Any]:
        """Return what was typed, for `fill`."""
        typed = {name: field.value for name, field in self._typed().items()}
        return {**typed, "cover": self.cover.value, "image": self.image.value}

    def fill(self, draft: Mapping[str, Any]) -> None:
        """Fill the form with what was typed into another one for the same model."""
        for name, field in self._typed().items():
            field.value = draft[name]
        if draft["image"] in self._images():
            self.image.value = draft["image"]
        if draft["cover"] in self._covers():
            self.cover.value = draft["cover"]
        self._show_cover()

    def _typed(self) -> dict[str, Any]:
        return {**self.fields, "documentation": self.documentation, "file": self.file}

    def _check(self) -> None:
        """Mark what is missing or wrong, each where it stands."""
        for field, value in zip(FIELDS, self.card().values(), strict=True):
            problem = find_problem(field, value)
            self.problems[field.name].show_text(problem, State.PROBLEM)
            mark(self.fields[field.name].native, bool(problem))
        self._update_buttons()

    def _update_buttons(self) -> None:
        self.save.setEnabled(self.is_complete and not self._is_saving)

    # --- the cover ------------------------------------------------------------------------------

    def _ask_for_picture(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Cover", self.file.value, _PICTURES)
        if path:
            self.file.value = path
            self._show_cover()

    def _show_cover(self) -> None:
        self._drawing.forget()
        self._file.visible = self.cover.value == FILE
        self._picture = self._kept.cover if self.cover.value == KEPT else b""
        problem = ""
        if self.cover.value == FILE:
            problem = self._read_picture()
        self.file_problem.show_text(problem, State.PROBLEM)
        mark(self.file.native, bool(problem))
        if self.cover.value == DRAWN:
            self.preview.setText("Drawing...")
            self._drawing.start(partial(draw, self._get_model, self.request(), self._to))
        else:
            self._show_picture(self._picture)
        self._update_buttons()

    def _read_picture(self) -> str:
        """Read the chosen picture; return why it cannot be used."""
        if not self.file.value.strip():
            return "Choose a PNG or JPEG."
        try:
            content = read_cover(self.file.value.strip())
        except ConfigError as error:
            return str(error).removeprefix("cover: ")
        if not QPixmap().loadFromData(content):
            return "The picture is damaged, or too large to be shown."
        self._picture = content
        return ""

    def _show_picture(self, content: bytes) -> None:
        picture = QPixmap()
        if content and picture.loadFromData(content):
            self.preview.setPixmap(
                picture.scaled(
                    self.preview.contentsRect().size(),
                    Qt.AspectRatioMode.KeepAspectRatio,
                    Qt.TransformationMode.SmoothTransformation,
                )
            )
        else:
            self.preview.setText("No picture yet" if not content else "It cannot be shown.")

    def _on_not_drawn(self, error: Exception) -> None:
        self.preview.setText("It cannot be drawn.")
        self.message.show_text(str(error) or type(error).__name__, State.PROBLEM)

    # --- saving ---------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.is_complete:
            self._set_saving(True)
            self.message.show_text("Saving...", State.BUSY)
            self.requested.emit(self.request())

    def _set_saving(self, is_saving: bool) -> None:
        self._is_saving = is_saving
        for container in self._forms:
            container.enabled = not is_saving
        self._update_buttons()

    def show_error(self, text: str) -> None:
        """Say why the package was not saved; everything typed stays."""
        self._set_saving(False)
        self.message.show_text(text, State.PROBLEM)


def read_middle(source: ImageSource, dim: int) -> NDArray[Any]:
    """Return the middle of an image's first plane or volume, (C, [Z,] Y, X)."""
    frame = next(iter(source.frames(dim)))
    box = []
    for size in source.spatial_shape(dim):
        start = max((size - _MOST[dim]) // 2, 0)
        box.append(slice(start, min(start + _MOST[dim], size)))
    return source.read(frame, box)


def _fits(source: ImageSource, spec: ModelSpec) -> bool:
    """Whether an image has the channels and axes that a model takes."""
    try:
        source.spatial_axes(spec.config.dim)
    except AxesError:
        return False
    return source.n_channels == spec.config.in_channels


class ExportForm(QObject):
    """Opens the form, keeps what was typed, and closes it once the package is saved.

    Parameters
    ----------
    owner : QWidget
        The form stands before it.
    """

    def __init__(self, owner: QWidget) -> None:
        super().__init__(owner)
        self._owner = owner
        self._draft: tuple[ModelSpec, dict[str, Any]] | None = None
        self.dialog: ExportDialog | None = None

    def open(
        self,
        spec: ModelSpec,
        get_model: Callable[[], Model],
        to: str,
        save: Callable[[PackageRequest], None],
        *,
        source: ImageSource | None,
        attachments: Attachments | None,
    ) -> None:
        """Open the form, filled with what was typed for the same model before.

        `save` starts to save, and `on_saved` or `on_failed` says how that ended;
        for the others see `ExportDialog`.
        """
        dialog = ExportDialog(
            spec, get_model, to, source=source, attachments=attachments, parent=self._owner
        )
        if self._draft is not None and self._draft[0] == spec:
            dialog.fill(self._draft[1])
        dialog.requested.connect(save)
        dialog.finished.connect(partial(self._on_finished, spec))
        self.dialog = dialog
        dialog.open()

    def on_saved(self) -> None:
        """Close the form."""
        if self.dialog is not None:
            self.dialog.accept()

    def on_failed(self, text: str) -> None:
        """Say in the form why the package was not saved."""
        if self.dialog is not None:
            self.dialog.show_error(text)

    def _on_finished(self, spec: ModelSpec, result: int) -> None:
        if self.dialog is not None and result != QDialog.DialogCode.Accepted:
            self._draft = (spec, self.dialog.draft())
        self.dialog = None
