"""How fast data is committed and loaded, beside its peers: one table.

``make bench-data``, or ``python -m benchmarks.data [NAME …]``. Peers are measured where they are
installed. About ten minutes. Parts that are not named keep what was measured before.
"""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.parts import Benchmark, Row, measure_parts, parse, run_script

SCRIPTS = ("loading", "commit", "tables")  # each is `benchmarks.data_NAME`
PARTS = Benchmark("data", "Data", "make bench-data", {name: name for name in SCRIPTS})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    measure_parts(PARTS, parse(parser, SCRIPTS).names, rows)


def rows(name: str) -> Iterable[Row]:
    figures = run_script(f"data_{name}")
    return of_commit(figures) if name == "commit" else figures["rows"]


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


if __name__ == "__main__":
    main()
