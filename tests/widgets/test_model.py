"""Models are loaded, built and saved in the background, and failures are said."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import get_args

import pytest
import torch
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractSpinBox, QFileDialog, QLineEdit, QPushButton, QToolButton

import unetari
from unetari.core.card import introduce
from unetari.core.normalization import Normalization
from unetari.core.spec import ModelSpec
from unetari.model import bundled
from unetari.model.checkpoint import Model
from unetari.model.notes import Assumed
from unetari.model.weights import AnyActivation
from unetari.widgets import model
from unetari.widgets.messages import State, is_marked
from unetari.widgets.model import ModelWidget
from unetari.widgets.model_file import ModelFilePage
from unetari.widgets.trust import TrustDialog

from .conftest import WAIT_MS


@pytest.fixture
def widget(bundled_folder: Path, qtbot: QtBot) -> ModelWidget:
    panel = ModelWidget()
    qtbot.addWidget(panel)
    return panel


def wait_for(qtbot: QtBot, widget: ModelWidget, state: State) -> None:
    qtbot.waitUntil(lambda: widget.message.state is state, timeout=WAIT_MS)


def get_model(widget: ModelWidget) -> Model:
    choice = widget.value()
    assert choice is not None
    return choice.get()


def get_spec(widget: ModelWidget) -> ModelSpec:
    choice = widget.value()
    assert choice is not None
    return choice.spec


def test_forms_are_made_when_their_page_is_opened(qtbot: QtBot, widget: ModelWidget) -> None:
    assert not widget.findChildren(ModelFilePage)
    assert not widget.findChildren(QAbstractSpinBox)
    widget.show()
    for page, kind in (("File", ModelFilePage), ("Build", QAbstractSpinBox)):
        widget.set_page(page)
        assert any(part.isVisible() for part in widget.findChildren(kind))
    widget.set_page("Library")
    assert not any(page.isVisible() for page in widget.findChildren(ModelFilePage))


def test_the_first_bundled_model_loads_by_itself(qtbot: QtBot, widget: ModelWidget) -> None:
    assert widget.page == "Library"
    assert widget.value() is None
    assert "Loading tiny-2d" in widget.problem
    wait_for(qtbot, widget, State.GOOD)
    choice = widget.value()
    assert choice is not None
    assert choice.is_trained
    assert choice.spec.name == "tiny-2d"
    assert "Nuclei, for tests." in widget.card.summary.text()


def test_only_the_last_choice_counts(qtbot: QtBot, widget: ModelWidget) -> None:
    widget.library.choose("tiny-3d")
    widget.library.choose("tiny-2d")
    widget.library.choose("tiny-3d")
    wait_for(qtbot, widget, State.GOOD)
    assert get_spec(widget).name == "tiny-3d"


def test_without_bundled_models_the_builder_opens(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "_files", dict)
    widget = ModelWidget()
    qtbot.addWidget(widget)
    assert widget.page == "Build"
    assert widget.value() is not None


def test_a_built_model_is_the_same_every_time(qtbot: QtBot, widget: ModelWidget) -> None:
    widget.build_with(n_blocks=2, start_filters=4)
    choice = widget.value()
    assert choice is not None
    assert not choice.is_trained
    assert choice.get().sha256 == choice.get().sha256
    assert "untrained" in widget.message.text


def test_what_a_program_does_not_tell_can_be_said(widget: ModelWidget) -> None:
    told: dict[str, int | str] = {"dim": 3, "in_channels": 2, "classes": "independent"}
    for name, value in told.items():
        widget.file.set_option(name, value)
    assert widget.file.options() == told
    widget.file.set_option("dim", None)
    assert "dim" not in widget.file.options()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a TorchScript file that nobody has trusted."""
    from unetari.model import trust
    from unetari.model.checkpoint import Model
    from unetari.model.export import export_model

    monkeypatch.setattr(trust, "_trusted", set())
    config = unetari.UNetConfig(n_blocks=2, start_filters=4)
    return export_model(Model.build(config, seed=0), tmp_path / "program.ts")


def open_untrusted(qtbot: QtBot, widget: ModelWidget, path: Path) -> TrustDialog:
    widget.set_page("File")
    widget.file.set_path(str(path))
    qtbot.waitUntil(lambda: widget.trust_dialog is not None, timeout=WAIT_MS)
    assert widget.trust_dialog is not None
    return widget.trust_dialog


