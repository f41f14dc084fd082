"""Where the tables of measurements lie, what machine they are of, and the table of one script."""

import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"


class Row(NamedTuple):
    """One figure of a script, in words; the goal has the figure's unit."""

    what: str
    figure: str
    unit: str = ""
    goal: str = ""


def machine() -> str:
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


def write_figures(
    name: str, heading: str, command: str, rows: Iterable[Row], figures: Mapping[str, float]
) -> None:
    """Into results/NAME.md; rows whose figures were not measured are left out."""
    lines = [
        f"# {heading}",
        "",
        f"Measured by `{command}` on {machine()}, while",
        f"{os.getloadavg()[0]:.0f} processes wanted to run at a time. Compare within it only.",
        "",
        "| what | measured | goal |",
        "| --- | ---: | ---: |",
    ]
    for row in rows:
        if row.figure in figures:
            measured = f"{figures[row.figure]:,g} {row.unit}".strip()
            goal = f"{row.goal} {row.unit}".strip() if row.goal else ""
            lines.append(f"| {row.what} | {measured} | {goal} |")
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
