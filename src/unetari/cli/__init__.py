"""The command line: predict, check, info, models, export, train, demo.

Results go to stdout; messages, warnings and progress to stderr. Exit codes:
0 done, 1 an error of unetari's own (a file, an option, memory), 2 wrong usage,
3 `check`: the image cannot be predicted with the model, 130 interrupted.
"""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
import typer.core

from unetari import __version__
from unetari.cli import check, demo, export, info, models, predict, train
from unetari.cli.console import (
    ERROR,
    INTERRUPTED,
    interrupt_when_terminated,
    show_error,
    show_message,
)
from unetari.errors import UnetariError

EPILOG = (
    "Exit codes: 0 done, 1 error, 2 wrong usage, 3 the image does not fit (check), 130 interrupted."
)
_HELP = {"help_option_names": ["-h", "--help"]}


class _Commands(typer.core.TyperGroup):
    """Turns our own errors into a message and an exit code, for every command."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            with interrupt_when_terminated():
                return super().invoke(ctx)
        except (UnetariError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            show_error(str(error))
            raise typer.Exit(ERROR) from error
        except KeyboardInterrupt as error:
            show_message("Interrupted.")
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=EPILOG,
    context_settings=_HELP,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unetari {__version__}")
        raise typer.Exit


@app.callback()
def unetari(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[  # noqa: ARG001 - read from the context when an error happens
        bool, typer.Option("--debug", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Segment 2D and 3D images of any size with a U-Net."""
    import logging

    # tifffile logs what is wrong with a file; our errors say it in a sentence.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


for command in (
    predict.predict,
    check.check,
    info.info,
    export.export,
    train.train,
    demo.demo,
):
    app.command(epilog=EPILOG if command is check.check else None)(command)
app.add_typer(
    models.models, name="models", context_settings={"help_option_names": ["-h", "--help"]}
)
