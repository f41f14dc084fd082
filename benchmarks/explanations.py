"""How long an explanation takes where 1,000 jobs run and 1,000 wait, and how near forecasts come.

    python -m benchmarks.explanations

Prints one JSON object. CPU time counts, of the thread alone that computes: what else a machine does
is no matter of ours. Meanwhile an event loop ticks every millisecond: `loop_gap_ms` is its longest
pause, in wall time. Forecasts are compared with a run of the same cluster to its end, without
bounds, in which every job runs as long as it was estimated.
"""

import asyncio
import json
import random
import time
from dataclasses import replace
from typing import Any

from leptonai.core.resources import Capacity, Needs
from leptonai.core.scheduler import (
    DEFAULT,
    Change,
    Gang,
    Index,
    NodeView,
    Running,
    Snapshot,
    Worker,
    advance,
    decide,
    schedule,
)
from leptonai.core.scheduler.outlook import Outlook, look_ahead

SEED = 1
NODES, RUNNING, WAITING, USERS = 500, 1_000, 1_000, 5
ASKED = 12  # jobs, evenly over the queue
NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
GIB = 1 << 30


def main() -> None:
    print(json.dumps(measure(), indent=2))


def measure() -> dict[str, Any]:
    snapshot = a_full_cluster(random.Random(SEED))
    plan = decide(Index.of(snapshot), NOW_MS, explain=True)
    waits = [wait.gang for wait in plan.waits]
    asked = waits[:: max(1, len(waits) // ASKED)][:ASKED]
    answers, cpu_ms, gap_ms = asyncio.run(_ask(snapshot, asked))
    starts = _played_out(snapshot)
    figures = [(answer.start, starts[id]) for id, answer in zip(asked, answers, strict=True)]
    intervals = [
        start.earliest_at_ms <= true <= start.latest_at_ms
        for start, true in figures
        if start and start.earliest_at_ms is not None and start.latest_at_ms is not None
    ]
    ratios = [
        (start.expected_at_ms - NOW_MS) / (true - NOW_MS)
        for start, true in figures
        if start and start.expected_at_ms is not None and true > NOW_MS
    ]
    return {
        "running": len(snapshot.running),
        "waiting": len(waits),
        "why_cpu_ms_p50": round(sorted(cpu_ms)[len(cpu_ms) // 2], 1),
        "why_cpu_ms_most": round(max(cpu_ms), 1),
        "loop_gap_ms": round(gap_ms, 1),
        "starts_expected": len(ratios),
        "expected_by_true_wait_p50": round(sorted(ratios)[len(ratios) // 2], 2),
        "intervals": len(intervals),
        "intervals_that_hold": sum(intervals),
        "alternatives": sum(len(answer.alternatives) for answer in answers),
    }


async def _ask(snapshot: Snapshot, asked: list[str]) -> tuple[list[Outlook], list[float], float]:
    gap_s, last, over = 0.0, time.perf_counter(), False

    async def tick() -> None:
        nonlocal gap_s, last
        while not over:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gap_s, last = max(gap_s, now - last), now

    def answer(gang: str) -> tuple[Outlook, float]:
        began = time.thread_time()
        outlook = look_ahead(snapshot, gang)
        return outlook, 1_000 * (time.thread_time() - began)

    ticking = asyncio.create_task(tick())
    answered = [await asyncio.to_thread(answer, gang) for gang in asked]
    over = True
    await ticking
    return [outlook for outlook, _ in answered], [ms for _, ms in answered], 1_000 * gap_s


def a_full_cluster(rng: random.Random) -> Snapshot:
    nodes = tuple(
        NodeView(
            id=f"node-{number:04}",
            capacity=Capacity(
                cpu_millis=64_000,
                memory_bytes=512 * GIB,
                gpus=8,
                gpu_type="A100" if number % 2 else "H100",
            ),
        )
        for number in range(NODES)
    )
    gangs = [a_gang(number, rng) for number in range(RUNNING + WAITING)]
    by_id = {gang.id: gang for gang in gangs}
    running = tuple(
        Running(
            gang=by_id[place.gang],
            held=tuple(zip(by_id[place.gang].workers, place.assignments, strict=True)),
            rendezvous_port=place.rendezvous_port,
            started_at_ms=NOW_MS - rng.randrange(by_id[place.gang].remaining_ms or 1),
        )
        for place in schedule(Snapshot(now_ms=NOW_MS, nodes=nodes, queue=tuple(gangs))).places
    )
    placed = {each.gang.id for each in running}
    queue = tuple(gang for gang in gangs if gang.id not in placed)[:WAITING]
    return Snapshot(now_ms=NOW_MS, nodes=nodes, running=running, queue=queue)


def a_gang(number: int, rng: random.Random) -> Gang:
    gpus = rng.choice([1, 1, 1, 2, 4, 8])
    workers = rng.choice([1, 1, 1, 2, 4]) if gpus == 8 else 1
    needs = Needs(
        cpu_millis=4_000 * gpus,
        memory_bytes=16 * GIB * gpus,
        gpus=gpus,
        gpu_type=rng.choice(["", "A100", "H100"]),
    )
    return Gang(
        id=f"job-{number:04}",
        name=f"job-{number:04}",
        workers=tuple(Worker(replica=f"{number}-{index}", needs=needs) for index in range(workers)),
        priority=rng.choice([4000, 5000, 5000, 8000]),
        queued_at_ms=NOW_MS - rng.randrange(HOUR_MS),
        user=f"user-{rng.randrange(USERS)}",
        preemptible=rng.random() < 0.3,
        remaining_ms=round(rng.lognormvariate(8, 1.5) * 1_000),
    )


def _played_out(snapshot: Snapshot) -> dict[str, int]:
    """When each gang that waits first starts."""
    index, now_ms = Index.of(snapshot, DEFAULT), NOW_MS
    starts: dict[str, int] = {}
    ends = {
        running.gang.id: max(
            NOW_MS, (running.started_at_ms or 0) + (running.gang.remaining_ms or 0)
        )
        for running in snapshot.running
    }
    while index.waiting:
        plan = decide(index, now_ms)
        queued: dict[str, Gang] = {}
        running = []
        for preempt in plan.preempts:
            gone = index.running[preempt.gang]
            left_ms = max(0, ends.pop(preempt.gang) - now_ms) + preempt.lost_ms
            attained_ms = gone.gang.attained_ms + now_ms - (gone.started_at_ms or now_ms)
            queued[preempt.gang] = replace(gone.gang, remaining_ms=left_ms, attained_ms=attained_ms)
        for place in plan.places:
            gang = queued.pop(place.gang, None) or index.waiting[place.gang]
            held = tuple(zip(gang.workers, place.assignments, strict=False))
            running.append(Running(gang=gang, held=held, started_at_ms=now_ms))
            starts.setdefault(gang.id, now_ms)
            ends[gang.id] = now_ms + (gang.remaining_ms or 0)
        index = advance(index, Change(queued=tuple(queued.values()), running=tuple(running)))
        times = [*ends.values(), *([plan.revisit_at_ms] if plan.revisit_at_ms else [])]
        now_ms = min(times, default=now_ms)
        over = tuple(id for id, at_ms in ends.items() if at_ms <= now_ms)
        for id in over:
            del ends[id]
        index = advance(index, Change(gone=over))
    return starts


if __name__ == "__main__":
    main()
