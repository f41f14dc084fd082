"""Elastic gangs have what is left, where it saves them more than the restart costs.

Nobody else is worse off by that: what they have above their least is the first to yield.
"""

from collections.abc import Collection
from dataclasses import replace

from leptonai.core.scheduler.elastic import PAYS_BACK, Claim, Curve, allot
from leptonai.core.scheduler.fitting import choose_nodes, equal_size
from leptonai.core.scheduler.quotas import Standing
from leptonai.core.scheduler.trial import Trial
from leptonai.core.scheduler.values import Gang, Running


def grow(trial: Trial, yielded: Collection[str]) -> list[Running]:
    """Those that get more, as they will go on.

    Args:
        yielded: gangs that give up something now.
    """
    policy, running = trial.policy, trial.index.running
    growing = [running[id] for id in sorted(trial.index.growable) if id not in yielded]
    ripe = [r for r in growing if trial.ran_ms(r) >= policy.min_run_ms]
    claims = [_claim(each, trial) for each in ripe]
    free = max((_room_for(each.gang, trial) for each in ripe), default=0.0)
    free += sum(claim.has * claim.size for claim in claims)
    having = allot(claims, free, restart_ms=policy.restart_ms)
    most_first = sorted(ripe, key=lambda r: (-having[r.gang.id], r.gang.id))
    grown = (_with_more(r, having[r.gang.id] - len(r.held), trial) for r in most_first)
    return [each for each in grown if each is not None]


def _claim(running: Running, trial: Trial) -> Claim:
    gang, ran_ms = running.gang, trial.ran_ms(running)
    has, curve = len(running.held), Curve.of(gang)
    left_ms = float(gang.attained_ms + ran_ms)  # not known: as long again as until now
    if gang.remaining_ms is not None:
        left_ms = gang.remaining_ms - ran_ms * curve.speed(has)
    return Claim(
        id=gang.id,
        curve=curve,
        size=gang.gpus / len(gang.workers),
        left_ms=max(1.0, left_ms),
        has=has,
        promised=has,
        turn=-gang.priority,
    )


def _room_for(gang: Gang, trial: Trial) -> float:
    """In GPUs, of workers like its own."""
    size = equal_size(gang)
    if size is None:
        return 0.0
    return float(trial.nodes.row(size).copies.sum()) * gang.gpus / len(gang.workers)


def _with_more(running: Running, many: int, trial: Trial) -> Running | None:
    gang = running.gang
    held = {worker.replica for worker, _ in running.held}
    more = tuple(worker for worker in gang.workers if worker.replica not in held)[:many]
    if not more or gang.apart:
        return None
    adding = replace(gang, workers=more, min_workers=1)
    if trial.standing(replace(adding, min_workers=0)) is not Standing.WITHIN:
        return None
    chosen = choose_nodes(adding, trial.nodes, trial.index.admitted(gang))
    if chosen is None or not _pays(_claim(running, trial), len(chosen), trial.policy.restart_ms):
        return None
    assignments, holds = trial.seat(more, chosen)
    if trial.waits_for(holds):  # it can restart with them at once, or stays as it is
        for at, hold in holds:
            trial.give(at, hold)
        return None
    trial.use(gang, more[: len(chosen)], 1)
    return replace(running, held=(*running.held, *zip(more, assignments, strict=False)))


def _pays(claim: Claim, more: int, restart_ms: float) -> bool:
    saved_ms = claim.left_ms * (
        1 / claim.curve.speed(claim.has) - 1 / claim.curve.speed(claim.has + more)
    )
    return saved_ms > PAYS_BACK * restart_ms
