"""`ModelWidget`: a bundled model, one from a file, or one built from options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QTabBar,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from unetari.core.config import UNetConfig
from unetari.core.network import ForeignConfig, NetworkConfig
from unetari.core.normalization import Normalization, describe_intensities
from unetari.core.source import ImageSource
from unetari.core.spec import ModelSpec
from unetari.errors import UntrustedModelError
from unetari.model.bundled import bundled_models
from unetari.model.kinds import NATIVE, saved_kinds
from unetari.widgets.background import Background, single_shot
from unetari.widgets.config_editor import UNetConfigEditor, describe
from unetari.widgets.diagram import DiagramSection
from unetari.widgets.export_form import ExportForm, PackageRequest
from unetari.widgets.fields import choice, form
from unetari.widgets.messages import Message, State, TextLabel
from unetari.widgets.model_file import ModelFilePage
from unetari.widgets.normalization_editor import NormalizationEditor
from unetari.widgets.trust import TrustDialog

if TYPE_CHECKING:
    from unetari.model.checkpoint import Model

BUNDLED, FILE, BUILD = "Bundled", "File", "Build"
PAGES = (BUNDLED, FILE, BUILD)
_UNTRAINED = "The network is untrained: its weights are random, and its labels mean nothing yet."
_SEED = 0  # so that predicting and then saving concern the same random weights


@dataclass(frozen=True)
class ModelChoice:
    """A model that is ready, or can be built at any time."""

    spec: ModelSpec
    """Options, normalization, class names and card."""
    get: Callable[[], Model]
    """Gives the model; may take seconds, so call it outside the GUI thread."""
    is_trained: bool
    """False for a network just built from options."""


def load(
    path_or_name: str, options: dict[str, Any], intensities: Normalization | None = None
) -> Model:
    """Load a model; the first call imports torch."""
    from unetari.model.checkpoint import load_model
    from unetari.model.formats.base import ASSUMED_INTENSITIES

    model = load_model(path_or_name, **options)
    if intensities is None:
        return model
    notes = tuple(note for note in model.notes if not note.startswith(ASSUMED_INTENSITIES))
    return replace(model.replace(normalization=intensities), notes=notes)


def build(config: UNetConfig, intensities: Normalization) -> Model:
    """Build an untrained model, the same one every time."""
    from unetari.model.checkpoint import Model

    return Model.build(config, normalization=intensities, seed=_SEED)


def save(choice: ModelChoice, path: str, to: str, request: PackageRequest | None = None) -> Path:
    """Save a model where the user said; the dialog has asked about that file, if it exists."""
    from unetari.model.export import export_model

    model = choice.get() if request is None else request.complete(choice.get())
    # Without a suffix it is another file that is written, and nobody was asked about that one.
    return export_model(model, path, to, overwrite=bool(Path(path).suffix))


class ModelWidget(QWidget):
    """Chooses the model; loading and saving happen in the background.

    Parameters
    ----------
    parent : QWidget, optional
        The owner.
    """

    changed = Signal()
    """Emitted when another model is chosen, loaded or edited, or cannot be used."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._loaded: Model | None = None
        self.trust_dialog: TrustDialog | None = None
        self._problem = ""
        self._loading = Background(self)
        self._saving = Background(self)
        self.export_form = ExportForm(self)
        self.current_image: Callable[[], ImageSource | None] = lambda: None
        self._soon = single_shot(self, 0, self._load)
        self._tabs = QTabBar()
        self._tabs.setExpanding(True)
        self._tabs.setDrawBase(False)
        self.bundled = choice({name: name for name in bundled_models()}, label="Model")
        self.file = ModelFilePage()
        self.editor = UNetConfigEditor()
        self.intensities = NormalizationEditor()
        self._builder = form([self.editor, self.intensities], labels=False)
        self.message = Message()
        self.card = TextLabel()
        self.about = QToolButton()
        self.details = TextLabel()
        self._save = QPushButton("Save model...")
        self._save.setToolTip("Write the model to one file, in one of several formats")
        self.diagram = DiagramSection()
        self.about.setText("Network, licence, data")
        self.about.setCheckable(True)
        self.about.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._pages = self._lay_out()
        self._show_details(False)
        self._connect()
        self.set_page(BUNDLED if len(self.bundled) else BUILD)

    def _lay_out(self) -> dict[str, QWidget]:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._tabs)
        bundled = form([self.bundled])
        pages = {BUNDLED: bundled.native, FILE: self.file, BUILD: self._builder.native}
        for name, page in pages.items():
            self._tabs.addTab(name)
            column.addWidget(page)
        column.addWidget(self.message)
        column.addWidget(self.card)
        column.addWidget(self.about)
        column.addWidget(self.details)
        last = QHBoxLayout()
        last.addWidget(self.diagram.toggle)
        last.addWidget(self._save, stretch=1)
        column.addLayout(last)
        column.addWidget(self.diagram)
        return pages

    def _show_details(self, shown: bool) -> None:
        self.about.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self.details.setVisible(shown)

    def _connect(self) -> None:
        self.changed.connect(self._show_diagram)
        self._tabs.currentChanged.connect(self._show_page)
        self.about.toggled.connect(self._show_details)
        self.bundled.changed.connect(self._reload)
        self.file.changed.connect(self._reload)
        self._builder.changed.connect(self._on_edited)
        self._loading.done.connect(self._on_loaded)
        self._loading.failed.connect(self._on_load_failed)
        self._saving.done.connect(self._on_saved)
        self._saving.failed.connect(self._on_save_failed)
        self._save.clicked.connect(self._ask_and_save)

    @property
    def page(self) -> str:
        """The page that is open: "Bundled", "File" or "Build"."""
        return PAGES[self._tabs.currentIndex()]

    def set_page(self, page: str) -> None:
        """Open a page; its model becomes the chosen one."""
        index = PAGES.index(page)
        if self._tabs.currentIndex() == index:
            self._show_page()
        self._tabs.setCurrentIndex(index)

    def value(self) -> ModelChoice | None:
        """Return the chosen model, or None while there is none; `problem` says why."""
        if self.page == BUILD:
            if self.problem:
                return None
            config, intensities = self.editor.value(), self.intensities.value()
            spec = ModelSpec(config=config, normalization=intensities)
            return ModelChoice(spec, partial(build, config, intensities), is_trained=False)
        model = self._loaded
        if model is None:
            return None
        return ModelChoice(model.spec, lambda: model, is_trained=True)

    @property
    def problem(self) -> str:
        """Why there is no model to use; empty if there is one."""
        if self.page == BUILD:
            return self.editor.problem or self.intensities.problem
        return self._problem

    def build_with(self, **changes: int | str) -> None:
        """Open the builder with some options of the current model changed; nothing is trained."""
        choice = self.value()
        config = choice.spec.config if choice is not None else self.editor.value()
        if isinstance(config, ForeignConfig):
            config = UNetConfig(dim=config.dim, in_channels=config.in_channels)
        if changes.get("dim") == 2:
            config = config.to_2d()
        config = config.with_blocks(changes.pop("n_blocks", config.n_blocks)).replace(**changes)
        if self.page != BUILD:
            self.set_page(BUILD)
        if choice is not None:
            self.intensities.set_value(choice.spec.normalization)
        self.editor.set_value(config)

    def save_to(
        self, path: str, to: str = NATIVE.key, request: PackageRequest | None = None
    ) -> None:
        """Save the model in the background; an existing file of exactly this name is replaced.

        `to` is a format, see `unetari.model.export.export_model`; packages need a request.
        """
        choice = self.value()
        if choice is None:
            return
        more = () if request is None else (request,)
        self._saving.start(partial(save, choice, path, to, *more))
        self._update_save()
        self.message.show_text("Saving...", State.BUSY)

    def _update_save(self) -> None:
        """Offer to save one model at a time: the outcome of each is to be said."""
        self._save.setEnabled(self.value() is not None and not self._saving.is_running)

    def _show_page(self) -> None:
        for name, page in self._pages.items():
            page.setVisible(name == self.page)
        self._reload()

    def _reload(self) -> None:
        self._loading.forget()
        self._loaded = None
        if self.trust_dialog is not None:
            self.trust_dialog.close()
        if self.page == BUILD:
            self._problem = ""
            self._show_choice()
            return
        path = self._path()
        if self.page == FILE and self.file.intensities.problem:
            self._problem = self.file.intensities.problem
            self._show_problem(State.PROBLEM)
            self.message.show_text("")  # the form itself says it
            return
        if path:
            self._problem = f"Loading {Path(path).name}..."
            # After the event loop has turned, so that a panel opens at once.
            self._soon.start()
        elif self.page == FILE:
            self._problem = "Choose a model file."
        else:
            self._problem = "No model comes with this installation: open a file or build one."
        self._show_problem(State.BUSY if path else State.NOTE)

    def _path(self) -> str:
        return self.file.path if self.page == FILE else str(self.bundled.value or "")

    def _load(self) -> None:
        if self.page != BUILD and self._path():
            page = self.file if self.page == FILE else None
            options = page.options() if page else {}
            intensities = page.given_intensities() if page else None
            self._loading.start(partial(load, self._path(), options, intensities))

    def _on_edited(self) -> None:
        if self.page == BUILD:
            self._show_choice()

    def _on_loaded(self, model: Model) -> None:
        self._loaded = model
        self._problem = ""
        self._show_choice()

    def _on_load_failed(self, error: Exception) -> None:
        if isinstance(error, UntrustedModelError):
            self._ask_for_trust(error)
            return
        self._problem = str(error) or type(error).__name__
        self._show_problem(State.PROBLEM)

    def _ask_for_trust(self, error: UntrustedModelError) -> None:
        name = Path(error.path).name
        self._problem = f"{name} is not opened: it could run code. Choose it again to be asked."
        self._show_problem(State.PROBLEM)
        dialog = TrustDialog(error, self)
        dialog.accepted.connect(partial(self._on_trusted, error.sha256))
        dialog.finished.connect(self._forget_dialog)
        self.trust_dialog = dialog
        dialog.open()

    def _forget_dialog(self) -> None:
        self.trust_dialog = None

    def _on_trusted(self, sha256: str) -> None:
        from unetari.model.trust import trust

        self._forget_dialog()
        trust(sha256)
        self._reload()

    def _show_problem(self, state: State) -> None:
        self.message.show_text(self._problem, state)
        self._show_card(None)
        self._update_save()
        self.changed.emit()

    def _show_choice(self) -> None:
        choice = self.value()
        self._update_save()
        self._show_card(None if self.page == BUILD or choice is None else choice.spec)
        if self.page == BUILD:
            self.message.show_text("" if choice is None else _UNTRAINED, State.NOTE)
        elif self._loaded is not None:
            notes = " ".join(self._loaded.notes)
            self.message.show_text(notes or "Ready.", State.NOTE if notes else State.GOOD)
        self.changed.emit()

    def _show_card(self, spec: ModelSpec | None) -> None:
        details = "" if spec is None else details_text(spec)
        self.card.setText("" if spec is None else card_text(spec))
        self.card.setVisible(spec is not None)
        self.details.setText(details)
        self.about.setVisible(bool(details))
        self.details.setVisible(bool(details) and self.about.isChecked())

    def _show_diagram(self) -> None:
        choice = self.value()
        if choice is None:
            self.diagram.set_network(None)
        else:
            self.diagram.set_network(choice.spec.config, choice.spec.name)

    def _ask_and_save(self) -> None:
        choice = self.value()
        name = (choice.spec.name if choice else "") or "model"
        filters = {kind.filter: kind for kind in saved_kinds()}
        path, chosen = QFileDialog.getSaveFileName(
            self, "Save model", f"{name}{NATIVE.suffixes[0]}", ";;".join(filters)
        )
        kind = filters.get(chosen, NATIVE)
        if path and kind is not NATIVE:
            path = path.removesuffix(NATIVE.suffixes[0])  # the name that was suggested
        if path and kind.is_package and choice is not None:
            self._ask_for_card(choice, path, kind.key)
        elif path:
            self.save_to(path, kind.key)

    def _ask_for_card(self, choice: ModelChoice, path: str, to: str) -> None:
        self.export_form.open(
            choice.spec,
            choice.get,
            to,
            partial(self.save_to, path, to),
            source=self.current_image(),
            attachments=choice.get().attachments if choice.is_trained else None,
        )

    def _on_saved(self, path: Path) -> None:
        self.export_form.on_saved()
        self._update_save()
        self.message.show_text(f"Saved to {path}", State.GOOD)

    def _on_save_failed(self, error: Exception) -> None:
        self.export_form.on_failed(str(error) or type(error).__name__)
        self._update_save()
        self.message.show_text(str(error) or type(error).__name__, State.PROBLEM)


