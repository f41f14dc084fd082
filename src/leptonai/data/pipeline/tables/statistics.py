"""Statistics of columns of any length: exact, in bounded memory, and the same to the last bit
whatever machine adds up, since stretches are merged in their order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]
Read: TypeAlias = Callable[
    [], Iterator[list[Numbers]]
]  # of each column its values, stretch by stretch

SORTED_AT_ONCE = 1 << 20  # values of a column: 8 MiB
DIGIT_BITS = 16
SIGN = np.uint64(1 << 63)


@dataclass
class Moments:
    """Source: Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance"."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # of the distances to the mean, added up
    least: float = np.inf
    most: float = -np.inf

    def add(self, values: Numbers) -> None:
        added = len(values)
        if not added:
            return
        mean = float(values.mean())
        distances = values - mean
        squares = float(np.square(distances, out=distances).sum())
        count = self.count + added
        apart = mean - self.mean
        self.mean += apart * (added / count)
        self.squares += squares + apart * apart * (self.count * added / count)
        self.count = count
        self.least = min(self.least, float(values.min()))
        self.most = max(self.most, float(values.max()))

    @property
    def deviation(self) -> float:
        """Of the values as they are, not of what they were drawn from."""
        return float(np.sqrt(self.squares / self.count)) if self.count else 0.0


def moments(read: Read, columns: int) -> list[Moments]:
    found = [Moments() for _ in range(columns)]
    _add_all(found, read)
    return found


def quantiles(read: Read, columns: int, shares: Sequence[float]) -> list[list[float] | None]:
    """Of each column, as numpy's default does it: between two values in proportion. None for a
    column without values. Reads the data twice; once or twice more if many values are nearly the
    same.

    The values' bits, put in the order of the values, are counted by their first 16; then only those
    are kept that begin like a wanted one; if these are too many, by the next 16.
    """
    searches = [_Search() for _ in range(columns)]
    _read_into(searches, read)
    wanted = []
    for search in searches:
        places = [share * (search.count - 1) for share in shares] if search.count else []
        ranks = {rank for place in places for rank in (int(place), int(np.ceil(place)))}
        search.want(sorted(ranks))
        wanted.append(places)
    while any(search.is_open for search in searches):
        _read_into(searches, read)
    return [
        [_between(search, place) for place in places] if places else None
        for search, places in zip(searches, wanted, strict=True)
    ]


class _Search:
    """For values of some ranks in one column."""

    def __init__(self) -> None:
        self.count = 0
        self.value_of: dict[int, float] = {}  # by rank
        # Prefix of how many bits → how often each next digit follows.
        self._counts: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._kept: dict[tuple[int, int], list[NDArray[np.uint64]]] = {}
        self._wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}  # rank in it, rank
        self._counts[(0, 0)] = np.zeros(1 << DIGIT_BITS, np.int64)

    @property
    def is_open(self) -> bool:
        return bool(self._counts or self._kept)

    def add(self, values: Numbers) -> None:
        if not self.is_open:
            return
        keys = _ordered(values)
        for (bits, prefix), counts in self._counts.items():
            inside = keys if not bits else keys[keys >> np.uint64(64 - bits) == np.uint64(prefix)]
            digits = (inside >> np.uint64(64 - bits - DIGIT_BITS)) & np.uint64(0xFFFF)
            counts += np.bincount(digits.view(np.int64), minlength=1 << DIGIT_BITS)
        for (bits, prefix), kept in self._kept.items():
            kept.append(keys[keys >> np.uint64(64 - bits) == np.uint64(prefix)])
        if (0, 0) in self._counts:
            self.count += len(values)

    def want(self, ranks: Sequence[int]) -> None:
        self._wanted[(0, 0)] = [(rank, rank) for rank in ranks]
        self.settle()

    def settle(self) -> None:
        """After the data was read once: what is known now, and what to look for next."""
        counted, self._counts = self._counts, {}
        kept, self._kept = self._kept, {}
        for key, parts in kept.items():
            values = _values(np.sort(np.concatenate(parts)))
            for inner, rank in self._wanted.pop(key):
                self.value_of[rank] = float(values[inner])
        for (bits, prefix), counts in counted.items():
            ends = np.cumsum(counts)
            for inner, rank in self._wanted.pop((bits, prefix)):
                digit = int(np.searchsorted(ends, inner, "right"))
                before = int(ends[digit - 1]) if digit else 0
                key = (bits + DIGIT_BITS, prefix << DIGIT_BITS | digit)
                if key[0] == 64:
                    self.value_of[rank] = float(_values(np.array([key[1]], np.uint64))[0])
                    continue
                self._wanted.setdefault(key, []).append((inner - before, rank))
                if int(counts[digit]) <= SORTED_AT_ONCE:
                    self._kept[key] = []
                else:
                    self._counts[key] = np.zeros(1 << DIGIT_BITS, np.int64)


def _read_into(searches: Sequence[_Search], read: Read) -> None:
    _add_all(searches, read)
    for search in searches:
        if search._wanted:
            search.settle()


def _add_all(columns: "Sequence[Moments | _Search]", read: Read) -> None:
    for stretch in read():
        for column, values in zip(columns, stretch, strict=True):
            column.add(values)


def _between(search: _Search, place: float) -> float:
    low, high = search.value_of[int(place)], search.value_of[int(np.ceil(place))]
    return low if low == high else low + (high - low) * (place - int(place))


def _ordered(values: Numbers) -> NDArray[np.uint64]:
    """Bits that are in the order of the values; 0 and -0 are one."""
    bits = (values + 0.0).view(np.int64)
    flipped = bits >> 63  # all bits of what is below 0; of others the sign
    flipped |= SIGN.view(np.int64)
    flipped ^= bits
    return flipped.view(np.uint64)


def _values(ordered: NDArray[np.uint64]) -> Numbers:
    return np.where(ordered & SIGN, ordered & ~SIGN, ~ordered).view(np.float64)