def test_a_file_that_could_run_code_is_asked_about(
    qtbot: QtBot, widget: ModelWidget, program: Path
) -> None:
    dialog = open_untrusted(qtbot, widget, program)
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    shown = dialog.text()
    for fact in (str(program), f"{program.stat().st_size:,} bytes", "TorchScript is a program"):
        assert fact in shown
    assert digest in shown.replace(" ", "")
    assert dialog.cancel.isDefault()
    dialog.trust.click()
    wait_for(qtbot, widget, State.GOOD)
    assert widget.trust_dialog is None
    widget.set_page("Build")
    widget.set_page("File")  # not asked again
    wait_for(qtbot, widget, State.GOOD)


def test_a_file_that_is_not_trusted_stays_closed(
    qtbot: QtBot, widget: ModelWidget, program: Path
) -> None:
    open_untrusted(qtbot, widget, program).cancel.click()
    assert widget.value() is None
    assert "could run code" in widget.problem
    assert widget.trust_dialog is None
    line = widget.file.findChild(QLineEdit)
    assert line is not None
    # The same path once more: asked again.
    qtbot.keyClick(line, Qt.Key.Key_Return)  # type: ignore[no-untyped-call]
    qtbot.waitUntil(lambda: widget.trust_dialog is not None, timeout=WAIT_MS)
    dialog: TrustDialog | None = widget.trust_dialog
    assert dialog is not None
    dialog.cancel.click()
    open_untrusted(qtbot, widget, program.rename(program.with_suffix(".pt")))
    widget.set_page("Build")  # another choice takes the question back
    assert widget.trust_dialog is None


def test_the_format_is_chosen_when_saving(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[str] = []

    def choose(*arguments: str) -> tuple[str, str]:
        offered.extend(arguments[-1].split(";;"))
        return str(tmp_path / "mine"), next(name for name in offered if "state_dict" in name)

    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *arguments: choose(*arguments[1:]))
    widget.build_with(n_blocks=2, start_filters=4)
    next(b for b in widget.findChildren(QPushButton) if b.text() == "Save model...").click()
    wait_for(qtbot, widget, State.GOOD)
    assert offered[0] == "unetari model (*.safetensors)"
    assert "ONNX (*.onnx)" in offered
    assert torch.load(tmp_path / "mine.pth", weights_only=True)


def test_an_invalid_build_is_no_model(widget: ModelWidget) -> None:
    widget.set_page("Build")
    widget.editor.fields["normalization"].value = "group5"
    assert widget.value() is None
    assert "do not divide" in widget.problem


def test_a_saved_model_loads_again(qtbot: QtBot, widget: ModelWidget, tmp_path: Path) -> None:
    widget.build_with(n_blocks=2, start_filters=4, out_channels=3)
    built = get_spec(widget)
    path = tmp_path / "mine.safetensors"
    widget.save_to(str(path))
    wait_for(qtbot, widget, State.GOOD)
    assert str(path) in widget.message.text
    widget.set_page("File")
    widget.file.set_path(str(path))
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert get_spec(widget) == built


def test_a_model_that_cannot_be_saved_is_said(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path
) -> None:
    widget.build_with(n_blocks=1, start_filters=2)
    widget.save_to(str(tmp_path / "nowhere" / "mine.safetensors"))
    wait_for(qtbot, widget, State.PROBLEM)
    assert "nowhere" in widget.message.text
    assert widget.value() is not None


def test_a_file_that_nobody_was_asked_about_is_not_replaced(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path
) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"the work of a week")
    widget.build_with(n_blocks=1, start_filters=2)
    widget.save_to(str(tmp_path / "mine"))
    wait_for(qtbot, widget, State.PROBLEM)
    assert "mine.safetensors exists" in widget.message.text
    assert path.read_bytes() == b"the work of a week"
    widget.save_to(str(path))
    wait_for(qtbot, widget, State.GOOD)


