"""``unetari export``: a model in a format that others read."""

from __future__ import annotations

import sys
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

    from unetari.core.spec import ModelSpec
    from unetari.model.publishing import CardField

_FORMATS = ", ".join(f"{kind.key} ({kind.keeps})" for kind in saved_kinds())

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A model file, or the name of a bundled or kept model."),
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="The file. Without a suffix it gets the format's.")
]
FormatOption = Annotated[
    str | None,
    typer.Option(metavar="FORMAT", help=f"{_FORMATS}. Default: what the suffix of FILE says."),
]
NameOption = Annotated[str | None, typer.Option(help="Name of the model.")]
DescriptionOption = Annotated[str | None, typer.Option(help="What it segments, in which images.")]
AuthorOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Who made it. Repeatable.")
]
LicenseOption = Annotated[
    str | None,
    typer.Option("--license", metavar="SPDX", help="Its licence, such as CC-BY-4.0."),
]
CiteOption = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="What to cite, with a DOI. Repeatable."),
]
TagOption = Annotated[
    list[str] | None, typer.Option(metavar="WORD", help="To find it by. Repeatable.")
]
ImageOption = Annotated[
    Path | None,
    typer.Option(
        help="bioimageio: a test image; default: that of the package MODEL is, or a generated one."
    ),
]
CoverOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="bioimageio: a PNG or JPEG; default: that of the package, or one drawn of the "
        "test image.",
    ),
]
DocumentationOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="bioimageio: Markdown; default: that of the package, or one written of the card.",
    ),
]


def export(
    model: ModelArgument,
    out: OutOption,
    to: FormatOption = None,
    name: NameOption = None,
    description: DescriptionOption = None,
    author: AuthorOption = None,
    license_: LicenseOption = None,
    cite: CiteOption = None,
    tag: TagOption = None,
    image: ImageOption = None,
    cover: CoverOption = None,
    documentation: DocumentationOption = None,
    channel: ChannelOption = None,
    assume: AssumeOption = None,
    trust: TrustOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a model in a format that other programs read."""
    from unetari.model.attachments import read_cover, read_documentation
    from unetari.model.export import export_model, find_target

    _, kind = find_target(out, to, overwrite=overwrite)  # before the model, which may take long
    picture = b"" if cover is None else read_cover(cover)
    text = "" if documentation is None else read_documentation(documentation)
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
    if kind.is_package and is_interactive():
        loaded = loaded.replace(**ask(loaded.spec))
    example = None if image is None else _read_image(image, loaded.spec.config.dim, channel)
    path = export_model(
        loaded,
        out,
        to,
        image=example,
        cover=picture,
        documentation=text,
        overwrite=overwrite,
        on_note=show_message,
    )
    stdout().print(str(path), soft_wrap=True)


def is_interactive() -> bool:
    """Whether somebody sits before a terminal, who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(spec: ModelSpec) -> dict[str, Any]:
    """Ask for what the card of a package lacks; return fields of `ModelSpec`.

    Somebody who is asked for something that is needed is also asked for what
    would be good to have.
    """
    from unetari.model.publishing import FIELDS, find_problem, find_problems

    problems = find_problems(spec)
    if not problems:
        return {}
    show_message("The package must say more than the model does. Ctrl-C ends without writing.")
    answers: dict[str, Any] = {}
    for field in FIELDS:
        value = getattr(spec, field.name)
        problem = problems.get(field, "")
        while problem or (not value and field.name not in answers):
            if value:  # something is there, and it will not do
                show_message(problem, warning=True)
            value = _ask_for(field)
            answers[field.name] = value
            problem = find_problem(field, value)
    return answers


def _ask_for(field: CardField) -> Any:
    several = ", several with ; between them" if field.has_several else ""
    optional = "" if field.is_required else ", Enter for none"
    text: str = typer.prompt(
        f"{field.title} ({field.hint}{several}{optional})",
        default="" if not field.is_required else None,
        show_default=False,
        err=True,
    )
    if not field.has_several:
        return text.strip()
    return tuple(part.strip() for part in text.split(";") if part.strip())


def _read_image(path: Path, dim: int, channel: int | None) -> NDArray[Any]:
    """Return the first plane or volume of an image file, (C, [Z,] Y, X)."""
    from unetari.storage.images import open_image

    source = open_image(path).source(channel=channel)
    frame = next(iter(source.frames(dim)))
    return source.read(frame, [slice(0, size) for size in source.spatial_shape(dim)])
