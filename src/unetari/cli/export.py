"""``unetari export``: a model in a format that others read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unetari.cli.console import (
    AssumeOption,
    ChannelOption,
    OverwriteOption,
    TrustOption,
    load,
    show_message,
    stdout,
)
from unetari.model.kinds import saved_kinds

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORMATS = ", ".join(f"{kind.key} ({kind.keeps})" for kind in saved_kinds())


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model file, or the name of a bundled model.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file. Without a suffix it gets the format's.")
    ],
    to: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help=f"{_FORMATS}. Default: what the suffix of FILE says."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    description: Annotated[
        str | None, typer.Option(help="What it segments, in which images.")
    ] = None,
    author: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who made it. Repeatable.")
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option("--license", metavar="SPDX", help="Its licence, such as CC-BY-4.0."),
    ] = None,
    cite: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What to cite, with a DOI. Repeatable."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="To find it by. Repeatable.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(help="bioimageio: a test image; default: a generated one."),
    ] = None,
    channel: ChannelOption = None,
    assume: AssumeOption = None,
    trust: TrustOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a model in a format that other programs read."""
    from unetari.model.export import export_model, find_target

    find_target(out, to, overwrite=overwrite)  # before the model is loaded, which may take long
    loaded = load(model, assume, trust)
    for note in loaded.notes:
        show_message(note)
    given = {
        "name": name,
        "description": description,
        "authors": author,
        "license": license_,
        "citations": cite,
        "tags": tag,
    }
    loaded = loaded.replace(**{field: value for field, value in given.items() if value})
    example = None if image is None else _read_image(image, loaded.spec.config.dim, channel)
    path = export_model(loaded, out, to, image=example, overwrite=overwrite)
    stdout().print(str(path), soft_wrap=True)


def _read_image(path: Path, dim: int, channel: int | None) -> NDArray[Any]:
    """Return the first plane or volume of an image file, (C, [Z,] Y, X)."""
    from unetari.storage.images import open_image

    source = open_image(path).source(channel=channel)
    frame = next(iter(source.frames(dim)))
    return source.read(frame, [slice(0, size) for size in source.spatial_shape(dim)])
