"""``unetari info``: what a model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unetari.cli.console import (
    AssumeOption,
    OverwriteOption,
    TrustOption,
    load,
    parse_sizes,
    show_message,
    stdout,
)
from unetari.errors import ConfigError
from unetari.model.bundled import bundled_models

if TYPE_CHECKING:
    from unetari.model.checkpoint import Model


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A model file, or a bundled or kept name; without it, bundled ones are listed.",
        ),
    ] = None,
    list_all: Annotated[
        bool, typer.Option("--list", help="List the names of the bundled models.")
    ] = False,
    assume: AssumeOption = None,
    trust: TrustOption = False,
    diagram: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw the network into this file, too."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="[Z,]Y,X",
            help="Show the sizes of an image of this shape in the diagram, red where they go odd.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Show a model's card, options and what was assumed about it; draw its network."""
    _check_usage(None if list_all else model, diagram, shape)
    if model is None or list_all:
        _list_bundled()
        return
    from unetari.storage.svg import check_svg_path

    sizes = None if shape is None else parse_sizes(shape, "--shape")
    target = None if diagram is None else check_svg_path(diagram, overwrite=overwrite)
    loaded = load(model, assume, trust)
    _show_card(loaded)
    _show_change(model, loaded)
    if target is not None:
        _draw(loaded, target, sizes, overwrite)


def _check_usage(model: str | None, diagram: Path | None, shape: str | None) -> None:
    if diagram is not None and model is None:
        raise typer.BadParameter("--diagram needs the MODEL to draw.")
    if shape is not None and diagram is None:
        raise typer.BadParameter("--shape is for the diagram. Give --diagram FILE.svg, too.")


def _show_card(model: Model) -> None:
    from rich import box
    from rich.table import Table

    from unetari.model.about import describe

    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in describe(model):
        table.add_row(name, text)
    stdout().print(table)


def _show_change(name: str, model: Model) -> None:
    """Warn if the file is another one than napari opened there before."""
    from unetari.model.library import Library
    from unetari.model.library_entry import changed_since, could_be_name

    if not could_be_name(name):
        remark = changed_since(Library.default().find_recent(name), model.sha256)
        if remark:
            show_message(remark, warning=True)


def _draw(model: Model, path: Path, shape: tuple[int, ...] | None, overwrite: bool) -> None:
    from unetari.core.config import UNetConfig
    from unetari.core.diagram import draw_svg
    from unetari.storage.svg import save_svg

    config = model.spec.config
    if not isinstance(config, UNetConfig):
        raise ConfigError(
            f"{model.source}: --diagram draws the U-Nets of unetari, and this is another network. "
            "Leave --diagram out."
        )
    save_svg(draw_svg(config, shape), path, overwrite=overwrite)
    show_message(f"Diagram: {path}")


def _list_bundled() -> None:
    names = bundled_models()
    for name in names:
        typer.echo(name)
    if not names:
        show_message("No model comes with this installation.")
