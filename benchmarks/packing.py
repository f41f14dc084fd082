"""How full the openb cluster gets, beside what was published of it.

    python -m benchmarks.packing [--full]

Prints rows of JSON: what, goal, measured. Percentages are of the cluster's GPUs, when 130 % of them
have arrived; "published" are the results of the trace's authors. Node names are permuted with the
seed: published FGD leans on their order. Needs the traces beside the checkout, or in
LEPTON_TRACES. The quick form takes one list and one seed, under a minute; the full one ten lists
and ten seeds, about ten minutes a policy.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.traces import trace_folder
from leptonai.core.scheduler import Choice, NodeView
from leptonai.testing.simulator.pack import Packed, Pod, read_nodes, read_pods, simulate_pack

LISTS = (
    "default",
    "cpu050",
    "cpu100",
    "cpu200",
    "gpushare40",
    "gpushare100",
    "gpuspec10",
    "gpuspec33",
    "multigpu20",
    "multigpu50",
)
SEEDS = tuple(range(42, 52))  # as published
PUBLISHED = {
    Choice.RANDOM: "01-Random",
    Choice.BEST_FIT: "05-BestFit",
    Choice.FGD: "06-FGD",
}

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing", description=__doc__)
    parser.add_argument("--full", action="store_true", help="ten lists and ten seeds")
    given = parser.parse_args()
    print(json.dumps(full() if given.full else quick(), indent=2))


def quick() -> list[Row]:
    return _rows(LISTS[:1], SEEDS[:1])


def full() -> list[Row]:
    return _rows(LISTS, SEEDS)


def _rows(lists: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    folder = trace_folder("alibaba_openb_2023")
    published = _published(folder)
    rows: list[Row] = []
    for choice in (Choice.RANDOM, Choice.BEST_FIT):
        theirs = published["default", PUBLISHED[choice]]
        ours = _allocated(_runs(folder, "default", choice, seeds, renamed=False))
        rows.append(_row(f"default, {choice}", f"{theirs:.2f} ± 0.4", ours))
    ours_of: dict[str, list[Packed]] = {}
    for name in lists:
        ours_of[name] = _runs(folder, name, Choice.OURS, seeds)
        goal = f"≥ {published[name, PUBLISHED[Choice.FGD]] - 0.3:.2f}"
        rows.append(_row(f"{name}, ours", goal, _allocated(ours_of[name])))
    goal = mean(published[name, PUBLISHED[Choice.FGD]] for name in lists)
    measured = mean(_allocated(packed) for packed in ours_of.values())
    rows.append(_row("mean of the lists, ours", f"≥ {goal:.2f}, better {goal + 0.4:.2f}", measured))
    rows += _energy_rows(folder, seeds)
    slowest = min(packed.decisions_per_s for runs in ours_of.values() for packed in runs)
    rows.append(_row("decisions a second, ours, the slowest run", "", slowest))
    return rows


def _energy_rows(folder: Path, seeds: Sequence[int]) -> list[Row]:
    fgd = _runs(folder, "default", Choice.FGD, seeds)
    energy = _runs(folder, "default", Choice.ENERGY, seeds)
    watts = [mean(p.watts["0.5"] for p in runs if p.watts) for runs in (fgd, energy)]
    saved = 100 * (1 - watts[1] / watts[0])
    return [
        _row("default, FGD (exact)", "", _allocated(fgd)),
        _row("default, energy", f"≥ {_allocated(fgd) - 0.5:.2f}", _allocated(energy)),
        _row("power saved at 50 % arrival, energy beside FGD, %", "≥ 10", saved),
    ]


def _runs(
    folder: Path, pods: str, choice: Choice, seeds: Sequence[int], *, renamed: bool = True
) -> list[Packed]:
    nodes, arriving = _openb(folder, pods)
    return [
        simulate_pack(_renamed(nodes, seed) if renamed else nodes, arriving, choice, seed=seed)
        for seed in seeds
    ]


def _allocated(runs: Sequence[Packed]) -> float:
    return 100 * mean(packed.allocated["1.3"] for packed in runs)


def _renamed(nodes: Sequence[NodeView], seed: int) -> list[NodeView]:
    names = np.random.default_rng(seed).permutation(len(nodes)).tolist()
    return [replace(node, id=f"node-{at:05}") for node, at in zip(nodes, names, strict=True)]


def _openb(folder: Path, pods: str) -> tuple[tuple[NodeView, ...], tuple[Pod, ...]]:
    nodes_file = folder / "openb_node_list_gpu_node.csv"
    pods_file = folder / f"openb_pod_list_{pods}.csv"
    with nodes_file.open(newline="") as nodes, pods_file.open(newline="") as lines:
        return (
            read_nodes(nodes, source=str(nodes_file)),
            read_pods(lines, source=str(pods_file)),
        )


def _published(folder: Path) -> dict[tuple[str, str], float]:
    """The mean over their seeds, by list and policy."""
    by_run: dict[tuple[str, str], list[float]] = {}
    with (folder / "published_allocation_ratio.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            key = row["workload"].removeprefix("openb_pod_list_"), row["sc_policy"]
            by_run.setdefault(key, []).append(float(row["130"]))
    return {key: mean(values) for key, values in by_run.items()}


def _row(what: str, goal: str, measured: float) -> Row:
    return {"what": what, "goal": goal, "measured": round(measured, 2)}


if __name__ == "__main__":
    main()
