"""When a request may be sent again, and when a replica is left alone. Pure.

A retry budget is a share of the requests, so that an endpoint whose every replica dies of a request
gets little more work by retries, with a floor that lets a quiet endpoint lose a replica.
Source: Finagle's RetryBudget.
"""

from leptonai.core.routing import Retry

MAX_ATTEMPTS = 5  # of one request, all replicas together
BUDGET_SHARE = 0.2  # retries that a request earns
BUDGET_PER_S = 10.0  # and each second
BUDGET_FLOOR = 256.0  # there from the start, and kept for a burst: what one replica may have held
BUDGET_MOST = 4_096.0
EJECT_MOST_S = 30.0
FAILURES_OF_ANSWERS = 5  # 5xx one after the other, after which a replica is left alone


class RetryBudget:
    __slots__ = ("_at", "_left", "_requests")

    def __init__(self, now: float) -> None:
        self._at = now
        self._requests = 0
        self._left = BUDGET_FLOOR

    def spend(self, requests: int, now: float) -> bool:
        """Take one retry, if there is one left.

        Args:
            requests: that have arrived in all.
        """
        earned = BUDGET_SHARE * (requests - self._requests)
        if self._left < BUDGET_FLOOR:
            earned += min(BUDGET_PER_S * (now - self._at), BUDGET_FLOOR - self._left)
        self._left = min(BUDGET_MOST, self._left + earned)
        self._requests, self._at = requests, now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def why_not_again(
    policy: Retry, *, safe: bool, sent: bool, kept: bool, attempts: int
) -> str | None:
    """Why a request whose replica failed is not sent to another; None: it may be.

    Args:
        safe: doing it twice is doing it once, by its method or its Idempotency-Key.
        sent: the replica that failed had been sent a byte of it.
        kept: all that was sent of it is still here.
        attempts: that have failed.
    """
    if attempts >= MAX_ATTEMPTS:
        return f"{attempts} replicas failed it one after the other"
    if not sent:
        return None
    if policy is Retry.NEVER:
        return "its endpoint declares that requests are never repeated"
    if policy is Retry.SAFE and not safe:
        return (
            "repeating it may do harm: send an Idempotency-Key,"
            " or declare the endpoint `--retry always`"
        )
    if not kept:
        return "it is too large to be kept for a second try"
    return None


def ejection_s(first_s: float, failures: int) -> float:
    """How long a replica is left alone after so many failures in a row, its first being 1."""
    return min(EJECT_MOST_S, first_s * 2.0 ** min(failures - 1, 10))
