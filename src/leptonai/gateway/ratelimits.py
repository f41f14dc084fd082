"""What one caller of an endpoint may still use. Pure.

Each gateway counts for itself and keeps its counts in memory: with several gateways a caller may
use the limit at each, and a new gateway starts anew. Headers are named as OpenAI names them.
"""

from leptonai.core.routing import LimitBy, RateLimit
from leptonai.errors import TooManyRequests

MAX_CALLERS = 10_000  # of one endpoint; the one seen first is forgotten for the next


class Allowance:
    """Refills evenly over a minute, and holds one minute's worth at most.

    It may go below zero: how many tokens an answer takes is known only afterwards.
    """

    __slots__ = ("_at", "_left", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._at = now

    def left(self, now: float) -> float:
        per_s = self.per_minute / 60
        self._left = min(self.per_minute, self._left + per_s * (now - self._at))
        self._at = now
        return self._left

    def use(self, amount: float) -> None:
        self._left -= amount

    def full_in_s(self, now: float) -> float:
        return (self.per_minute - self.left(now)) * 60 / self.per_minute

    def one_in_s(self, now: float) -> float:
        """Until there is at least one."""
        return max(0.0, (1 - self.left(now)) * 60 / self.per_minute)


class Caller:
    __slots__ = ("requests", "tokens")

    def __init__(self, limit: RateLimit, now: float) -> None:
        self.requests = (
            None if limit.requests_per_minute is None else Allowance(limit.requests_per_minute, now)
        )
        self.tokens = (
            None if limit.tokens_per_minute is None else Allowance(limit.tokens_per_minute, now)
        )

    def headers(self, now: float) -> bytes:
        lines = b""
        for name, allowance in ((b"requests", self.requests), (b"tokens", self.tokens)):
            if allowance is not None:
                lines += (
                    b"x-ratelimit-limit-%b: %d\r\n"
                    b"x-ratelimit-remaining-%b: %d\r\n"
                    b"x-ratelimit-reset-%b: %.3fs\r\n"
                ) % (
                    *(name, allowance.per_minute),
                    *(name, max(0, int(allowance.left(now)))),
                    *(name, allowance.full_in_s(now)),
                )
        return lines

    def admit(self, now: float) -> TooManyRequests | None:
        """Take one request, or say why not."""
        for what, allowance in (("requests", self.requests), ("tokens", self.tokens)):
            if allowance is not None and allowance.left(now) < 1:
                return TooManyRequests(
                    f"more than {allowance.per_minute} {what} a minute",
                    hint=f"wait for {allowance.one_in_s(now):.1f} s, or have the limit raised",
                )
        if self.requests is not None:
            self.requests.use(1)
        return None

    def retry_after_s(self, now: float) -> float:
        """After which a request would be let in."""
        waits = [each.one_in_s(now) for each in (self.requests, self.tokens) if each is not None]
        return max(waits, default=0.0)


class Limiter:
    __slots__ = ("_by_caller", "limit")

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._by_caller: dict[str, Caller] = {}

    def caller(self, digest: str, address: str, now: float) -> Caller:
        """
        Args:
            digest: of a token that was found good; "" without one.
        """
        by_token = self.limit.by is LimitBy.TOKEN and digest
        key = digest if by_token else address
        caller = self._by_caller.get(key)
        if caller is None:
            if len(self._by_caller) >= MAX_CALLERS:
                del self._by_caller[next(iter(self._by_caller))]
            caller = self._by_caller[key] = Caller(self.limit, now)
        return caller
