"""A benchmark in parts: each is measured by itself, and its rows are kept until it is again."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.tables import RESULTS, machine

Row = Mapping[str, Any]  # what, measured, goal
TIMEOUT_S = 900


class Benchmark(NamedTuple):
    name: str  # of its files in results/
    heading: str
    command: str
    parts: Mapping[str, str]  # their titles, in the order of the table


def parse(parser: argparse.ArgumentParser, parts: Iterable[str]) -> argparse.Namespace:
    """What was given; its `names` are those of known parts, of all where none was given."""
    known = list(parts)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}; default: all")
    given = parser.parse_args()
    if unknown := set(given.names) - set(known):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    given.names = given.names or known
    return given


def measure_parts(
    benchmark: Benchmark,
    names: Iterable[str],
    measure: Callable[[str], Iterable[Row]],
    *,
    keep: bool = True,
) -> None:
    """Print the table. Each part is kept at once, with the machine that it was measured on."""
    file = RESULTS / f"{benchmark.name}.json"
    measured: dict[str, Any] = json.loads(file.read_text()) if keep and file.exists() else {}
    for name in names:
        print(f"{name} …", end=" ", flush=True, file=sys.stderr)
        began = time.perf_counter()
        measured[name] = {"machine": machine(), "rows": [dict(row) for row in measure(name)]}
        if keep:
            file.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")
            file.with_suffix(".md").write_text(table(benchmark, measured))
        print(f"{time.perf_counter() - began:.0f} s", flush=True, file=sys.stderr)
    print(table(benchmark, measured))


def table(benchmark: Benchmark, measured: Mapping[str, Any]) -> str:
    lines = [
        f"# {benchmark.heading}",
        "",
        f"Measured by `{benchmark.command}`; each part in one run, in turns with what it is "
        "compared",
        "with. Compare within a part only. A row without goal is information.",
    ]
    for name, title in benchmark.parts.items():
        if part := measured.get(name):
            lines += ["", f"## {title}", "", f"On {part['machine']}.", ""]
            lines += ["| what | measured | goal |", "| --- | ---: | ---: |"]
            lines += [f"| {r['what']} | {r['measured']} | {r['goal']} |" for r in part["rows"]]
    return "\n".join(lines) + "\n"


def run_script(name: str, *arguments: str) -> Any:
    """What `benchmarks.NAME` prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        sys.exit(f"benchmarks.{name} failed with {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout)
