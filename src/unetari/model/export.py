"""`export_model`: hand a model on in a format that others read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unetari.errors import ConfigError, ModelFileError
from unetari.model.checkpoint import Model, refuse_value
from unetari.model.files import check_finite, check_target, whole_file
from unetari.model.formats import find_writer
from unetari.model.kinds import Kind, saved_kinds


def export_model(
    model: Model,
    path: str | os.PathLike[str],
    to: str | None = None,
    *,
    image: NDArray[Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a model in any of the formats that are written.

    The file appears complete or not at all.

    Parameters
    ----------
    model : Model
        The model; it is not changed.
    path : str or path-like
        The file. The format's suffix is added if there is none.
    to : str, optional
        The format: "safetensors", "bioimageio", "onnx", "torchscript", "pt2", "state_dict".
        Default: what the suffix of `path` says.
    image : ndarray, optional
        (C, [Z,] Y, X), for formats that hold a test image ("bioimageio"), as it comes from a
        microscope. Default: a generated one.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    OutputExistsError
        If the file exists and `overwrite` is false.
    ConfigError
        If there is no such format, the suffix fits several, or the model's card lacks what the
        format must say.
    ModelFileError
        If the network cannot be written in this format, weights are not finite, or the file
        cannot be written.
    MissingExtraError
        If the format needs a package that is not installed.
    """
    if not isinstance(model, Model):
        raise refuse_value(model, "a Model")
    path, kind = find_target(Path(path), to, overwrite=overwrite)
    if image is not None and not kind.takes_image:
        raise ConfigError(f"image: The format {kind.key!r} holds no test image. Leave it out.")
    check_finite(model.network, path)
    save: Any = find_writer(kind.key).save
    options = {"image": image} if kind.takes_image else {}
    with whole_file(path) as temporary:
        try:
            save(model.network, model.spec, temporary, **options)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
    return path


def find_target(path: Path, to: str | None, *, overwrite: bool) -> tuple[Path, Kind]:
    """Return the file that `export_model` would write, and its format; raises as that does."""
    kind = _choose(to, path)
    return check_target(path, kind, overwrite=overwrite), kind


def _choose(to: str | None, path: Path) -> Kind:
    known = {kind.key: kind for kind in saved_kinds()}
    if to is not None:
        if to not in known:
            raise ConfigError(f"to={to!r} is no format. Choose one of: {', '.join(known)}.")
        return known[to]
    fitting = [kind for kind in known.values() if path.suffix.lower() in kind.suffixes]
    if len(fitting) != 1:
        choices = ", ".join(kind.key for kind in fitting or known.values())
        raise ConfigError(
            f"{path}: The suffix {path.suffix!r} does not tell the format. Say which: {choices}."
        )
    return fitting[0]