def test_models_are_saved_one_after_the_other(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    button = next(b for b in widget.findChildren(QPushButton) if "Save" in b.text())
    opened = threading.Event()
    monkeypatch.setattr(model, "save", lambda _, path, to: opened.wait(30) and Path(path))
    widget.build_with(n_blocks=1, start_filters=2)
    assert button.isEnabled()
    widget.save_to(str(tmp_path / "mine.safetensors"))
    widget.build_with(n_blocks=2)
    assert not button.isEnabled()
    opened.set()
    wait_for(qtbot, widget, State.GOOD)
    assert button.isEnabled()


def test_a_changed_network_keeps_its_intensities(
    qtbot: QtBot, widget: ModelWidget, model_folder: Path, tmp_path: Path
) -> None:
    given = Normalization(method="zscore", scope="frame")
    trained = unetari.load_model(str(model_folder / "tiny-3d.safetensors"))
    unetari.save_model(trained.replace(normalization=given), tmp_path / "mine.safetensors")
    widget.set_page("File")
    widget.file.set_path(str(tmp_path / "mine.safetensors"))
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    widget.build_with(dim=2)
    assert get_spec(widget).config.dim == 2
    assert get_spec(widget).normalization == given


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_damaged_file_is_said(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    widget.set_page("File")
    widget.file.set_path(str(path))
    wait_for(qtbot, widget, State.PROBLEM)
    assert widget.value() is None
    assert "bad.safetensors" in widget.problem
    assert is_marked(widget.file._path)
    widget.set_page("Library")
    wait_for(qtbot, widget, State.GOOD)
    assert not is_marked(widget.file._path)


def test_bare_weights_take_the_given_options(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path
) -> None:
    network = unetari.UNet(n_blocks=2, start_filters=4, activation="elu")
    path = tmp_path / "article.pt"
    torch.save(network.state_dict(), path)
    widget.set_page("File")
    widget.file.set_path(str(path))
    wait_for(qtbot, widget, State.NOTE)
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert "activation" in widget.message.text
    assert get_spec(widget).config.activation == "relu"
    widget.file.set_option("activation", "elu")
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert get_spec(widget).config.activation == "elu"


def test_what_was_said_of_one_file_is_not_said_of_the_next(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path
) -> None:
    network = unetari.UNet(n_blocks=2, start_filters=4)
    for name in ("first.pt", "second.pt"):
        torch.save(network.state_dict(), tmp_path / name)
    widget.set_page("File")
    widget.file.set_option("conv_mode", "valid")  # before there is a file: of the first
    widget.file.set_path(str(tmp_path / "first.pt"))
    widget.file.set_option("activation", "elu")
    widget.file.intensities.set_value(Normalization(method="range", low=0, high=4095))
    widget.file.set_path(str(tmp_path / "first.pt"))
    assert widget.file.options() == {"conv_mode": "valid", "activation": "elu"}
    widget.file.set_path(str(tmp_path / "second.pt"))
    assert widget.file.options() == {}
    assert widget.file.given_intensities() is None
    assert not any("given" in b.text() for b in widget.findChildren(QToolButton))
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert get_spec(widget).config.activation == "relu"
    widget.file.intensities.method.value = "range"
    given = widget.file.given_intensities()
    assert given is not None
    assert (given.low, given.high) == (0, 255)


def test_a_repaired_file_can_be_chosen_again(
    qtbot: QtBot,
    widget: ModelWidget,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    widget.set_page("File")
    browse = next(b for b in widget.findChildren(QPushButton) if "Browse" in b.text())
    browse.click()
    wait_for(qtbot, widget, State.PROBLEM)
    path.write_bytes((model_folder / "tiny-2d.safetensors").read_bytes())
    browse.click()
    wait_for(qtbot, widget, State.GOOD)


def test_bare_weights_take_the_given_number_of_groups(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path
) -> None:
    network = unetari.UNet(n_blocks=2, start_filters=8, normalization="group4")
    path = tmp_path / "article.pt"
    torch.save(network.state_dict(), path)
    widget.set_page("File")
    widget.file.set_path(str(path))
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert get_spec(widget).config.normalization != "group4"
    widget.file.set_option("normalization", "group4")
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert get_spec(widget).config.normalization == "group4"
    widget.file.set_option("normalization", None)
    assert widget.file.options() == {}


def test_bare_weights_take_the_given_intensities(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path
) -> None:
    network = unetari.UNet(n_blocks=2, start_filters=4, normalization="instance")
    path = tmp_path / "article.pt"
    torch.save(network.state_dict(), path)
    widget.set_page("File")
    widget.file.set_path(str(path))
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert "intensities percentiles 1 and 99.8" in widget.message.text
    assert "Intensity normalization is assumed" in widget.card.details.text()
    given = Normalization(method="range", low=0, high=4095)
    widget.file.set_option("normalization", "instance")
    widget.file.intensities.set_value(given)
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    spec = get_spec(widget)
    assert (spec.normalization, spec.config.normalization) == (given, "instance")
    assert "intensities" not in widget.message.text
    assert "Intensity normalization" not in widget.card.details.text()
    assert "fixed range 0 and 4095 to 0 and 1" in widget.card.details.text()


def test_what_was_assumed_is_one_sentence_and_the_rest_is_in_the_card(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path
) -> None:
    network = unetari.UNet(n_blocks=2, start_filters=8, normalization="group4", activation="elu")
    path = tmp_path / "article.pt"
    torch.save(network.state_dict(), path)
    widget.set_page("File")
    widget.file.set_path(str(path))
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    said = widget.message.text
    assert said.startswith("Assumed: activation ReLU; ")
    assert said.endswith("If the labels look wrong, change this under Assumptions.")
    assert len(said) < 300
    for note in get_model(widget).notes:  # with everything else that it may be
        assert note in widget.card.details.text()
    widget.file.set_option("activation", "elu")
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert "activation ReLU" not in widget.message.text
    toggle = next(b for b in widget.findChildren(QToolButton) if "Assumptions" in b.text())
    assert toggle.text() == "Assumptions (1 given)"


def test_options_of_single_programs_come_with_what_the_file_leaves_open(qtbot: QtBot) -> None:
    page = ModelFilePage()
    qtbot.addWidget(page)
    notes = [
        Assumed("...", "layer_order", "gcr", "grc"),
        Assumed("...", "full_norm", True, False),
        Assumed("...", "intensities", "extremes"),
    ]
    page.offer_found(notes)
    page.set_option("layer_order", "grc")
    page.set_option("full_norm", False)
    assert page.options() == {"layer_order": "grc", "full_norm": False}
    page.offer_found(())  # what was given is assumed no longer, and stays
    assert page.options() == {"layer_order": "grc", "full_norm": False}
    page.set_option("layer_order", None)
    assert page.options() == {"full_norm": False}


def test_every_activation_that_a_file_may_have_can_be_said(widget: ModelWidget) -> None:
    for activation in get_args(AnyActivation):
        widget.file.set_option("activation", activation)
        assert widget.file.options() == {"activation": activation}


def test_a_file_that_is_not_there_is_said_without_its_folder(
    qtbot: QtBot, widget: ModelWidget, tmp_path: Path
) -> None:
    widget.set_page("File")
    widget.file.set_path(str(tmp_path / "gone.pth"))
    wait_for(qtbot, widget, State.PROBLEM)
    assert widget.message.text.startswith("gone.pth: There is no such file")


def test_a_built_network_takes_the_given_intensities(widget: ModelWidget) -> None:
    widget.build_with(n_blocks=2, start_filters=4)
    given = Normalization(method="zscore", scope="frame")
    widget.intensities.set_value(given)
    choice = widget.value()
    assert choice is not None
    assert choice.spec.normalization == choice.get().spec.normalization == given


@pytest.mark.parametrize("page", ["File", "Build"])
def test_limits_in_the_wrong_order_are_no_model(
    qtbot: QtBot, widget: ModelWidget, model_folder: Path, page: str
) -> None:
    widget.file.set_path(str(model_folder / "tiny-2d.safetensors"))
    widget.set_page(page)
    editor = widget.file.intensities if page == "File" else widget.intensities
    editor.method.value = "range"
    low, high = editor.limits["range"]
    low.value = high.value
    assert widget.value() is None
    assert "low smaller than high" in widget.problem
    low.value = 0
    qtbot.waitUntil(lambda: widget.value() is not None, timeout=WAIT_MS)
    assert widget.problem == ""


def test_the_card_has_what_a_user_must_know() -> None:
    spec = ModelSpec(
        class_names=("background", "nucleus"),
        description="Nuclei.",
        voxel_size=(0.5, 0.5),
        license="CC0-1.0",
        data_credit="Somebody",
    )
    assert introduce(spec).splitlines() == [
        "Nuclei.",
        "2D, 1 channel; labels: 0 background, 1 nucleus.",
        "Trained at 0.5 x 0.5 µm per voxel.",
    ]
