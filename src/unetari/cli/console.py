"""What the commands share: where text goes, progress bars, common options."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from unetari.errors import ConfigError, ShapeError, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from unetari.model.checkpoint import Model
    from unetari.storage.images import ImageFile

ERROR = 1
"""Exit code of every error that unetari raises on purpose."""
DOES_NOT_FIT = 3
"""Exit code of `check` if the image cannot be predicted with the model."""
INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""

ModelOption: TypeAlias = Annotated[
    str, typer.Option("--model", "-m", help="A model file, or the name of a bundled or kept model.")
]
AssumeOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--assume",
        metavar="OPTION=VALUE",
        help="What bare weights do not tell: activation, conv_mode, up_mode, block_order, "
        "normalization, and of other programs' networks layer_order, pool_size, full_norm, "
        "classes; entry chooses among several; what programs do not tell: dim, in_channels, "
        "classes, output. Repeatable.",
    ),
]
TrustOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Open the model even if the file could run code, as TorchScript and torch.export "
        "programs can. Say it only of files from people you trust.",
    ),
]
AxesOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="One letter per axis of the image, such as ZYX or TCYX: T time, C channel, Z Y X "
        "space, S RGB samples. Default: what the file says, else guessed.",
    ),
]
ChannelOption: TypeAlias = Annotated[
    int | None, typer.Option(min=0, help="Use this channel only, counted from 0.")
]
GreyOption: TypeAlias = Annotated[bool, typer.Option("--grey", help="Convert RGB to grey.")]
OverwriteOption: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing output files.")
]


_UNBROKEN = 10_000  # letters per line


@cache
def stdout() -> Console:
    """Return the console for results: a program that reads them gets no lines broken in two."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _UNBROKEN
    return Console(highlight=False, markup=False, width=width)


@cache
def stderr() -> Console:
    """Return the console for everything that is no result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False)


def show_error(text: str) -> None:
    """Show an error in one block."""
    from rich.text import Text

    console = stderr()
    console.print(Text("Error: ", style="bold red") + Text(text), soft_wrap=not console.is_terminal)


def show_message(text: str, *, warning: bool = False) -> None:
    """Show a sentence for people, away from the results."""
    from rich.text import Text

    console = stderr()
    head = Text("Warning: ", style="bold yellow") if warning else Text()
    console.print(head + Text(printable(text)), soft_wrap=not console.is_terminal)


def bullets(sentences: Iterable[str]) -> Table:
    """Return a list whose lines are indented below each other."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1, 0, 0))
    for sentence in sentences:
        grid.add_row("-", sentence)
    return grid


def progress_bar(*, in_percent: bool = False) -> Progress:
    """Return a progress bar with the time left, drawn only where somebody can see it.

    It counts steps unless progress is a share.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = stderr()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn() if in_percent else MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def parse_settings(settings: Iterable[str] | None) -> dict[str, Any]:
    """Turn `name=value` texts into a nested dict; dots lead into tables.

    Values are TOML where they can be (numbers, true, lists), else text.

    Raises
    ------
    ConfigError
        If a text has no "=", or leads into what is a value.

    Examples
    --------
    >>> parse_settings(["steps=500", "network.activation=elu", "flip=true"])
    {'steps': 500, 'network': {'activation': 'elu'}, 'flip': True}
    """
    table: dict[str, Any] = {}
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{setting!r} is no setting. Write NAME=VALUE, such as steps=500.")
        *parents, last = name.strip().split(".")
        inner = table
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{setting!r}: {parent} has a value already. Give one of both.")
        inner[last] = _parse_value(text.strip())
    return table


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def load(name: str, assume: Iterable[str] | None, trust: bool) -> Model:
    """Load the model that the options name.

    Raises
    ------
    UnetariError
        If it cannot be loaded, or an assumption is none.
    """
    from unetari.model.checkpoint import load_model

    options = parse_settings(assume)
    if "trust" in options:
        raise ConfigError("trust is nothing to assume. If you trust the file, say --trust.")
    return load_model(name, trust=trust, **options)


def parse_sizes(text: str, option: str) -> tuple[int, ...]:
    """Read sizes as people write them.

    Raises
    ------
    ShapeError
        If it is anything else.

    Examples
    --------
    >>> parse_sizes("512x512", "--tile"), parse_sizes("51, 132, 134", "--shape")
    ((512, 512), (51, 132, 134))
    """
    parts = re.split(r"[x,\s]+", text.strip().lower())
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ShapeError(f"{option} {text!r} is no size. Write it as 512x512, or 32x256x256 in 3D.")
    return tuple(map(int, parts))


def parse_factors(text: str, option: str) -> tuple[float, ...]:
    """Read factors as people write them.

    Raises
    ------
    ShapeError
        If it is anything else.

    Examples
    --------
    >>> parse_factors("0.5x0.5", "--scale"), parse_factors("1, 2, 2", "--scale")
    ((0.5, 0.5), (1.0, 2.0, 2.0))
    """
    try:
        return tuple(float(part) for part in re.split(r"[x,\s]+", text.strip().lower()))
    except ValueError as error:
        raise ShapeError(
            f"{option} {text!r} holds no factors. Write them as 0.5x0.5, or 1x2x2 in 3D."
        ) from error


def describe_sizes(sizes: Sequence[float]) -> str:
    """Join sizes as people write them.

    Examples
    --------
    >>> describe_sizes((510, 690)), describe_sizes((1.75, 0.8))
    ('510 x 690', '1.75 x 0.8')
    """
    return " x ".join(f"{size:.10g}" for size in sizes)


def describe_image(image: ImageFile) -> str:
    """Return a line on an image: name, axes, size, type, voxel size."""
    text = f"{image.path.name}: {image.axes}, {describe_sizes(image.shape)}, {image.data.dtype}"
    if not image.voxel_size:
        return f"{text}, voxel size unknown"
    sizes = describe_sizes([round(size, 6) for size in image.voxel_size.values()])
    unit = "\N{MICRO SIGN}m" if image.unit else "(unit unknown)"
    return f"{text}, {''.join(image.voxel_size)} {sizes} {unit}"


def micrometers(image: ImageFile) -> dict[str, float]:
    """Return the voxel sizes in micrometre; none if the unit is unknown."""
    return image.voxel_size if image.unit else {}


def show_voxel_sizes(image: ImageFile, model: Model) -> None:
    """Warn if the voxels are far from those the model was trained on, and say what helps."""
    from unetari.core.voxels import compare_voxel_sizes, rescale_factors

    sizes = micrometers(image)
    warning = compare_voxel_sizes(sizes, model.spec)
    if not warning:
        return
    try:
        rescale_factors(sizes, model.spec)
    except ShapeError as error:
        advice = str(error)
    else:
        advice = "unetari predict --rescale does so for the network."
    show_message(f"{warning} {advice}", warning=True)


@contextmanager
def catch_interrupts(message: str) -> Iterator[Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; a second one interrupts at once.

    What the process was started to ignore, it goes on to ignore.
    """
    event = Event()
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(n))]

    def stop(_number: int, _frame: FrameType | None) -> None:
        event.set()
        for number in numbers:
            signal.signal(number, signal.default_int_handler)
        show_message(message)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupt_when_terminated() -> Iterator[None]:
    """Have SIGTERM interrupt as Ctrl-C does, so that what is half written is cleaned up."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
