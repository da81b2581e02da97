"""Drawings out: one SVG file, complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from unetari.core.files import whole_file
from unetari.errors import ImageFileError, OutputExistsError

SUFFIX = ".svg"


def check_svg_path(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Return where a drawing is saved: the path, with the suffix .svg if it has none.

    Parameters
    ----------
    path : str or path-like
        The file to be written.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    ImageFileError
        If the path has another suffix, is a folder, or its folder does not exist.
    OutputExistsError
        If the file exists and may not be replaced.
    """
    path = Path(path)
    path = path if path.suffix else path.with_name(path.name + SUFFIX)
    if path.suffix.lower() != SUFFIX:
        raise ImageFileError(
            f"{path}: drawings are saved as {SUFFIX}, not {path.suffix}. "
            f"Use {path.with_suffix(SUFFIX).name}."
        )
    if path.is_dir():
        raise ImageFileError(f"{path}: it is a folder. Choose the name of a file.")
    if not path.parent.is_dir():
        raise ImageFileError(f"{path}: the folder {path.parent} does not exist. Create it first.")
    if path.exists() and not overwrite:
        raise OutputExistsError(
            f"{path} exists already. Choose another name, or allow overwriting it (--overwrite on "
            "the command line, overwrite=True in Python)."
        )
    return path


def save_svg(svg: str, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a drawing.

    Parameters
    ----------
    svg : str
        The SVG document.
    path : str or path-like
        The file; the suffix .svg is added if there is none.
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ImageFileError
        If it cannot be written there.
    OutputExistsError
        If the file exists and may not be replaced.
    """
    path = check_svg_path(path, overwrite=overwrite)
    try:
        with whole_file(path) as temporary:
            temporary.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise ImageFileError(
            f"{path}: it cannot be written ({error.strerror or error}). "
            "Check the folder, its permissions and the free space."
        ) from error
    return path
