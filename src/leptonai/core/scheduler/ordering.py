"""Who goes first among the gangs of one priority.

Every order is a number for each gang, smaller first. The number of a waiting gang does not depend
on the time that passes, so a queue is sorted once. That of a running one may: it jumps at instants
that are known beforehand, so nobody has to poll.
"""

import math

from leptonai.core.scheduler.policy import Order, Passing, Policy
from leptonai.core.scheduler.values import Gang

NEVER_MS = 1 << 62
AFTER_ALL = 1e16  # more than any rank where the time is known: 10,000 GPUs for thirty years
LEVEL_FACTOR = 4  # each level of attained GPU time is so many times longer than the one before
SAME_INSTANT = 1 << 42  # ms: longer than any gang runs

# Of Order.ADAPTIVE: how the time that a gang is held back grows with its work (see `_patience_ms`).
HELD_BACK_POWER = 2 / 3
FULLY_HELD_BACK_MS = 9_000_000  # 2.5 h of work for the whole cluster


def rank(gang: Gang, ran_ms: int, policy: Policy, cluster_gpus: float) -> float:
    """Smaller goes first; ties go to the longer queued, then the id.

    Args:
        ran_ms: since its present start; 0 while it waits.
        cluster_gpus: of all nodes; Order.ADAPTIVE weighs work by it.
    """
    lost = gang.deadline is not None and gang.deadline.lost
    by = _rank(gang, ran_ms, policy, cluster_gpus)
    return by + AFTER_ALL if lost else by


def _rank(gang: Gang, ran_ms: int, policy: Policy, cluster_gpus: float) -> float:
    match policy.order:
        case Order.ARRIVAL:
            if policy.passing is not Passing.RESERVED:
                return 0.0
            # Of those that came at one instant the longest: what is shorter fills more gaps.
            return gang.queued_at_ms * SAME_INSTANT - min(gang.remaining_ms or 0, SAME_INSTANT - 1)
        case Order.SHORTEST:
            return _remaining_ms(gang, ran_ms)
        case Order.LEAST_WORK:
            return _remaining_ms(gang, ran_ms) * gang.gpus
        case Order.DEADLINE:
            return gang.deadline.at_ms if gang.deadline else NEVER_MS
        case Order.LEAST_ATTAINED:
            return float((gang.attained_ms + ran_ms) * gang.gpus >= policy.first_level_gpu_ms)
        case Order.FEEDBACK:
            return float(_level((gang.attained_ms + ran_ms) * gang.gpus, policy))
        case Order.ADAPTIVE:
            return gang.queued_at_ms + _patience_ms(gang, ran_ms, policy, cluster_gpus)


def urgent_at_ms(gang: Gang, ran_ms: int, policy: Policy) -> int:
    """When it begins to go before all others of its priority: others have given way to it, it has
    waited for too long, or would miss a deadline that was promised."""
    if gang.promised:
        return 0
    due_ms = NEVER_MS
    if gang.deadline is not None and gang.deadline.due_from_ms is not None:
        due_ms = gang.deadline.due_from_ms
    if policy.overdue_after_ms is None:
        return due_ms
    return min(due_ms, _overdue_at_ms(gang, ran_ms, policy.overdue_after_ms))


def _overdue_at_ms(gang: Gang, ran_ms: int, after_ms: int) -> int:
    return gang.queued_at_ms + gang.attained_ms + ran_ms + after_ms


def rank_changes_after_ms(gang: Gang, ran_ms: int, policy: Policy) -> int | None:
    """How long until the rank of a running gang jumps by itself, so that others may go before it.
    A remaining time that shrinks lets nobody else go before it: that is no change."""
    attained_ms = gang.attained_ms + ran_ms
    match policy.order:
        case Order.LEAST_ATTAINED:
            upto_ms = math.ceil(policy.first_level_gpu_ms / gang.gpus)
        case Order.ADAPTIVE if gang.remaining_ms is not None:
            upto_ms = _doubled_ms(gang, attained_ms)
        case Order.FEEDBACK | Order.ADAPTIVE:
            level = _level(attained_ms * gang.gpus, policy)
            upto_ms = math.ceil(policy.first_level_gpu_ms * LEVEL_FACTOR**level / gang.gpus)
        case _:
            return None
    return upto_ms - attained_ms if upto_ms > attained_ms else None


# --- estimates and attained service ---------------------------------------------------------------


def _remaining_ms(gang: Gang, ran_ms: int) -> float:
    """By its estimate; of a gang that runs for longer, half of what it ran already."""
    if gang.remaining_ms is None:
        return NEVER_MS
    left_ms = gang.remaining_ms - ran_ms
    return left_ms if left_ms >= 0 else (gang.attained_ms + ran_ms) / 2


def _level(attained_gpu_ms: float, policy: Policy) -> int:
    level, upto = 0, policy.first_level_gpu_ms
    while attained_gpu_ms >= upto:
        level, upto = level + 1, upto * LEVEL_FACTOR
    return level


def _doubled_ms(gang: Gang, attained_ms: int) -> int:
    """The whole time that a gang is said to run, doubled until it has not run for so long yet."""
    assert gang.remaining_ms is not None
    whole_ms = max(1, gang.attained_ms + gang.remaining_ms)
    while whole_ms <= attained_ms:
        whole_ms *= 2
    return whole_ms


# --- patience -------------------------------------------------------------------------------------


def _patience_ms(gang: Gang, ran_ms: int, policy: Policy, cluster_gpus: float) -> float:
    """How much later others may come and still go before a gang: the longer, the more work it is.

    That is what makes the average short: small work goes first. And it is what bounds every delay:
    no gang goes before one that came `policy.patience_ms` earlier, however small it is. So a gang
    waits at the latest until all that came before that time has ended, as if the queue were first
    come, first served from then on.

    Work counts by how long it would keep the whole cluster busy, so that the same policy means the
    same on 16 GPUs and on 16,000. It grows with the power 2/3: work that differs by the same factor
    is kept apart over the whole range, and not only the largest. From FULLY_HELD_BACK_MS on, all
    patience is used up, and large work goes in the order in which it came: else the largest gang
    would go last for ever.

    The idea is that of a deadline by size (Wierman & Nuyens 2008, "Scheduling despite inexact job
    size information"; Aalo's levels, Chowdhury & Stoica 2015), with age as the common currency.
    """
    busy_ms = _work_gpu_ms(gang, ran_ms, policy) / cluster_gpus
    return policy.patience_ms * math.pow(min(1.0, busy_ms / FULLY_HELD_BACK_MS), HELD_BACK_POWER)


def _work_gpu_ms(gang: Gang, ran_ms: int, policy: Policy) -> float:
    """What is left, by the estimate; without one, what a gang has used up to its last level: who
    ran for long is expected to run for as long again, as heavy-tailed durations do.

    An estimate that proved too short is doubled, and then so much is expected as was believed
    before: in steps, so that it is known when the next one comes.
    """
    attained_ms = gang.attained_ms + ran_ms
    if gang.remaining_ms is None:
        level = _level(attained_ms * gang.gpus, policy)
        return float(policy.first_level_gpu_ms * LEVEL_FACTOR ** (level - 1)) if level else 0.0
    if gang.remaining_ms > ran_ms:
        return (gang.remaining_ms - ran_ms) * gang.gpus
    return _doubled_ms(gang, attained_ms) / 4 * gang.gpus
