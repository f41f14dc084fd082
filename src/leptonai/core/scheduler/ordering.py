"""Who goes first among the gangs of one priority."""

import math

from leptonai.core.scheduler.policy import HOUR_MS, Order, Policy
from leptonai.core.scheduler.values import Gang

NEVER_MS = 1 << 62
AFTER_ALL = 1e16  # more than any rank where the time is known: 10,000 GPUs for thirty years
LONG_GPU_MS = 8 * HOUR_MS  # of GPU time attained: then all that has less goes first
FIRST_LEVEL_GPU_MS = HOUR_MS // 2  # of multi-level feedback …
LEVEL_FACTOR = 4  # … each further level is so much longer


def rank(gang: Gang, ran_ms: int, policy: Policy) -> float:
    """Smaller goes first; ties go to the longer queued, then the id.

    Args:
        ran_ms: since its present start; 0 while it waits.
    """
    lost = gang.deadline is not None and gang.deadline.lost
    return _rank(gang, ran_ms, policy) + (AFTER_ALL if lost else 0.0)


def _rank(gang: Gang, ran_ms: int, policy: Policy) -> float:
    match policy.order:
        case Order.ARRIVAL:
            return 0.0
        case Order.SHORTEST:
            return _remaining_ms(gang, ran_ms)
        case Order.LEAST_WORK:
            return _remaining_ms(gang, ran_ms) * gang.gpus
        case Order.DEADLINE:
            return gang.deadline.at_ms if gang.deadline else NEVER_MS
        case Order.LEAST_ATTAINED:
            return float((gang.attained_ms + ran_ms) * gang.gpus >= LONG_GPU_MS)
        case Order.FEEDBACK | Order.ADAPTIVE:
            return float(_level((gang.attained_ms + ran_ms) * gang.gpus))


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
            upto = LONG_GPU_MS
        case Order.FEEDBACK | Order.ADAPTIVE:
            upto = FIRST_LEVEL_GPU_MS * LEVEL_FACTOR ** _level(attained_ms * gang.gpus)
        case _:
            return None
    return max(0, math.ceil(upto / gang.gpus) - attained_ms) or None


def _remaining_ms(gang: Gang, ran_ms: int) -> float:
    if gang.remaining_ms is None:
        return NEVER_MS
    attained = gang.attained_ms + ran_ms
    return max(gang.remaining_ms - ran_ms, attained / 2 if gang.remaining_ms < ran_ms else 0)


def _level(attained_gpu_ms: float) -> int:
    level, upto = 0, FIRST_LEVEL_GPU_MS
    while attained_gpu_ms >= upto:
        level, upto = level + 1, upto * LEVEL_FACTOR
    return level