def card_text(spec: ModelSpec) -> str:
    """Return what a model segments, in two or three lines."""
    config = spec.config
    channels = "1 channel" if config.in_channels == 1 else f"{config.in_channels} channels"
    lines = [
        spec.description,
        f"{config.dim}D, {channels}; labels: {', '.join(_numbered(spec.labels))}.",
    ]
    if spec.voxel_size:
        size = " x ".join(f"{length:g}" for length in spec.voxel_size)
        lines.append(f"Trained at {size} µm per voxel.")
    return "\n".join(line for line in lines if line)


def details_text(spec: ModelSpec) -> str:
    """Return the rest of a model's card: the network, and whom to thank."""
    parts = {
        "Network": describe_network(spec.config),
        "Intensities": describe_intensities(spec.normalization),
        "Licence": spec.license,
        "Authors": ", ".join(spec.authors),
        "Data": spec.data_credit,
    }
    return "\n".join(f"{title}: {text}" for title, text in parts.items() if text)


def describe_network(config: NetworkConfig) -> str:
    """Say in a line what a network is, how large, and what it sees."""
    if isinstance(config, UNetConfig):
        return describe(config)
    size = f"{config.parameters:,} parameters; " if config.parameters is not None else ""
    multiples = " x ".join(str(reach.multiple) for reach in config.reach)
    margins = " x ".join(str(reach.margin) for reach in config.reach)
    return (
        f"{config.architecture}; {size}sizes that fit without padding: multiples of {multiples}; "
        f"an output pixel sees {margins} pixels on each side ({config.origin})."
    )


def _numbered(labels: tuple[str, ...], most: int = 6) -> list[str]:
    named = [f"{number} {name}" for number, name in enumerate(labels[:most])]
    return [*named, "..."] if len(labels) > most else named
