"""How long the scheduler takes on 10,000 nodes with 100,000 gangs waiting.

    python -m benchmarks.scheduler

Prints one JSON object. Nodes have 8 GPUs of three types; gangs have 1 to 8 workers of eight sizes
and belong to 50 users who take turns. After a plan for everything, jobs end and come at random, and
each event is decided at once: by then the cluster is full, most that waits is overdue, and room is
kept for it, which is the dearest state. The garbage collector is set as in the control plane.
"""

import gc
import json
import random
import resource
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from leptonai.core.resources import Capacity, Needs
from leptonai.core.scheduler import (
    Change,
    Gang,
    Index,
    NodeView,
    Place,
    Running,
    Snapshot,
    Worker,
    advance,
    decide,
)
from leptonai.main.running import GC_THRESHOLD

SEED = 1
NODES, WAITING, USERS, EVENTS = 10_000, 100_000, 50, 500
NOW_MS = 1_000_000
GIB = 1 << 30
SIZES = tuple(
    Needs(cpu_millis=cpus * 1000, memory_bytes=gib * GIB, gpus=gpus, gpu_millis=millis)
    for cpus, gib, gpus, millis in (
        (4, 16, 1, 1000),
        (8, 32, 1, 500),
        (8, 64, 2, 1000),
        (16, 128, 4, 1000),
        (32, 256, 8, 1000),
        (2, 4, 0, 1000),
        (12, 64, 1, 1000),
        (4, 8, 1, 250),
    )
)


def main() -> None:
    print(json.dumps(measure(), indent=2))


def measure(nodes: int = NODES, waiting: int = WAITING) -> dict[str, Any]:
    gc.set_threshold(GC_THRESHOLD)
    rng = random.Random(SEED)
    queue = tuple(a_gang(number, rng) for number in range(waiting))
    gangs = {gang.id: gang for gang in queue}
    cluster = tuple(
        NodeView(
            id=f"node-{number:05}",
            capacity=Capacity(
                cpu_millis=96_000,
                memory_bytes=768 * GIB,
                gpus=8,
                gpu_type=rng.choice(["A100", "H100", "T4"]),
            ),
        )
        for number in range(nodes)
    )
    began = time.perf_counter()
    demand = Counter(worker.needs for gang in queue for worker in gang.workers)
    index = Index.of(Snapshot(now_ms=NOW_MS, nodes=cluster, queue=queue, demand=demand))
    learned = time.perf_counter()
    plan = decide(index, NOW_MS)
    decided = time.perf_counter()
    workers = sum(len(place.assignments) for place in plan.places)
    figures = {
        "learn_all_s": round(learned - began, 3),
        "replan_s": round(decided - learned, 3),
        "gangs_placed": len(plan.places),
        "workers_placed": workers,
        "placements_per_s": round(workers / (decided - learned)),
    }
    index = advance(index, started(plan.places, gangs, NOW_MS))
    now_ms, taken, placed = NOW_MS, [], 0
    running = [place.gang for place in plan.places]
    for _ in range(EVENTS):
        now_ms += 50
        gone = tuple(running.pop(rng.randrange(len(running))) for _ in range(3))
        new = tuple(a_gang(len(gangs) + at, rng, now_ms) for at in range(3))
        gangs |= {gang.id: gang for gang in new}
        began = time.perf_counter()
        index = advance(index, Change(gone=gone, queued=new))
        plan = decide(index, now_ms)
        taken.append(time.perf_counter() - began)
        index = advance(index, started(plan.places, gangs, now_ms))
        running += [place.gang for place in plan.places]
        placed += len(plan.places)
    taken.sort()
    return figures | {
        "event_ms_p50": round(1000 * taken[EVENTS // 2], 2),
        "event_ms_p99": round(1000 * taken[EVENTS * 99 // 100], 2),
        "gangs_placed_by_events": placed,
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def a_gang(number: int, rng: random.Random, queued_at_ms: int | None = None) -> Gang:
    size = rng.choice(SIZES)
    workers = rng.choice([1] * 12 + [2, 4, 8])
    id = f"gang-{number:07}"
    return Gang(
        id=id,
        name=id,
        workers=tuple(Worker(replica=f"{id}-{at}", needs=size) for at in range(workers)),
        queued_at_ms=number if queued_at_ms is None else queued_at_ms,
        user=f"user-{rng.randrange(USERS)}",
    )


def started(places: Iterable[Place], gangs: dict[str, Gang], now_ms: int) -> Change:
    return Change(
        running=tuple(
            Running(
                gang=gangs[place.gang],
                held=tuple(zip(gangs[place.gang].workers, place.assignments, strict=True)),
                rendezvous_port=place.rendezvous_port,
                started_at_ms=now_ms,
            )
            for place in places
        )
    )


if __name__ == "__main__":
    main()
