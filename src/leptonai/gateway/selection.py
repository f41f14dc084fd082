"""Which of an endpoint's replicas a request goes to: by version, then by the way of balancing."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from leptonai.core.routing import BalanceBy, Route

from .balance import Ring, Shares, choose, draw, place_of
from .head import RequestHead, cookie_of, value_of
from .target import Target

DEFAULT_COOKIE = "lepton-replica"


class Selection:
    """Made when a route arrives, so that a request has little to compute."""

    __slots__ = (
        "_all",
        "_by",
        "_groups",
        "_rings",
        "_shares",
        "_simple",
        "_turn",
        "_weights",
        "cookie",
        "header",
    )

    def __init__(self, route: Route, targets: Sequence[Target]) -> None:
        by = route.balance.by
        name = route.balance.name
        self._by = by
        self.header = name.lower().encode() if by is BalanceBy.HEADER else b""
        self.cookie = (name or DEFAULT_COOKIE).encode() if by is BalanceBy.COOKIE else b""
        self._weights = route.weights
        self._turn = 0
        self._all = [each for each in targets if _asked(route, each.upstream.version)]
        self._groups: dict[str, list[Target]] = {}
        for target in self._all:
            self._groups.setdefault(target.upstream.version, []).append(target)
        present = {version: route.weights.get(version, 0.0) for version in self._groups}
        self._shares = Shares(present) if len(self._groups) > 1 and route.weights else None
        self._simple = self._shares is None and self.plain
        hashed = by in (BalanceBy.HEADER, BalanceBy.ADDRESS)
        self._rings = (
            {version: _ring(group) for version, group in self._groups.items()} if hashed else {}
        )
        if hashed and self._shares is None and self._all:
            self._rings[""] = _ring(self._all)

    def __bool__(self) -> bool:
        return bool(self._all)

    @property
    def plain(self) -> bool:
        """Whether requests need no key."""
        return self._by is BalanceBy.LEAST_OUTSTANDING

    def key_of(self, head: RequestHead, address: str) -> bytes:
        """What this caller's replica is chosen by; b"" where it brings nothing of the kind."""
        if self.header:
            return value_of(head.passed, self.header)
        if self.cookie:
            return cookie_of(head.passed, self.cookie)
        return address.encode() if self._by is BalanceBy.ADDRESS else b""

    def choose(self, now: float, key: bytes, avoid: Target | None) -> Target | None:
        """A target that is not ejected; None if there is none.

        Args:
            key: of the caller; b"" has no wish.
            avoid: it has just failed this request.
        """
        self._turn += 1
        if self._simple:
            return choose(self._all, self._turn, now, avoid)
        if key and self.cookie:
            return self._chosen_before(key, now, avoid) or self._freely(b"", now, avoid)
        return self._freely(key, now, avoid)

    def name_of(self, target: Target) -> bytes:
        """What a cookie says of a replica: not its id, which is nobody's business."""
        return sha256(target.upstream.replica.encode()).hexdigest()[:16].encode()

    def _chosen_before(self, name: bytes, now: float, avoid: Target | None) -> Target | None:
        for target in self._all:
            if self.name_of(target) == name:
                return None if target.ejected_until > now or target is avoid else target
        return None

    def _freely(self, key: bytes, now: float, avoid: Target | None) -> Target | None:
        first: str | None = ""
        if self._shares is not None:
            first = self._shares.at(place_of(key) if key else draw(self._turn))
        found = self._in(first or "", key, now, avoid) if first is not None else None
        if found is not None and (found is not avoid or self._shares is None):
            return found
        # Better another version than none.
        for version in self._groups:
            if version != first and self._weights.get(version):
                other = self._in(version, key, now, avoid)
                if other is not None and other is not avoid:
                    return other
        return found

    def _in(self, version: str, key: bytes, now: float, avoid: Target | None) -> Target | None:
        if key and self._rings:
            ring = self._rings.get(version)
            return ring.choose(key, now, avoid) if ring is not None else None
        group = self._groups.get(version, []) if self._shares is not None else self._all
        return choose(group, self._turn, now, avoid)

    def soonest(self) -> Target | None:
        """The target whose ejection ends first."""
        return min(self._all, key=lambda target: target.ejected_until, default=None)


def _asked(route: Route, version: str) -> bool:
    """Whether users' requests go to this version at all."""
    if route.weights:
        return route.weights.get(version, 0.0) > 0
    return route.shadow is None or route.shadow.version != version


def _ring(targets: Sequence[Target]) -> Ring[Target]:
    return Ring({target.upstream.replica: target for target in targets})
