"""How near whole rounds come to the shares that a linear program decides for unequal GPUs.

    python -m benchmarks.heterogeneity

Prints rows of JSON. Speeds are those measured for Gavel (Narayanan et al., OSDI 2020) on K80, P100
and V100; which models, and of how many GPUs, is drawn from its Philly trace with seeds. Of a gang
the consolidated speed counts: its GPUs are on one machine, which up to 8 GPUs a good placement
gives it (what spread gangs lose is in the same table, and is a matter of placement). Kinds
of gangs of which a speed was never measured (16 and more GPUs, some models) are left out.

A round is 360 s, as in Gavel; starting, or moving to another type, costs 20 s of it, as measured
for Shockwave (Zheng et al., NSDI 2023). All gangs stay for all rounds, so what is compared is what
the linear program promises with what whole GPUs and whole gangs got. The shares of wide gangs are
small: one of a 20th has 30 turns in 600 rounds (two and a half days), of which one is 3 %. On few
GPUs the parts of gangs that the linear program hands out are not well made up of whole ones: the
clusters for gangs are larger.
"""

import ast
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.traces import trace_folder
from leptonai.core.scheduler.optimize.shares import (
    Claim,
    Shares,
    fair_share,
    fairest,
    most_progress,
    relative,
)
from leptonai.core.scheduler.rounds import Ledger, next_round, settle

TYPES = ("k80", "p100", "v100")
ROUND_S, START_S = 360.0, 20.0
ROUNDS, GANG_ROUNDS = 400, 600
SEEDS = range(3)
CLUSTERS = ((8, 8, 8), (36, 36, 36), (64, 32, 16))  # of K80, P100, V100; the second is Gavel's
GANG_CLUSTERS = ((64, 64, 64), (128, 64, 32))
LOADS = (1.5, 3.0)  # GPUs wanted, by GPUs there

Speeds = Mapping[tuple[str, int], Mapping[str, float]]  # of a model and a number of GPUs, by type


def rows() -> list[dict[str, Any]]:
    folder = trace_folder("gavel_osdi20")
    speeds = read_speeds(folder / "simulation_throughputs.json")
    kinds = [kind for kind in read_kinds(folder / "msr_seed0_ee9e8c.trace") if kind in speeds]
    single = [(model, 1) for model, _ in kinds]
    table = []
    for name, drawn, clusters, rounds in (
        ("of one GPU each", single, CLUSTERS, ROUNDS),
        ("of 1 to 8 GPUs", kinds, GANG_CLUSTERS, GANG_ROUNDS),
    ):
        most, least = [], []
        for cluster in clusters:
            gpus = dict(zip(TYPES, cluster, strict=True))
            for load in LOADS:
                for seed in SEEDS:
                    claims = draw(drawn, speeds, gpus=gpus, load=load, seed=seed)
                    most.append(realised_sum(claims, gpus, rounds=rounds))
                    least.append(realised_least(claims, gpus, rounds=rounds))
        table += [
            _row(f"gangs {name}: realised throughput by the max-sum LP's", ">= 0.97", most),
            _row(f"gangs {name}: smallest realised share by the max-min LP's", ">= 0.95", least),
        ]
    return table


def _row(what: str, goal: str, measured: Sequence[float]) -> dict[str, Any]:
    mean = sum(measured) / len(measured)
    return {
        "what": f"{what}; worst of {len(measured)} (mean {mean:.3f})",
        "goal": goal,
        "measured": round(min(measured), 4),
    }


def read_speeds(file: Path) -> Speeds:
    """Steps a second of what runs alone on its GPUs."""
    speeds: dict[tuple[str, int], dict[str, float]] = {}
    for type_, of_type in json.loads(file.read_text()).items():
        if type_ in TYPES:
            for name, beside in of_type.items():
                if beside["null"] > 0:
                    speeds.setdefault(ast.literal_eval(name), {})[type_] = beside["null"]
    return speeds


def read_kinds(file: Path) -> list[tuple[str, int]]:
    """The model and the number of GPUs of each job of the trace."""
    jobs = [line.rstrip("\n").split("\t") for line in file.read_text().splitlines()]
    return [(job[0], int(job[-1])) for job in jobs]


def draw(
    kinds: Sequence[tuple[str, int]],
    speeds: Speeds,
    *,
    gpus: Mapping[str, int],
    load: float,
    seed: int,
) -> list[Claim]:
    """Gangs of these kinds, until they want so many times the GPUs that there are."""
    chance = random.Random(seed)
    claims: list[Claim] = []
    while sum(claim.gpus for claim in claims) < load * sum(gpus.values()):
        kind = chance.choice(kinds)
        if kind[1] <= min(gpus.values()):
            number = f"gang-{len(claims):04}"
            claims.append(Claim(id=number, gpus=kind[1], rates=speeds[kind]))
    return claims


def realised_sum(claims: Sequence[Claim], gpus: Mapping[str, int], *, rounds: int) -> float:
    """By the linear program's value; a gang's speed counts relative to its best type."""
    compared = relative(claims)
    shares = most_progress(compared, gpus)
    progress = realise(compared, gpus, shares, rounds=rounds)
    return sum(progress.values()) / shares.bound


def realised_least(claims: Sequence[Claim], gpus: Mapping[str, int], *, rounds: int) -> float:
    shares = fairest(claims, gpus)
    progress = realise(claims, gpus, shares, rounds=rounds)
    least = min(fair_share(claim, progress[claim.id], claims, gpus) for claim in claims)
    return least / shares.bound


def realise(
    claims: Sequence[Claim],
    gpus: Mapping[str, int],
    shares: Shares,
    *,
    rounds: int,
    start_cost: float = START_S / ROUND_S,
) -> dict[str, float]:
    """The mean rate of each gang over so many rounds."""
    ledger = Ledger()
    steps = dict.fromkeys((claim.id for claim in claims), 0.0)
    rate = {claim.id: claim.rates for claim in claims}
    for _ in range(rounds):
        placed = next_round(claims, shares, gpus, ledger)
        for gang, type_ in placed.items():
            starts = ledger.running.get(gang) != type_
            steps[gang] += rate[gang][type_] * (1.0 - starts * start_cost)
        ledger = settle(ledger, shares, placed, start_cost=start_cost)
    return {gang: done / rounds for gang, done in steps.items()}


if __name__ == "__main__":
    for row in rows():
        print(json.dumps(row))
