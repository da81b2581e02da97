"""`Builder`: the page on which a network is built from options."""

from __future__ import annotations

from magicgui.widgets import Container
from magicgui.widgets.bases import Widget

from unetari.widgets.config_editor import UNetConfigEditor
from unetari.widgets.fields import tighten
from unetari.widgets.normalization_editor import NormalizationEditor


class Builder(Container[Widget]):
    """Edits the options of a network and how it wants its intensities."""

    def __init__(self) -> None:
        self.editor = UNetConfigEditor()
        self.intensities = NormalizationEditor()
        super().__init__(widgets=[self.editor, self.intensities], labels=False)
        tighten(self)

    @property
    def problem(self) -> str:
        """Why no network can be built; empty if one can."""
        return self.editor.problem or self.intensities.problem
