"""``unetari info``: what a model is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unetari.cli.console import (
    AssumeOption,
    OverwriteOption,
    TrustOption,
    describe_sizes,
    load,
    parse_sizes,
    show_message,
    stdout,
)
from unetari.errors import ConfigError
from unetari.model.bundled import bundled_models

if TYPE_CHECKING:
    from unetari.core.network import NetworkConfig
    from unetari.model.checkpoint import Model


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A model file or a bundled name; without it, the names are listed.",
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

    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines(model):
        if text:
            table.add_row(name, text)
    stdout().print(table)


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


def _lines(model: Model) -> Iterator[tuple[str, str]]:
    from unetari.core.normalization import describe_intensities

    spec = model.spec
    yield "name", spec.name
    yield "description", spec.description
    yield "classes", ", ".join(f"{i} {name}" for i, name in enumerate(spec.labels))
    yield "voxel size", f"{describe_sizes(spec.voxel_size)} um" if spec.voxel_size else ""
    yield from _network_lines(spec.config)
    yield "normalization", describe_intensities(spec.normalization)
    yield "authors", ", ".join(spec.authors)
    yield "licence", spec.license
    yield "to cite", "; ".join(spec.citations)
    yield "tags", ", ".join(spec.tags)
    yield "training data", spec.data_credit
    yield "validation", _describe_validation(model)
    yield "file", model.source
    yield "SHA-256", model.sha256
    for note in model.notes:
        yield "note", note


def _network_lines(config: NetworkConfig) -> Iterator[tuple[str, str]]:
    from unetari.core.config import UNetConfig
    from unetari.core.network import reach_of
    from unetari.core.shapes import receptive_field
    from unetari.model.summary import count_parameters

    known = config.model_dump(exclude={"reach", "parameters", "features"})
    yield "network", ", ".join(f"{key}={value}" for key, value in known.items())
    reaches = reach_of(config)
    if isinstance(config, UNetConfig):
        parameters: int | None = count_parameters(config)
        seen = [receptive_field(config)] * config.dim
    else:
        parameters = config.parameters
        seen = [2 * reach.margin + 1 for reach in reaches]
    yield "parameters", "" if parameters is None else f"{parameters:,}"
    yield "size multiple", describe_sizes(sorted({reach.multiple for reach in reaches}))
    yield "receptive field", f"{describe_sizes(seen)} voxels"


def _describe_validation(model: Model) -> str:
    score = model.spec.training.get("validation_iou")
    return f"foreground IoU {score:.3f} on held-out images" if isinstance(score, float) else ""
