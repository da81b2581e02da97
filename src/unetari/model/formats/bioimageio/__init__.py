"""BioImage.IO packages: a description, weights, test tensors and documentation.

https://bioimage.io; the description is checked by bioimageio.spec, the extra "bioimageio".
"""

from __future__ import annotations

from pathlib import Path

from unetari.model import kinds
from unetari.model.formats.bioimageio.package import find_description
from unetari.model.formats.bioimageio.reading import load
from unetari.model.formats.bioimageio.writing import draw_preview, save

__all__ = ["KIND", "draw_preview", "load", "save", "sniff"]

KIND = kinds.BIOIMAGEIO


def sniff(path: Path) -> bool:
    """Whether `path` is a folder or archive that holds a description, or a description."""
    return find_description(path) is not None
