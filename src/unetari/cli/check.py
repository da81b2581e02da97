"""``unetari check``: whether an image fits a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unetari.cli.console import (
    DOES_NOT_FIT,
    AssumeOption,
    AxesOption,
    ChannelOption,
    GreyOption,
    ModelOption,
    TrustOption,
    bullets,
    describe_image,
    load,
    show_voxel_sizes,
    stdout,
)

if TYPE_CHECKING:
    from rich.table import Table

    from unetari.core.shapes import ShapeReport


def check(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="TIFF, PNG, JPEG, npy, zarr or OME-Zarr.")
    ],
    model: ModelOption,
    axes: AxesOption = None,
    channel: ChannelOption = None,
    grey: GreyOption = False,
    assume: AssumeOption = None,
    trust: TrustOption = False,
) -> None:
    """Tell whether an image fits a model, and what can be done if not.

    Exits with 0 if prediction works, padding included, and with 3 if not.
    """
    from unetari.core.shapes import check_shape
    from unetari.storage.images import open_image

    opened = open_image(image, axes)
    loaded = load(model, assume, trust)
    report = check_shape(loaded.spec.config, opened.source(channel, grey))
    console = stdout()
    console.print(describe_image(opened))
    for note in opened.notes:
        console.print(note)
    console.print(_table(report))
    console.print(bullets(report.sentences()))
    if report.fixes:
        console.print("What you can do:")
        console.print(bullets([f"{fix.text}." for fix in report.fixes]))
    show_voxel_sizes(opened, loaded)
    if not report.can_predict:
        raise typer.Exit(DOES_NOT_FIT)


def _table(report: ShapeReport) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("axis", "size", "multiple", "fits", "padding", "nearest that fit", "most blocks"):
        table.add_column(title, justify="left" if title == "axis" else "right")
    for axis in report.axes:
        nearest = f"{axis.larger}" if axis.smaller is None else f"{axis.smaller}, {axis.larger}"
        table.add_row(
            axis.axis,
            str(axis.size),
            str(axis.multiple),
            "yes" if axis.fits else "no",
            str(axis.pad),
            str(axis.size) if axis.fits else nearest,
            str(axis.max_blocks),
        )
    return table
