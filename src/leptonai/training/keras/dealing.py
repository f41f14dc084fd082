"""Which samples a worker takes in which step. Pure.

All workers see the same global batches, each its own stretch of them; so N workers train as one
would. The order of a pass over the data is fixed by (seed, pass), so a resumed run goes on in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leptonai.data.loader.order import Order


class Hand(NamedTuple):
    """What a worker gets of one global batch."""

    samples: NDArray[np.int64]
    # Of the batch: what its gradient counts. 0 where there were fewer samples than workers: it
    # takes one, since all must take the step, and it does not count.
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealing:
    size: int  # samples in all
    batch_size: int  # of all workers together
    steps: int  # of an epoch
    rank: int = 0
    workers: int = 1
    seed: int | None = None  # None: in the order they are in

    def hand(self, epoch: int, step: int) -> Hand:
        """An epoch that is shorter or longer than the data goes on where the one before ended."""
        number, within = divmod(epoch * self.steps + step, steps_of(self.size, self.batch_size))
        start = within * self.batch_size
        stop = min(start + self.batch_size, self.size)
        dealt = stop - start
        mine = range(dealt * self.rank // self.workers, dealt * (self.rank + 1) // self.workers)
        share = len(mine) / dealt
        mine = mine or range(1)
        places = np.arange(start + mine.start, start + mine.stop)
        order = Order(self.size, self.seed or 0, number, shuffle=self.seed is not None)
        return Hand(order.at(places), share)


def steps_of(size: int, batch_size: int) -> int:
    return -(-size // batch_size)


def part_of(size: int, rank: int, workers: int) -> slice:
    """Of samples that are gone through once, one stretch for each worker."""
    return slice(size * rank // workers, size * (rank + 1) // workers)


# --- arrays in tuples, lists and dicts -----------------------------------------------------------

Nest = Any  # an array, None, or a tuple, list or dict of nests


def taken(nest: Nest, samples: NDArray[np.int64] | slice) -> Nest:
    """These samples of all its arrays; where they follow each other, and of a file that is mapped,
    no others are read."""
    if nest is None:
        return None
    if isinstance(nest, Mapping):
        return {name: taken(each, samples) for name, each in nest.items()}
    if isinstance(nest, list | tuple):
        return type(nest)(taken(each, samples) for each in nest)
    if isinstance(samples, slice):
        return nest[samples]
    if np.all(np.diff(samples) == 1):
        return np.array(nest[samples[0] : samples[-1] + 1])
    return nest[samples]
