"""How fast data is committed and loaded, beside its peers: one table.

``make bench-data``, or ``python -m benchmarks.data [NAME …]``. Peers are measured where they are
installed. About ten minutes. Parts that are not named keep what was measured before.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

from benchmarks.__main__ import RESULTS, machine, run
from benchmarks.parts import parts_table

Row = Mapping[str, Any]
PARTS = ("loading", "commit", "tables")  # each is the script `benchmarks.data_NAME`


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    there = [name for name in PARTS if find_spec(f"benchmarks.data_{name}")]
    parser.add_argument("names", nargs="*", help=f"of {', '.join(there)}; default: all")
    given = parser.parse_args()
    unknown = set(given.names) - set(there)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    file = RESULTS / "data.json"
    measured: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in given.names or there:
        print(f"{name} …", end=" ", flush=True, file=sys.stderr)
        began = time.perf_counter()
        figures = run(f"data_{name}")
        rows = of_commit(figures) if name == "commit" else figures["rows"]
        # Each part is kept at once, with the machine that it was measured on.
        measured[name] = {"machine": machine()["text"], "rows": [dict(each) for each in rows]}
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")
        (RESULTS / "data.md").write_text(table(measured))
        print(f"{time.perf_counter() - began:.0f} s", flush=True, file=sys.stderr)
    print(table(measured))
    return 0


def of_commit(figures: Mapping[str, Any]) -> Iterable[Row]:
    files = f"{figures['files']:,} files of 4 to 16 KiB"
    for what, goal, measured in (
        (f"speed of a commit, {files}, by hashing alone", "≥ 0.7", "{speed_of_hashing:.2f} ×"),
        ("… by CPU time", "", "{speed_of_hashing_by_cpu:.2f} ×"),
        ("… CPU of a file", "", "{commit_cpu_us_a_file} µs"),
        ("… CPU of a file, hashing alone, threads", "", "{hash_threads_cpu_us_a_file} µs"),
        ("… the whole commit", "", "{commit_s} s"),
        ("… again, nothing changed", "", "{commit_unchanged_s} s"),
        ("… again, one file changed", "", "{commit_one_changed_s} s"),
    ):
        yield {"what": what, "goal": goal, "measured": measured.format_map(figures)}


def table(measured: Mapping[str, Any]) -> str:
    return parts_table("Data", "make bench-data", {name: name for name in PARTS}, measured)


if __name__ == "__main__":
    sys.exit(main())
