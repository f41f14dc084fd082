"""Slots of what is free over time: which of them suffice for a gang, as late as can be."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate
from math import ceil, floor

import numpy as np

from leptonai.core.scheduler.columns import Floats, Ints
from leptonai.core.scheduler.promises import Slot, Work


class Room:
    """How much is free from each instant on, until the next."""

    def __init__(
        self, from_ms: int, free: int, taken: Iterable[tuple[Iterable[Slot], int]]
    ) -> None:
        change = {from_ms: free}
        for slots, width in taken:
            for slot in slots:
                if slot.to_ms > from_ms:
                    begins, amount = max(slot.from_ms, from_ms), slot.workers * width
                    change[begins] = change.get(begins, 0) - amount
                    change[slot.to_ms] = change.get(slot.to_ms, 0) + amount
        self.at_ms = sorted(change)
        self.free = list(accumulate(change[at] for at in self.at_ms))

    def take(self, slots: Iterable[Slot], width: int) -> None:
        """A negative width gives back."""
        for slot in slots:
            a, b = self._cut(max(slot.from_ms, self.at_ms[0])), self._cut(slot.to_ms)
            for k in range(a, b):
                self.free[k] -= slot.workers * width

    def least(self, from_ms: int, to_ms: int) -> int:
        a, b = bisect_right(self.at_ms, from_ms) - 1, bisect_left(self.at_ms, to_ms)
        return min(self.free[a:b])

    def until(self, end_ms: int) -> tuple[Ints, Ints]:
        """The instants up to an end, which is the last; and what is free between them."""
        many = bisect_left(self.at_ms, end_ms)
        at_ms = np.array([*self.at_ms[:many], end_ms], dtype=np.int64)
        return at_ms, np.array(self.free[:many], dtype=np.int64)

    def _cut(self, at_ms: int) -> int:
        k = bisect_left(self.at_ms, at_ms)
        if k == len(self.at_ms) or self.at_ms[k] != at_ms:
            self.at_ms.insert(k, at_ms)
            self.free.insert(k, self.free[k - 1])
        return k


def slots_for(work: Work, at_ms: Ints, free: Ints, left_ms: float) -> tuple[Slot, ...] | None:
    """The fewest workers that suffice, and as late as that allows: up to some instant with one step
    less (for a gang of fixed size: not at all), from then on with these."""
    length = np.diff(at_ms).astype(np.float64)
    curve = work.curve
    low, high = 0, len(curve.workers) - 1
    most = float(by_workers(work, free, high)[1] @ length)
    if most < left_ms:
        return None
    if most < left_ms + work.spare_ms:
        left_ms = min(left_ms, most * (1 - 1e-12))  # sums differ by their order
    else:
        left_ms += work.spare_ms
    while low < high:
        middle = (low + high) // 2
        if float(by_workers(work, free, middle)[1] @ length) >= left_ms:
            high = middle
        else:
            low = middle + 1
    more, fast = by_workers(work, free, high)
    fewer, slow = by_workers(work, free, high - 1)
    from_here = np.cumsum((fast * length)[::-1])[::-1]  # if it has more from this segment on …
    up_to_here = np.concatenate([[0.0], np.cumsum(slow * length)])  # … and fewer before it
    k = int(np.flatnonzero(up_to_here[:-1] + from_here >= left_ms)[-1])
    change_ms = int(at_ms[k + 1])
    if (gained := fast[k] - slow[k]) > 0:
        over = up_to_here[k] + from_here[k] - left_ms
        change_ms = min(change_ms, int(at_ms[k]) + floor(over / gained))
    slots: list[Slot] = []
    edges = [*at_ms[: k + 1].tolist(), change_ms, *at_ms[k + 1 :].tolist()]
    counts = [*fewer[: k + 1].tolist(), *more[k:].tolist()]
    for from_ms, to_ms, many in zip(edges[:-1], edges[1:], counts, strict=True):
        if not many or from_ms == to_ms:
            continue
        if slots and slots[-1].to_ms == from_ms and slots[-1].workers == many:
            from_ms = slots.pop().from_ms
        slots.append(Slot(from_ms, to_ms, many))
    return tuple(slots)


def one_slot_for(work: Work, at_ms: Ints, free: Ints) -> tuple[Slot, ...] | None:
    """The same for a gang that nothing may interrupt or resize."""
    for many, speed in zip(work.curve.workers, work.curve.speeds, strict=True):
        takes_ms = ceil(work.left_ms / speed)
        to_ms = int(at_ms[-1])
        for k in range(len(free) - 1, -1, -1):
            if free[k] < many * work.width:
                to_ms = int(at_ms[k])
            elif to_ms - int(at_ms[k]) >= takes_ms:
                return (Slot(to_ms - takes_ms, to_ms, many),)
    return None


def by_workers(work: Work, free: Ints, most: int | None = None) -> tuple[Ints, Floats]:
    """How many workers it can have where so much is free, and how fast it is then.

    Args:
        most: the index of the most workers it takes, in its curve; -1: none.
    """
    workers = np.array((0, *work.curve.workers), dtype=np.int64)
    speeds = np.array((0.0, *work.curve.speeds))
    fits = np.searchsorted(workers * work.width, free, side="right") - 1
    fits = np.clip(fits, 0, len(workers) - 1 if most is None else most + 1)
    return workers[fits], speeds[fits]
