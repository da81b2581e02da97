"""Make the table of docs/formats.md that says what can be handed on: run the test that measures it.

Needs the folder shared/ beside the source tree, and bioimageio.core; takes some minutes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

TEST = Path(__file__).parents[1] / "tests" / "model" / "test_handing_on.py"


def main() -> int:
    """Run the test and print the table; return how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        options = ["-m", "slow", "-q", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        done = subprocess.run([sys.executable, "-m", "pytest", str(TEST), *options], check=False)
        sys.stdout.write(make_table(read_cells(report)))
    return done.returncode


def read_cells(report: Path) -> dict[tuple[str, str], str]:
    """Return what was measured, by source and target; empty where it was refused."""
    cells = {}
    for case in ElementTree.parse(report).iter("testcase"):
        found = {each.get("name"): each.get("value", "") for each in case.iter("property")}
        source, _, target = (found.get("cell") or "").partition("|")
        failed = case.find("failure") is not None or case.find("error") is not None
        cells[source, target] = (
            "failed" if failed else found.get("difference", "-").replace("0.0e+00", "0")
        )
    return cells


def make_table(cells: dict[tuple[str, str], str]) -> str:
    """Return a table in Markdown."""
    sources = dict.fromkeys(source for source, _ in cells)
    targets = dict.fromkeys(target for _, target in cells)
    head = " | ".join(f"`{target}`" for target in targets)
    lines = [f"| opened as | {head} |", "|---" * (len(targets) + 1) + "|"]
    for source in sources:
        row = " | ".join(cells[source, target] for target in targets)
        lines.append(f"| {source} | {row} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
