"""From when on an answer is late, as the answers before it were. Pure."""

from __future__ import annotations

import math

FINEST_S = 1e-4
LEVELS_A_DOUBLING = 4
LEVELS = 96  # to about half an hour
MEMORY = 2_000  # answers; older ones weigh half, and half again
LEAST_KNOWN = 50  # answers from which on it is believed
LOOK_EVERY = 32  # answers


class Slowness:
    """A quantile of the times to the first byte of an answer. A request that got its answer by a
    second try counts with the time until then: longer than the quantile in any case."""

    __slots__ = ("_counts", "_noted", "_quantile", "_total", "after_s")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._counts = [0.0] * LEVELS
        self._total = 0.0
        self._noted = 0
        self.after_s: float | None = None  # None: not known yet

    def note(self, seconds: float) -> None:
        level = 0
        if seconds > FINEST_S:
            level = min(LEVELS - 1, math.ceil(LEVELS_A_DOUBLING * math.log2(seconds / FINEST_S)))
        self._counts[level] += 1
        self._total += 1
        self._noted += 1
        if self._noted % LOOK_EVERY == 0 and self._noted >= LEAST_KNOWN:
            self._look()

    def _look(self) -> None:
        if self._total > MEMORY:
            self._counts = [count / 2 for count in self._counts]
            self._total /= 2
        wanted, below = self._quantile * self._total, 0.0
        for level, count in enumerate(self._counts):
            below += count
            if below >= wanted:
                self.after_s = FINEST_S * 2.0 ** (level / LEVELS_A_DOUBLING)
                return
