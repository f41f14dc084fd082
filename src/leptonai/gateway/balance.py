"""Which replica gets the next request. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

POINTS_PER_REPLICA = 64  # on a ring: shares differ by about an eighth
GOLDEN = 0.6180339887498949


class Loaded(Protocol):
    outstanding: int  # requests it has not yet answered
    ejected_until: float  # seconds of the loop's clock


T = TypeVar("T", bound=Loaded)
K = TypeVar("K")


def choose(targets: Sequence[T], turn: int, now: float, avoid: object = None) -> T | None:
    """The one with the fewest outstanding requests; among equals the first from `turn` on.

    None if there is none, or each is ejected.

    Args:
        avoid: taken only where there is no other.
    """
    count = len(targets)
    best: T | None = None
    for step in range(count):
        target = targets[(turn + step) % count]
        if target.ejected_until > now or target is avoid:
            continue
        if target.outstanding == 0:
            return target
        if best is None or target.outstanding < best.outstanding:
            best = target
    if best is None and avoid is not None:
        return next((each for each in targets if each is avoid and each.ejected_until <= now), None)
    return best


def draw(turn: int) -> float:
    """In [0, 1): over any run of turns, spread as evenly as can be.

    Source: the golden ratio's multiples, Weyl's equidistribution; so that ten requests under
    weights of 90 and 10 are nine and one, where random draws are that only in the mean.
    """
    return (turn * GOLDEN) % 1.0


class Shares(Generic[K]):
    """Chooses among keys by weight."""

    __slots__ = ("_bounds", "_keys")

    def __init__(self, weights: Mapping[K, float]) -> None:
        self._keys = [key for key, weight in weights.items() if weight > 0]
        self._bounds = list(accumulate(weights[key] for key in self._keys))

    def at(self, place: float) -> K | None:
        """The key whose share `place` in [0, 1) lies in; None if no key has a weight."""
        if not self._keys:
            return None
        index = bisect_right(self._bounds, place * self._bounds[-1])
        return self._keys[min(index, len(self._keys) - 1)]


class Ring(Generic[T]):
    """Consistent hashing: a key keeps its target while that is there, and when a target comes or
    goes, only its own share of the keys moves.

    Source: Karger et al. 1997, "Consistent hashing and random trees".
    """

    __slots__ = ("_places", "_targets")

    def __init__(self, targets: Mapping[str, T]) -> None:
        points = sorted(
            (_hash(f"{name}/{number}".encode()), name)
            for name in targets
            for number in range(POINTS_PER_REPLICA)
        )
        self._places = [place for place, _ in points]
        self._targets = [targets[name] for _, name in points]

    def choose(self, key: bytes, now: float, avoid: object = None) -> T | None:
        """The key's own target, or the next on the ring that is not ejected."""
        count = len(self._targets)
        start = bisect_left(self._places, _hash(key))
        avoided: T | None = None
        for step in range(count):
            target = self._targets[(start + step) % count]
            if target.ejected_until > now:
                continue
            if target is not avoid:
                return target
            avoided = target
        return avoided


def place_of(key: bytes) -> float:
    """A key's own place in [0, 1), for `Shares`: the same caller meets the same version."""
    return _hash(key) / 2**64


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
