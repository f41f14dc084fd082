"""Who goes first among the gangs of one priority."""

from leptonai.core.scheduler.policy import HOUR_MS, Order, Policy
from leptonai.core.scheduler.values import Gang

NEVER_MS = 1 << 62


def rank(gang: Gang, ran_ms: int, policy: Policy) -> float:
    """Smaller goes first; ties go to the longer queued, then the id.

    Args:
        ran_ms: since its present start; 0 while it waits.
    """
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
            return float((gang.attained_ms + ran_ms) * gang.gpus >= 8 * HOUR_MS)
        case Order.FEEDBACK | Order.ADAPTIVE:
            return float(_level((gang.attained_ms + ran_ms) * gang.gpus))


def urgent_at_ms(gang: Gang, ran_ms: int, policy: Policy) -> int:
    """When it begins to go before all others of its priority: it has waited for too long."""
    return gang.queued_at_ms + gang.attained_ms + ran_ms + policy.overdue_after_ms


def rank_changes_at_ms(gang: Gang, ran_ms: int, policy: Policy) -> int | None:
    """How long until a running gang's rank jumps by itself, if it does; slow drift is no change."""
    return None


def _remaining_ms(gang: Gang, ran_ms: int) -> float:
    if gang.remaining_ms is None:
        return NEVER_MS
    attained = gang.attained_ms + ran_ms
    return max(gang.remaining_ms - ran_ms, attained / 2 if gang.remaining_ms < ran_ms else 0)


def _level(attained_gpu_ms: float) -> int:
    level, upto = 0, 0.5 * HOUR_MS
    while attained_gpu_ms >= upto:
        level, upto = level + 1, upto * 4
    return level
