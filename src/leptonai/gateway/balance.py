"""Which replica gets the next request. Pure."""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Loaded(Protocol):
    outstanding: int  # requests it has not yet answered
    ejected_until: float  # seconds of the loop's clock


T = TypeVar("T", bound=Loaded)


def choose(targets: Sequence[T], turn: int, now: float) -> T | None:
    """The one with the fewest outstanding requests; among equals the first from `turn` on.

    None if there is none, or each has just refused a connection.
    """
    count = len(targets)
    best: T | None = None
    for step in range(count):
        target = targets[(turn + step) % count]
        if target.ejected_until > now:
            continue
        if target.outstanding == 0:
            return target
        if best is None or target.outstanding < best.outstanding:
            best = target
    return best
