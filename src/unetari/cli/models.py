"""``unetari models``: the models that can be named, and the library that keeps them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from unetari.cli.console import (
    AssumeOption,
    TrustOption,
    parse_settings,
    show_message,
    stdout,
)
from unetari.errors import ConfigError, LibraryError, printable
from unetari.model.bundled import bundled_models

if TYPE_CHECKING:
    from rich.table import Table

    from unetari.model.library import Library
    from unetari.model.library_entry import Entry
    from unetari.model.listing import Listed

_HELP = ("-h", "--help")
_UNITS = ("bytes", "kB", "MB", "GB")


class _Models(typer.core.TyperGroup):
    """Lists models unless another command is named, so that `unetari models nuclei` searches."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in that is not named."""
        if not args or (args[0] not in self.commands and args[0] not in _HELP):
            args = ["list", *args]
        return super().parse_args(ctx, args)


models = typer.Typer(
    cls=_Models,
    rich_markup_mode="rich",
    help="List the models that can be named, keep files in the library, and remove them.",
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a kept model.")]


@models.command(name="list")
def show(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD]...",
            help="Only models with all these words in name, description, tags, classes or authors.",
        ),
    ] = None,
) -> None:
    """List bundled and kept models, and files that were opened lately in napari."""
    from unetari.model.listing import list_models

    listing = list_models(_library())
    for problem in listing.problems:
        show_message(problem, warning=True)
    found = [model for model in listing.models if model.matches(" ".join(words or ()))]
    if found:
        stdout().print(_table(found))
    else:
        show_message("No model matches.")


@models.command()
def add(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A model file.")],
    name: Annotated[
        str, typer.Option(help="Its name in the library. Default: the one it calls itself.")
    ] = "",
    assume: AssumeOption = None,
    trust: TrustOption = False,
) -> None:
    """Keep a copy of a model file in the library, to use it by name."""
    from unetari.model.keep import keep_model

    options = parse_settings(assume)
    if "trust" in options:
        raise ConfigError("trust is nothing to assume. If you trust the file, say --trust.")
    entry = keep_model(file, name, trust=trust, **options)
    if name and entry.name != name:
        show_message(f"This model is kept already, as {entry.name!r}. `unetari models rename`.")
    typer.echo(entry.name)


@models.command()
def rename(
    name: NameArgument,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
) -> None:
    """Give a kept model another name."""
    library = _library()
    typer.echo(library.rename(_find(library, name), new).name)


@models.command()
def remove(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of a kept model, or path of a recent file.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete the library's copy of a model, or forget a recent file; your own file stays."""
    library = _library()
    kept = library.find(name)
    recent = None if kept is not None else library.find_recent(name)
    entry = recent or _find(library, name)
    what = "the library's copy of" if recent is None else "the recent file"
    if not yes:
        _ask(f"Remove {what} {entry.name!r}? The file {entry.path} is not touched.", entry.name)
    if recent is not None:
        library.forget(recent)
    else:
        library.remove(entry)
    show_message(f"Removed {entry.name!r}.")


def _library() -> Library:
    from unetari.model.library import Library  # it needs numpy, which --help does not

    return Library.default()


def _ask(question: str, name: str) -> None:
    if not _is_terminal():
        raise ConfigError(f"Nobody can be asked here. To remove {name!r}, say --yes.")
    typer.confirm(printable(question), abort=True, err=True)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _find(library: Library, name: str) -> Entry:
    entry = library.find(name)
    if entry is not None:
        return entry
    names = ", ".join(kept.name for kept in library.read().kept) or "none"
    if name in bundled_models():
        raise LibraryError(f"{name!r} comes with unetari, and stays. Kept models: {names}.")
    raise LibraryError(f"There is no kept model {name!r}. Kept models: {names}.")


def _table(found: list[Listed]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column("name", overflow="fold", min_width=9)
    for title in ("kind", "2D/3D", "classes", "size", "date", "origin"):
        table.add_column(title, overflow="fold", no_wrap=title in ("size", "date", "2D/3D"))
    for model in found:
        table.add_row(*_row(model))
    return table


def _row(model: Listed) -> tuple[str, ...]:
    from unetari.model.listing import size_of

    entry = model.entry
    origin: str = model.origin
    if model.origin == "recent":
        origin = f"{origin}: {printable(model.source)}" + (" (missing)" if model.is_missing else "")
    return (
        model.name,
        model.kind,
        f"{model.spec.config.dim}D",
        ", ".join(model.spec.labels[1:]),
        format_size(size_of(model)),
        "" if entry is None else entry.added.astimezone().date().isoformat(),
        origin,
    )


def format_size(size: float) -> str:
    """Write a number of bytes as people do.

    Examples
    --------
    >>> format_size(999), format_size(2_040_000)
    ('999 bytes', '2.0 MB')
    """
    unit = _UNITS[0]
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == _UNITS[0] else f"{size:.1f} {unit}"
