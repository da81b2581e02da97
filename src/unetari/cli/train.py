"""``unetari train``: image and label pairs in, a model file out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unetari.cli.console import (
    INTERRUPTED,
    OverwriteOption,
    catch_interrupts,
    parse_settings,
    progress_bar,
    show_message,
    stdout,
)
from unetari.errors import ConfigError

if TYPE_CHECKING:
    from unetari.training.loop import TrainingProgress
    from unetari.training.options import TrainingOptions


def train(
    images: Annotated[Path, typer.Option(help="Folder of images.")],
    labels: Annotated[Path, typer.Option(help="Folder of label images, named as the images are.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file, .safetensors.")],
    options: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG]",
            help="A TOML file with the options. Default: a 2D network, 3000 steps.",
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Set or change an option, such as steps=500 or network.dim=3. Repeatable.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Train a network on images and their labels.

    The best model so far is in the output file at any time. Ctrl-C stops after
    the current step; --resume goes on from there.
    """
    from unetari.training.data import find_pairs
    from unetari.training.loop import train as train_network
    from unetari.training.state import resume_file

    chosen = _options(options, parse_settings(change))
    pairs = find_pairs(images, labels)
    show_message(f"{len(pairs)} pairs of images and labels, {chosen.steps} steps.")
    with catch_interrupts("Stopping after this step; once more to give up.") as stopped:
        steps = train_network(
            chosen,
            pairs,
            out,
            resume=resume,
            overwrite=overwrite,
            should_stop=stopped.is_set,
        )
        last = _follow(steps, chosen.steps)
    if stopped.is_set() and (last is None or not last.is_complete):
        show_message(_stopped(last, resume_file(out).exists()))
        raise typer.Exit(INTERRUPTED)
    if last is not None:
        stdout().print(str(last.path), soft_wrap=True)


def _stopped(last: TrainingProgress | None, can_resume: bool) -> str:
    where = "before a step was done" if last is None else f"after step {last.step}"
    way = "Go on with the same command and --resume." if can_resume else "Nothing was saved."
    return f"Stopped {where}. {way}"


def _options(path: Path | None, changes: Mapping[str, Any]) -> TrainingOptions:
    from unetari.training.options import TrainingOptions, load_options

    options = load_options(path) if path else TrainingOptions()
    if not changes:
        return options
    return options.replace(
        **{
            name: _changed(getattr(options, name, None), name, value)
            for name, value in changes.items()
        }
    )


def _changed(old: object, name: str, value: Any) -> Any:
    """Return the new value of an option; a table replaces some fields of the old one."""
    from unetari.core.config import FrozenModel

    if not isinstance(value, dict):
        return value
    if not isinstance(old, FrozenModel):
        raise ConfigError(
            f"--set {'.'.join([name, *value][:2])}: {name!r} is no table of options. Tables are "
            "network, normalization and augmentation."
        )
    return old.replace(**value)


def _follow(steps: Iterator[TrainingProgress], total: int) -> TrainingProgress | None:
    """Move the bar, and say each validation in a line; return the last progress."""
    last = None
    with progress_bar() as bar:
        task = bar.add_task("Training", total=total)
        for last in steps:
            bar.update(task, completed=last.step, description=f"loss {last.loss:.3f}")
            if last.score is not None:
                best = ", the best so far" if last.score == last.best else ""
                show_message(
                    f"Step {last.step}: loss {last.loss:.3f}, validation IoU {last.score:.3f}{best}"
                )
    return last
