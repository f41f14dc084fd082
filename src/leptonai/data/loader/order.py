"""Which sample comes when: arithmetic alone.

An epoch is one global sequence of all samples, fixed by (seed, epoch) and by nothing else. A
*position* counts samples of that sequence, over all ranks. One step of W ranks with batches of B
takes the next B x W positions; rank r takes every W-th of them, from the r-th on. So another number
of ranks, or another batch size, reads the same sequence on from the same position.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import shake_256
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_SAMPLES = 8_192  # whose order is computed at once: numpy costs per call, not per sample
ROUNDS = 12  # with 8, the permutations of six samples are visibly not equally frequent
MAX_SAMPLES = 2**62  # below it no sum here leaves 64 bits


@dataclass(frozen=True, slots=True)
class Order:
    """The sequence of one epoch: 0, 1, 2 … or, shuffled, a pseudo-random permutation.

    Each place is computed when it is asked for, so an epoch of any length takes no memory and
    begins at once. The permutation is a Feistel network over pairs (a, b) of digits: a round adds
    to one digit a keyed hash of the other, which can be undone, so no two places meet. The pairs
    number a few more than the samples; who lands among those few goes through it again.

    Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", the generalised-Feistel
        and the cycle-walking cipher.
    """

    samples: int
    seed: int
    epoch: int
    shuffle: bool

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The samples at these positions, each in [0, samples)."""
        if not self.shuffle:
            return positions
        places = self._permuted(positions.astype(np.uint64))
        outside = places >= self.samples
        while outside.any():
            places[outside] = self._permuted(places[outside])
            outside = places >= self.samples
        return places.astype(np.int64)

    def _permuted(self, places: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Of [0, high * low), which is less than `high` larger than [0, samples)."""
        root = isqrt(self.samples - 1) + 1
        high, low = np.uint64(root), np.uint64(-(-self.samples // root))
        left, right = places // low, places % low
        for number, key in enumerate(self._keys()):
            if number % 2:
                right = _rest(right + _hashed(left, key), low)
            else:
                left = _rest(left + _hashed(right, key), high)
        result: NDArray[np.uint64] = left * low + right
        return result

    def _keys(self) -> NDArray[np.uint64]:
        secret = shake_256(f"{self.seed}:{self.epoch}".encode()).digest(8 * ROUNDS)
        return np.frombuffer(secret, "<u8")


def _rest(values: NDArray[np.uint64], divisor: np.uint64) -> NDArray[np.uint64]:
    """``values % divisor``: numpy divides by one number far faster than it takes the rest."""
    return values - values // divisor * divisor


def _hashed(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """63 well-mixed bits of each. Source: the finaliser of Appleby's MurmurHash3."""
    mixed = values ^ key
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    return mixed >> np.uint64(1)


@dataclass(frozen=True, slots=True)
class Share:
    """Rank r's part of an epoch.

    What is left at the end for less than a whole step is dropped, by `drop_last`, or else dealt out
    sample by sample: then the last batches of ranks differ by one sample at the most, and with
    fewer samples than ranks the higher ranks have one batch less, unless all are `in_lockstep`:
    then that rest is dropped. No sample is ever read twice.
    """

    step: int  # samples that all ranks together take at once; at least one each
    drop_last: bool
    rank: int = 0
    world_size: int = 1
    in_lockstep: bool = False  # every rank has as many batches as every other

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world_size <= self.step, self

    @property
    def batch_size(self) -> int:
        """Of this rank, in a whole step."""
        return len(range(self.rank, self.step, self.world_size))

    def batches(self, samples: int, start: int = 0) -> int:
        """How many this rank has from a position on."""
        whole, rest = divmod(max(0, samples - start), self.step)
        least = self.world_size if self.in_lockstep else self.rank + 1
        return whole + (not self.drop_last and rest >= least)


class Step(NamedTuple):
    position: int  # where it begins
    end: int  # where the next one begins
    samples: NDArray[np.int64]  # of this rank


def steps(order: Order, share: Share, start: int) -> Iterator[Step]:
    """All that one rank reads, from a position on."""
    count = share.batches(order.samples, start)
    mine = np.arange(share.rank, share.step, share.world_size, dtype=np.int64)
    at_once = max(1, BLOCK_SAMPLES // len(mine))
    for first in range(0, count, at_once):
        begins = start + share.step * np.arange(first, min(first + at_once, count), dtype=np.int64)
        positions = (begins[:, None] + mine).ravel()
        block = order.at(positions[positions < order.samples])
        for row, begin in enumerate(begins.tolist()):
            yield Step(
                begin,
                min(begin + share.step, order.samples),
                block[row * len(mine) : (row + 1) * len(mine)],
            )
