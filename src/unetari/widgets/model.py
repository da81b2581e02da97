"""`ModelWidget`: a model from the library, from a file, or built from options."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QTabBar,
    QVBoxLayout,
    QWidget,
)

from unetari.core.config import UNetConfig
from unetari.core.network import ForeignConfig
from unetari.core.source import ImageSource
from unetari.core.spec import ModelSpec
from unetari.errors import UntrustedModelError
from unetari.model.kinds import NATIVE, saved_kinds
from unetari.widgets.background import Background, single_shot
from unetari.widgets.builder import Builder
from unetari.widgets.card import CardView
from unetari.widgets.config_editor import UNetConfigEditor
from unetari.widgets.diagram import DiagramSection
from unetari.widgets.export_form import ExportForm, PackageRequest
from unetari.widgets.fields import align_labels
from unetari.widgets.library import LibraryPage
from unetari.widgets.messages import Message, State
from unetari.widgets.model_file import ASSUMPTIONS, ModelFilePage
from unetari.widgets.model_work import ModelChoice, build, load_file, load_listed, save
from unetari.widgets.normalization_editor import NormalizationEditor
from unetari.widgets.remarks import list_assumed, say_why, sum_up
from unetari.widgets.trust import TrustDialog

if TYPE_CHECKING:
    from unetari.model.keep import Opened

LIBRARY, FILE, BUILD = "Library", "File", "Build"
PAGES = (LIBRARY, FILE, BUILD)
_UNTRAINED = "The network is untrained: its weights are random, and its labels mean nothing yet."
_BROWSING_MS = 250  # an arrow key may pass rows by that are not meant


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
        self._opened: Opened | None = None
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
        self.library = LibraryPage()
        self._pages: dict[str, QWidget] = {}
        self._place = QVBoxLayout()
        self.message = Message()
        self.card = CardView()
        self._save = QPushButton("Save model...")
        self._save.setToolTip("Write the model to one file, in one of several formats")
        self.diagram = DiagramSection()
        self._lay_out()
        self._connect()
        self.set_page(LIBRARY if self.library.value() is not None else BUILD)

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._tabs)
        for name in PAGES:
            self._tabs.addTab(name)
        column.addLayout(self._place)
        self._add_page(LIBRARY, self.library)
        column.addWidget(self.message)
        column.addWidget(self.card)
        last = QHBoxLayout()
        last.addWidget(self.diagram.toggle)
        last.addWidget(self._save, stretch=1)
        column.addLayout(last)
        column.addWidget(self.diagram)

    def _add_page(self, name: str, page: QWidget) -> None:
        self._pages[name] = page
        self._place.addWidget(page)
        page.setVisible(name == self.page)
        align_labels(self)

    @cached_property
    def file(self) -> ModelFilePage:
        """The page of a model file, made when it is first needed: a panel opens sooner."""
        page = ModelFilePage()
        page.changed.connect(self._reload)
        page.keep_requested.connect(self._keep)
        self._add_page(FILE, page)
        return page

    @cached_property
    def builder(self) -> Builder:
        """The page of options, made when it is first needed."""
        page = Builder()
        page.changed.connect(self._on_edited)
        self._add_page(BUILD, page.native)
        return page

    @property
    def editor(self) -> UNetConfigEditor:
        """The options of the network that is built."""
        return self.builder.editor

    @property
    def intensities(self) -> NormalizationEditor:
        """How the network that is built wants its intensities."""
        return self.builder.intensities

    def _connect(self) -> None:
        self.changed.connect(self._show_diagram)
        self._tabs.currentChanged.connect(self._show_page)
        self.library.changed.connect(self._on_library)
        self.library.told.connect(self.message.show_text)
        self.library.busy_changed.connect(self._offer_keeping)
        self._loading.done.connect(self._on_loaded)
        self._loading.failed.connect(self._on_load_failed)
        self._saving.done.connect(self._on_saved)
        self._saving.failed.connect(self._on_save_failed)
        self._save.clicked.connect(self._ask_and_save)

    @property
    def page(self) -> str:
        """The page that is open: "Library", "File" or "Build"."""
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
        opened = self._opened
        if opened is None:
            return None
        sha256 = "" if opened.entry is None else opened.entry.sha256
        return ModelChoice(opened.model.spec, lambda: opened.model, True, sha256)

    @property
    def problem(self) -> str:
        """Why there is no model to use; empty if there is one."""
        if self.page == BUILD:
            return self.builder.problem
        return self._problem

    def build_with(self, **changes: int | str) -> None:
        """Open the builder with some options of the current model changed; nothing is trained."""
        choice = self.value()
        config = choice.spec.config if choice is not None else self.editor.value()
        if isinstance(config, ForeignConfig):
            config = UNetConfig(dim=config.dim, in_channels=config.in_channels)
        if changes.get("dim") == 2:
            config = config.to_2d()
        blocks = int(changes.pop("n_blocks", config.n_blocks))
        config = config.with_blocks(blocks).replace(**changes)
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
        if choice is not None:
            self._start_saving(choice, path, to, request)

    def _start_saving(
        self, choice: ModelChoice, path: str, to: str, request: PackageRequest | None = None
    ) -> None:
        """Save this model, whatever is chosen by now."""
        more = () if request is None else (request,)
        self._saving.start(partial(save, choice, path, to, *more))
        self._update_buttons()
        self.message.show_text("Saving...", State.BUSY)

    def _update_buttons(self) -> None:
        """Offer to save one model at a time: the outcome of each is to be said."""
        self._save.setEnabled(self.value() is not None and not self._saving.is_running)
        self._offer_keeping()

    def _offer_keeping(self) -> None:
        opened = self._opened
        is_file = opened is not None and opened.entry is not None
        if FILE in self._pages:
            self.file.offer_keeping(is_file and not self.library.is_busy)

    def _show_page(self) -> None:
        if self.page == FILE:
            _ = self.file
        elif self.page == BUILD:
            _ = self.builder
        for name, page in self._pages.items():
            page.setVisible(name == self.page)
        if self.page == LIBRARY:
            self.library.refresh()
        self._reload()

    def _on_library(self) -> None:
        if self.page == LIBRARY:
            self._reload()

    def _reload(self) -> None:
        self._loading.forget()
        self._opened = None
        if self.trust_dialog is not None:
            self.trust_dialog.close()
        if self.page == BUILD:
            self._problem = ""
            self._show_choice()
            return
        name, self._problem = self._find_problem()
        if not name:
            self._show_problem(State.NOTE if self._is_unset() else State.PROBLEM)
            if self.page == FILE and self._problem == self.file.intensities.problem:
                self.message.show_text("")  # the form itself says it
            return
        self._problem = f"Loading {name}..."
        # After the event loop has turned, so that a panel opens at once.
        self._soon.start(_BROWSING_MS if self.library.list.hasFocus() else 0)
        self._show_problem(State.BUSY)

    def _find_problem(self) -> tuple[str, str]:
        """Return what to load, in a word, or why nothing can be."""
        if self.page == FILE:
            problem = self.file.intensities.problem
            name = "" if problem else Path(self.file.path).name
            return name, problem or "Choose a model file."
        listed = self.library.value()
        if listed is None:
            return "", "No model comes with this installation: open a file or build one."
        if listed.is_missing:
            return "", (
                f"{listed.source} is not there any more. Locate it, or remove it from the list."
            )
        return listed.name, ""

    def _is_unset(self) -> bool:
        """Whether nothing was chosen yet."""
        return self.library.value() is None if self.page == LIBRARY else not self.file.path

    def _load(self) -> None:
        listed = self.library.value()
        if self.page == FILE and self.file.path:
            page, library = self.file, self.library.library
            options, intensities = page.options(), page.given_intensities()
            self._loading.start(partial(load_file, page.path, options, intensities, library))
        elif self.page == LIBRARY and listed is not None and not listed.is_missing:
            self._loading.start(partial(load_listed, listed, self.library.library))

    def _keep(self) -> None:
        if self._opened is not None and self._opened.entry is not None:
            self.library.keep(self._opened)

    def _on_edited(self) -> None:
        if self.page == BUILD:
            self._show_choice()

    def _on_loaded(self, opened: Opened) -> None:
        self._opened = opened
        self._problem = ""
        assumed = list_assumed(opened)
        if assumed or FILE in self._pages:
            self.file.offer_found(assumed)
        self._show_choice()

    def _on_load_failed(self, error: Exception) -> None:
        if isinstance(error, UntrustedModelError):
            self._ask_for_trust(error)
            return
        self._problem = say_why(error, self.file.path if self.page == FILE else "")
        self._show_problem(State.PROBLEM)
        if self.page == LIBRARY:
            self.library.refresh()  # the file may have gone

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
        self._mark_path(state is State.PROBLEM)
        listed = self.library.value() if self.page == LIBRARY else None
        if listed is not None and listed.is_missing:
            self.card.show_card(listed.spec, listed.card())
        else:
            self.card.show_card(None)
        self._update_buttons()
        self.changed.emit()

    def _mark_path(self, invalid: bool) -> None:
        if FILE in self._pages:
            is_of_path = self.page == FILE and self._problem != self.file.intensities.problem
            self.file.mark_path(invalid and is_of_path)

    def _show_choice(self) -> None:
        choice, opened = self.value(), self._opened
        self._mark_path(False)
        self._update_buttons()
        if self.page == BUILD:
            self.card.show_card(None)
            self.message.show_text("" if choice is None else _UNTRAINED, State.NOTE)
        elif opened is not None:
            self.card.show_card(opened.model.spec, opened.describe())
            where = ASSUMPTIONS if self.page == FILE else f"{FILE} > {ASSUMPTIONS}"
            self.message.show_text(*sum_up(opened, where))
        self.changed.emit()

    def _show_diagram(self) -> None:
        choice = self.value()
        if choice is None:
            self.diagram.set_network(None)
        else:
            self.diagram.set_network(choice.spec.config, choice.spec.name)

    def _ask_and_save(self) -> None:
        choice = self.value()
        if choice is None:
            return
        name = choice.spec.name or "model"
        filters = {kind.filter: kind for kind in saved_kinds()}
        path, chosen = QFileDialog.getSaveFileName(
            self, "Save model", f"{name}{NATIVE.suffixes[0]}", ";;".join(filters)
        )
        kind = filters.get(chosen, NATIVE)
        if path and kind is not NATIVE:
            path = path.removesuffix(NATIVE.suffixes[0])  # the name that was suggested
        if path and kind.is_package:
            self._ask_for_card(choice, path, kind.key)
        elif path:
            self._start_saving(choice, path, kind.key)

    def _ask_for_card(self, choice: ModelChoice, path: str, to: str) -> None:
        self.export_form.open(
            choice.spec,
            choice.get,
            to,
            partial(self._start_saving, choice, path, to),
            source=self.current_image(),
            attachments=choice.get().attachments if choice.is_trained else None,
        )

    def _on_saved(self, path: Path) -> None:
        self.export_form.on_saved()
        self._update_buttons()
        self.message.show_text(f"Saved to {path}", State.GOOD)

    def _on_save_failed(self, error: Exception) -> None:
        self.export_form.on_failed(str(error) or type(error).__name__)
        self._update_buttons()
        self.message.show_text(str(error) or type(error).__name__, State.PROBLEM)
