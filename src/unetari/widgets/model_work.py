"""What the model panel does outside the GUI thread; without Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetari.core.config import UNetConfig
from unetari.core.normalization import Normalization
from unetari.core.spec import ModelSpec
from unetari.model.library import Library
from unetari.model.listing import Listed

if TYPE_CHECKING:  # torch is imported where it is needed: a panel opens without
    from unetari.model.checkpoint import Model
    from unetari.model.keep import Opened
    from unetari.widgets.export_form import PackageRequest

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
    file_sha256: str = ""
    """Hash of its file, if it came from one of the user's."""


def import_for_runs() -> None:
    """Import what runs need, in a thread: the window must not wait for it."""
    # The first two are for the result layer: its features, and the colours napari mixes.
    for name in ("pandas", "skimage.color.colorconv", "unetari.inference.predict"):
        import_module(name)


def load_listed(listed: Listed, library: Library) -> Opened:
    """Load a model that was chosen from the list; the first call imports what runs need."""
    import_for_runs()
    from unetari.model import keep

    if listed.origin == "recent" and listed.entry is not None:
        entry = listed.entry
        opened = keep.open_file(entry.path, entry.options, entry.intensities)
        return keep.remember(opened, library)
    return keep.open_named(listed.name, listed.entry)


def load_file(
    path: str, options: dict[str, Any], intensities: Normalization | None, library: Library
) -> Opened:
    """Load a model file, and note it among the recent ones."""
    import_for_runs()
    from unetari.model import keep

    return keep.remember(keep.open_file(path, options, intensities), library)


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
