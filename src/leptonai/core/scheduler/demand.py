"""How much is asked for of which size: what the choice of a node expects to come."""

from collections.abc import Mapping

from leptonai.core.resources import Needs

HALF_LIFE_MS = 7 * 24 * 3_600_000  # what was asked for a week ago counts half
NEWS_SHARE = 0.1  # so much must have been added before the choice of nodes is told
MAX_SIZES = 256  # that are told apart: the rarest are forgotten
MAX_HALF_LIVES = 500  # that a float can count


class Demand:
    """Workers that were asked for, by size; what is long ago counts less and less."""

    def __init__(self) -> None:
        self._since_ms: int | None = None
        self._weights: dict[Needs, float] = {}  # as of _since_ms
        self._total = 0.0
        self._told = 0.0  # of the total

    def ask(self, needs: Needs, at_ms: int) -> None:
        """One worker more. In any order of time."""
        weight = self._weight(at_ms)
        self._weights[needs] = self._weights.get(needs, 0.0) + weight
        self._total += weight

    def news(self) -> Mapping[Needs, float] | None:
        """The share of each size, if it may have changed by much since it was last told."""
        if self._total <= self._told * (1 + NEWS_SHARE):
            return None
        if len(self._weights) > MAX_SIZES:
            by_weight = sorted(self._weights.items(), key=lambda item: item[1], reverse=True)
            self._weights = dict(by_weight[:MAX_SIZES])
        self._told = self._total
        total = sum(self._weights.values())
        return {needs: weight / total for needs, weight in self._weights.items()}

    def _weight(self, at_ms: int) -> float:
        if self._since_ms is None:
            self._since_ms = at_ms
        half_lives = (at_ms - self._since_ms) / HALF_LIFE_MS
        if half_lives > MAX_HALF_LIVES:
            self._count_from(at_ms)
            half_lives = 0.0
        return float(2.0**half_lives)

    def _count_from(self, at_ms: int) -> None:
        """The numbers grow with time: begin anew before they are too large."""
        assert self._since_ms is not None
        faded = 2.0 ** ((self._since_ms - at_ms) / HALF_LIFE_MS)
        self._weights = {needs: weight * faded for needs, weight in self._weights.items()}
        self._total, self._told = self._total * faded, self._told * faded
        self._since_ms = at_ms
