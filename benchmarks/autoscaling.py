"""What our autoscaler misses and costs beside Knative's and Kubernetes', on series of real rates.

    python -m benchmarks.autoscaling [--series NAME …] [--cold-start S …]

Two days of each series, scaled to 4 requests/s, with Poisson arrivals in each 5 minutes and service
times by the tokens of real requests; what lies before those days is the history that an endpoint
learns from. Every autoscaler's target is swept, so each has a frontier of misses over cost; a
rival's point is compared with ours at the same cost, or at our most expensive one where that is
cheaper. Writes results/autoscaling.md. Needs the traces beside the checkout, or in LEPTON_TRACES.
About 10 minutes.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import RESULTS
from benchmarks.traces import NoTraces, trace_folder
from leptonai.testing.simulator.autoscale import Autoscaler, simulate_autoscale
from leptonai.testing.simulator.ours import Ours, enough
from leptonai.testing.simulator.published import Hpa, Kpa
from leptonai.testing.simulator.traffic import Traffic, draw_traffic, read_rates, read_services

SLOTS, LIMIT_S, MEAN_RATE, BIN_S, SEED = 2, 2.0, 4.0, 300, 0
CERTAINTIES = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
TARGETS = (0.4, 0.5, 0.6, 0.7, 0.8)
FLOOR = 1e-6  # less than one request: for logarithms between two points


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    file: str
    days: tuple[float, float]


SERIES = (
    Series("AMZN", "Twitter_volume_AMZN.csv", (20, 22)),
    Series("ELB", "elb_request_count_8c0756.csv", (6, 8)),
    Series("GOOG", "Twitter_volume_GOOG.csv", (20, 22)),
)
COLD_STARTS_S = (30, 60, 120)


@dataclass(frozen=True, slots=True)
class Point:
    target: float
    miss: float
    cost: float
    changes: int


Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscaling", description=__doc__)
    parser.add_argument("--series", nargs="+", default=[series.name for series in SERIES])
    parser.add_argument("--cold-start", nargs="+", type=int, default=list(COLD_STARTS_S))
    given = parser.parse_args()
    try:
        rates, requests = trace_folder("nab_request_series"), trace_folder("azure_llm_2023")
    except NoTraces as missing:
        print(f"skipped: {missing}", file=sys.stderr)
        return 0
    file = RESULTS / "autoscaling.json"
    cells: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    services = _services(requests / "AzureLLMInferenceTrace_conv.csv")
    for series in SERIES:
        if series.name not in given.series:
            continue
        traffic = _traffic(rates / series.file, services, series)
        for cold_start_s in given.cold_start:
            cells[f"{series.name} {cold_start_s}"] = measure(traffic, float(cold_start_s))
            print(json.dumps(cells[f"{series.name} {cold_start_s}"]), file=sys.stderr, flush=True)
            file.write_text(json.dumps(cells, indent=1) + "\n")
    (RESULTS / "autoscaling.md").write_text(table(cells))
    print(table(cells))
    return 0


def measure(traffic: Traffic, cold_start_s: float) -> Row:
    initial = enough(traffic.rate_before, traffic.service_s, SLOTS)

    def ours(certainty: float) -> Autoscaler:
        return Ours(
            traffic,
            certainty=certainty,
            cold_start_s=cold_start_s,
            slots=SLOTS,
            initial=initial,
        )

    def frontier(
        made: Callable[[float], Autoscaler], targets: Sequence[float]
    ) -> list[dict[str, float]]:
        points = []
        for target in targets:
            outcome = simulate_autoscale(
                traffic.requests, made(target), cold_start_s=cold_start_s, slots=SLOTS
            )
            points.append(
                {
                    "target": target,
                    "miss": outcome.miss_ratio(LIMIT_S),
                    "cost": outcome.cost_ratio,
                    "changes": outcome.direction_changes,
                }
            )
        return points

    return {
        "ours": frontier(ours, CERTAINTIES),
        "kpa": frontier(lambda target: Kpa(target, slots=SLOTS, initial=initial), TARGETS),
        "hpa": frontier(lambda target: Hpa(target, slots=SLOTS, initial=initial), TARGETS),
    }


def at_cost(points: Sequence[Row], cost: float) -> float | None:
    """Misses at this cost, logarithms between two points; None below the cheapest."""
    known: list[tuple[float, float]] = []
    for cost_there, miss in sorted((point["cost"], point["miss"]) for point in points):
        if not known or miss < known[-1][1]:  # what costs more and misses more is nobody's choice
            known.append((cost_there, miss))
    if cost < known[0][0]:
        return None
    logs = [math.log(max(miss, FLOOR)) for _, miss in known]
    return float(math.exp(np.interp(cost, [cost for cost, _ in known], logs)))


def table(cells: dict[str, Any]) -> str:
    """In Markdown."""
    lines = [
        "# Autoscaling",
        "",
        "Made by `make bench-autoscale`: two days of each series at 4 requests/s on average, 2",
        "slots a replica, service times by the tokens of real requests (mean 6.7 s). *Missed*",
        "is the share of requests that waited for more than 2 s, *cost* the replica time as a",
        "multiple of what the requests keep busy, each as missed % / cost. GOOG was not run until",
        "the autoscaler was finished. The last column has a rival's points: the target, its",
        "missed % / cost, and what ours misses at that cost.",
        "",
        "| series, cold start | ours, by certainty | rival, and ours at its cost |",
        "| --- | --- | --- |",
    ]
    for name, cell in cells.items():
        ours = ", ".join(f"{p['target']:g}: {_pair(p)}" for p in cell["ours"])
        for rival in ("kpa", "hpa"):
            parts = []
            for point in cell[rival]:
                mine = at_cost(cell["ours"], point["cost"])
                beside = "–" if mine is None else f"{100 * mine:.2f}"
                parts.append(f"{point['target']:g}: {_pair(point)}, ours {beside}")
            lines.append(f"| {name} s | {ours} | {rival.upper()} {'; '.join(parts)} |")
            ours = ""
    compared, lost = [], []
    for name, cell in cells.items():
        for rival in ("kpa", "hpa"):
            for point in cell[rival]:
                mine = at_cost(cell["ours"], point["cost"])
                if mine is not None:
                    compared.append(name)
                    if mine > max(point["miss"], FLOOR) * (1 + 1e-9):
                        lost.append(f"{name} s, {rival.upper()} at {point['target']:g}")
    verdict = f"Of {len(compared)} points of rivals, ours misses no more at the same cost at "
    lines += ["", f"{verdict}{len(compared) - len(lost)}."]
    if lost:
        lines += ["", f"It misses more than: {'; '.join(lost)}."]
    return "\n".join(lines) + "\n"


def _pair(point: Row) -> str:
    return f"{100 * point['miss']:.2f} / {point['cost']:.2f}"


def _services(file: Path) -> NDArray[np.float64]:
    with file.open(newline="") as lines:
        return read_services(lines, source=str(file))


def _traffic(file: Path, services: NDArray[np.float64], series: Series) -> Traffic:
    with file.open(newline="") as lines:
        counts = read_rates(lines, source=str(file))
    return draw_traffic(
        counts, services, bin_s=BIN_S, days=series.days, mean_rate=MEAN_RATE, seed=SEED
    )


if __name__ == "__main__":
    sys.exit(main())
