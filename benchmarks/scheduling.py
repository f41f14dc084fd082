"""What the scheduler reaches on published workloads, and its speed: one table.

``make bench-scheduler``, or ``python -m benchmarks.scheduling [--full] [NAME …]``. Needs the
published traces (see `benchmarks.traces`). About five minutes; `--full` takes all lists and seeds
of packing, a quarter of an hour more. Parts that are not named keep what was measured before.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks import deadlines, heterogeneity, packing, queueing, scheduler, shockwave
from benchmarks.parts import parse
from benchmarks.tables import RESULTS, machine
from benchmarks.traces import trace_folder
from leptonai.core.scheduler.optimize import energy as models

Row = Mapping[str, Any]
DEADLINES_S = (1.0, 10.0, 60.0, 600.0, 3_600.0)  # of one epoch


def speed() -> Iterable[Row]:
    figures = scheduler.measure()
    for what, goal, name in (
        ("placements a second, 10,000 nodes, 100,000 gangs", "≥ 10,000", "placements_per_s"),
        ("… the plan for all of them, s", "≤ 5", "replan_s"),
        ("… a decision for each event then, ms, p50", "", "event_ms_p50"),
        ("… p99", "≤ 50", "event_ms_p99"),
        ("… memory, MB", "≤ 1,000", "rss_mb"),
    ):
        yield {"what": what, "goal": goal, "measured": figures[name]}


def energy() -> Iterable[Row]:
    """Every measured setting is looked at beside what the model chooses."""
    folder = trace_folder("zeus_nsdi23_energy")
    tables = sorted(folder.glob("summary_power_*.csv"))
    settings = models.read_settings({str(t): t.read_text().splitlines() for t in tables}, None)
    cases = optimal = 0
    for deadline_s in DEADLINES_S:
        for outcome in models.choose(settings, deadline_s):
            met = [
                setting.energy_j
                for workload, measured in settings.items()
                for setting in measured
                if workload == outcome.workload and setting.time_s <= deadline_s
            ]
            cases += 1
            chosen = outcome.setting.energy_j if isinstance(outcome, models.Chosen) else None
            optimal += chosen == min(met, default=None)
    what = f"Zeus: {cases} workloads and deadlines; the share where the least energy is chosen"
    yield {"what": what, "goal": "1", "measured": optimal / cases}


PARTS: dict[str, Callable[[], Iterable[Row]]] = {
    "speed": speed,
    "packing": packing.quick,
    "queueing": queueing.rows,
    "deadlines": deadlines.rows,
    "heterogeneity": heterogeneity.rows,
    "shockwave": shockwave.rows,
    "energy": energy,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all lists and seeds of packing")
    given = parse(parser, PARTS)
    file = RESULTS / "scheduler.json"
    measured: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in given.names:
        part = packing.full if given.full and name == "packing" else PARTS[name]
        print(f"{name} …", end=" ", flush=True, file=sys.stderr)
        began = time.perf_counter()
        measured[name] = [dict(row) for row in part()]
        measured["machine"] = {"text": machine()}
        file.write_text(json.dumps(measured, indent=2) + "\n")  # each part is kept at once
        (RESULTS / "scheduler.md").write_text(table(measured))
        print(f"{time.perf_counter() - began:.0f} s", flush=True, file=sys.stderr)
    print(table(measured))
    return 0


def table(measured: Mapping[str, Any]) -> str:
    lines = [
        "# The scheduler",
        "",
        f"Measured by `make bench-scheduler` on {measured['machine']['text']}. What each number",
        "assumes is in [the handbook](../../docs/scheduler.md). A row without goal is information.",
    ]
    for name in PARTS:
        if rows := measured.get(name):
            lines += ["", f"## {name}", "", "| what | measured | goal |", "| --- | ---: | ---: |"]
            lines += [f"| {r['what']} | {_words(r['measured'])} | {r['goal']} |" for r in rows]
    return "\n".join(lines) + "\n"


def _words(measured: object) -> str:
    return f"{measured:,}" if isinstance(measured, int | float) else str(measured)


if __name__ == "__main__":
    sys.exit(main())
