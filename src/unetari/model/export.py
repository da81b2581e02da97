"""`export_model`: hand a model on in a format that others read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unetari.errors import ConfigError, ModelFileError
from unetari.model.attachments import Attachments
from unetari.model.checkpoint import Model, refuse_value
from unetari.model.files import check_finite, check_target, whole_file
from unetari.model.formats import find_format, find_package_writer, find_writer
from unetari.model.kinds import STATE_DICT, Kind, saved_kinds
from unetari.model.unet import UNet
from unetari.model.weights import LoadOptions


def _warn(note: str) -> None:
    warnings.warn(note, UserWarning, stacklevel=3)


def export_model(
    model: Model,
    path: str | os.PathLike[str],
    to: str | None = None,
    *,
    image: NDArray[Any] | None = None,
    cover: bytes = b"",
    documentation: str = "",
    overwrite: bool = False,
    on_note: Callable[[str], None] = _warn,
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
        (C, [Z,] Y, X), for formats that are packages ("bioimageio"): the test image, as it comes
        from a microscope. Default: that of the package the model came from, or a generated one.
    cover : bytes
        For packages: a picture, PNG or JPEG. Default: that of the package the model came from, or
        one drawn of the test image.
    documentation : str
        For packages: Markdown. Default: that of the package the model came from, or one written
        of the model's card.
    overwrite : bool
        Replace an existing file.
    on_note : callable
        Called with a sentence on each thing that the file does not hold, such as weights of a
        package that could not be written. Default: a UserWarning.

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
    given = Attachments(cover, documentation, image)
    if not kind.is_package:
        _refuse(given, kind)
    check_finite(model.network, path)
    with whole_file(path) as temporary:
        try:
            notes = _write(model, temporary, kind, given)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
    for note in notes:
        on_note(note)
    return path


def _write(model: Model, path: Path, kind: Kind, given: Attachments) -> tuple[str, ...]:
    if kind.is_package:
        attached = model.attachments.with_given(given)
        return find_package_writer(kind.key).save(model.network, model.spec, path, attached)
    find_writer(kind.key).save(model.network, model.spec, path)
    return _check_weights(model, path) if kind is STATE_DICT else ()


def _check_weights(model: Model, path: Path) -> tuple[str, ...]:
    """Say so where unetari does not know the network that a file of weights belongs to."""
    if isinstance(model.network, UNet):
        return ()
    try:
        find_format(path).load(path, LoadOptions())
    except (ModelFileError, ConfigError) as error:
        return (
            "The file holds weights alone, and unetari cannot open it: it does not know their "
            f"network. It said: {error} For a file that it opens, choose another format.",
        )
    return ()


def draw_cover(model: Model, to: str) -> bytes:
    """Draw the cover that a package gets that has none of its own, a PNG.

    Raises
    ------
    ShapeError
        If the model's test image does not fit its network.
    """
    writer = find_package_writer(to)
    return writer.draw_preview(model.network, model.spec, model.attachments.image)


def find_target(path: Path, to: str | None, *, overwrite: bool) -> tuple[Path, Kind]:
    """Return the file that `export_model` would write, and its format; raises as that does."""
    kind = _choose(to, path)
    return check_target(path, kind, overwrite=overwrite), kind


def _refuse(given: Attachments, kind: Kind) -> None:
    values = {
        "image": (given.image is not None, "test image"),
        "cover": (bool(given.cover), "cover"),
        "documentation": (bool(given.documentation), "documentation"),
    }
    for name, (is_given, what) in values.items():
        if is_given:
            raise ConfigError(f"{name}: The format {kind.key!r} holds no {what}. Leave it out.")


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
