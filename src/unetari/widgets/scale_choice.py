"""`ScaleChoice`: whether the image is rescaled to the model's voxel size."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

from unetari.core.shapes import Fix
from unetari.core.voxels import compare_voxel_sizes, rescale_factors
from unetari.errors import UnetariError
from unetari.viewer.voxels import voxel_size

if TYPE_CHECKING:
    from napari.layers import Image

    from unetari.core.source import ImageSource
    from unetari.core.spec import ModelSpec


class ScaleChoice:
    """Offers factors, and keeps what the user chose until they are others.

    Another layer, another model and other voxel sizes end a choice: nobody has
    seen the factors that would follow from them.
    """

    def __init__(self) -> None:
        self._layer: ReferenceType[Image] | None = None
        self._offered: tuple[float, ...] | None = None
        self._is_chosen = False
        self._warning = ""

    @property
    def factors(self) -> tuple[float, ...] | None:
        """The factors to rescale by, ([Z,] Y, X); None to leave the image as it is."""
        return self._offered if self._is_chosen else None

    @property
    def notes(self) -> list[str]:
        """What the user should know of the voxel sizes."""
        return [self._warning] if self._warning and not self._is_chosen else []

    @property
    def fixes(self) -> list[Fix]:
        """What a click can change."""
        if self._is_chosen:
            return [Fix("own_size", None, "Do not rescale")]
        if self._offered is None:
            return []
        text = "Rescale to the model's voxel size (labels come back on the image's own voxels)"
        return [Fix("rescale", None, text)]

    def choose(self, rescale: bool) -> None:
        """Rescale by what is offered, or do not."""
        self._is_chosen = rescale and self._offered is not None

    def update(
        self, layer: Image | None, source: ImageSource | None, spec: ModelSpec | None
    ) -> None:
        """Look at the voxel sizes of an image and a model; None where there is none."""
        warning, offered = "", None
        if layer is not None and source is not None and spec is not None:
            sizes = voxel_size(layer, source.axes)
            warning = compare_voxel_sizes(sizes, spec)
            offered = _factors(sizes, spec) if warning else None
        known = self._layer() if self._layer is not None else None
        if layer is not known or offered != self._offered:
            self._is_chosen = False
        self._layer = None if layer is None else ref(layer)
        self._warning, self._offered = warning, offered


def _factors(sizes: dict[str, float], spec: ModelSpec) -> tuple[float, ...] | None:
    try:
        return rescale_factors(sizes, spec)
    except UnetariError:
        return None  # the warning stays, and so does rescaling the image by hand
