"""Put measured numbers into docs/benchmarks.md, with a plot: `python -m benchmarks.report`.

What stands between the page's two marks is replaced; the rest is written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.cases import Case
from benchmarks.contenders import OURS, PLAIN, Contender

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
BARS = {("float32", 2): 0.35, ("float32", 3): 0.45, ("bf16", 2): 0.12, ("bf16", 3): 0.18}
"""Time relative to the plain pass that we want to stay below, by format and dimensions."""
_COLUMNS = (
    "| | tiles | rounds | time | of the plain pass | CPU time | memory | error | labels changed |"
)
_MIB = 2**20


def describe(contender: Contender) -> tuple[str, str]:
    """Return who and which tiles, for a table."""
    name = contender.program
    if name == OURS:
        name = f"**{OURS}**, {contender.precision}"
    if contender.lean:
        name = f"{name}, our network inside"
    return name, {"usual": "usual", "ours": "ours", "whole": "one"}[contender.tiles]


def rows(found: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of one case's table."""
    yield _COLUMNS
    yield "|---|---|---|---|---|---|---|---|---|"
    for entry in found:
        contender = Contender.parse(entry["contender"])
        name, tiles = describe(contender)
        if tiles == "ours" and contender.program != OURS and entry.get("tile"):
            tiles = f"of equal memory, {' x '.join(map(str, entry['tile']))}"
        if entry["failure"]:
            yield f"| {name} | {tiles} | failed: {entry['failure']} | | | | | | |"
            continue
        wall, cpu = (_ratio(entry[key]) for key in ("wall", "cpu"))
        exact = entry["contender"].startswith(PLAIN)
        yield (
            f"| {name} | {tiles} | {entry['rounds']} | {entry['seconds']:.2f} s | {wall} | {cpu} | "
            f"{entry['peak_bytes'] / _MIB:.0f} MiB | "
            + (" | |" if exact else f"{entry['error']:.0e} | {_share(entry['flips'])} |")
        )


def _ratio(spread: list[float]) -> str:
    middle, low, high = spread
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _share(flips: float) -> str:
    return "none" if flips == 0 else f"{100 * flips:.2g} %"


def quality_rows(found: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table of what comes out, of networks that were trained."""
    yield "| | tiles | error | labels changed |"
    yield "|---|---|---|---|"
    for entry in found:
        contender = Contender.parse(entry["contender"])
        if entry["failure"] or contender.lean or contender.program == PLAIN:
            continue
        name, tiles = describe(contender)
        yield f"| {name} | {tiles} | {entry['error']:.0e} | {_share(entry['flips'])} |"


def write(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the measured part of the page."""
    machine = report["machine"]
    yield f"Measured on {machine['date']}: {machine['processor']}, {machine['threads']} threads"
    yield f"on {machine['cores']} cores, {machine['system']}, Python {machine['python']}."
    versions = (f"{name} {text}" for name, text in machine["versions"].items() if text)
    yield f"Versions: {', '.join(versions)}."
    for part in report["cases"]:
        case = Case.parse(part["case"])
        yield f"\n### {case.name}"
        yield from rows(part["found"]) if case.is_timed else quality_rows(part["found"])


def plot(report: dict[str, Any], target: Path) -> None:
    """Draw the CPU time of every contender relative to the plain pass."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "unetari"  # the same numbers make the same file
    mpl.rcParams["svg.fonttype"] = "none"
    import matplotlib.pyplot as plt

    parts = [part for part in report["cases"] if Case.parse(part["case"]).is_timed]
    parts = [part for part in parts if any("usual/own" in e["contender"] for e in part["found"])]
    parts = sorted(parts, key=lambda part: -len(part["found"]))[:2]
    figure, axes = plt.subplots(1, len(parts), figsize=(5.2 * len(parts), 6), squeeze=False)
    for axis, part in zip(axes[0], parts, strict=True):
        entries = [entry for entry in reversed(part["found"]) if not entry["failure"]]
        names = [", ".join(describe(Contender.parse(e["contender"]))) for e in entries]
        middle = [entry["cpu"][0] for entry in entries]
        ours = [entry["contender"].startswith(OURS) for entry in entries]
        colors = ["#e6820a" if is_ours else "#8a8a8a" for is_ours in ours]
        axis.barh([name.replace("**", "") for name in names], middle, color=colors)
        for at, value in enumerate(middle):
            axis.text(value, at, f" {value:.2f}", va="center", fontsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(Case.parse(part["case"]).name, fontsize=9)
        axis.set_xlabel("CPU time, plain pass = 1", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.margins(x=0.12)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def check_bars(report: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence per bar and case of ours."""
    for part in report["cases"]:
        case = Case.parse(part["case"])
        for entry in part["found"]:
            contender = Contender.parse(entry["contender"])
            bar = BARS.get((contender.precision, len(case.shape)))
            if case.is_timed and bar and contender.program == OURS and contender.tiles == "ours":
                reached = "reached" if entry["wall"][0] <= bar else "missed"
                yield (
                    f"{case.name}, {contender.precision}: {entry['wall'][0]:.2f} of the plain "
                    f"pass (CPU time {entry['cpu'][0]:.2f}), bar {bar}: {reached}"
                )


def main(
    sources: Annotated[
        list[Path], typer.Argument(help="JSON files of benchmarks.inference, of one machine.")
    ],
    page: Annotated[Path, typer.Option(help="The page to change.")] = DOCS / "benchmarks.md",
) -> None:
    """Write the numbers into the page, and the plot beside it."""
    report, *others = (json.loads(source.read_text()) for source in sources)
    for other in others:
        report["cases"] += other["cases"]
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    measured = "\n".join(write(report))
    page.write_text(f"{before}{BEGIN}\n{measured}\n{END}{after}")
    plot(report, page.parent / "images" / "benchmarks.svg")
    for line in check_bars(report):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
