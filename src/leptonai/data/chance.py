"""`Chance`: random numbers that belong to samples, not to batches.

What is drawn for a sample depends on (seed, epoch, sample, draw) alone: not on which batch, worker
or rank it comes in, nor on what was drawn for others. So a resumed run, and one with another number
of workers, sees each sample augmented as an uninterrupted run would.
"""

from typing import TYPE_CHECKING

import numpy as np

from leptonai.data.split import mixed

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAW = 0x9E3779B97F4A7C15  # odd, so that draws of one sample never meet


class Chance:
    """For B samples. Each call is another draw, so equal calls in equal order give equal numbers.

    Source: SplitMix64 over counters (Steele, Lea, Flood 2014), as counter-based generators do it
        (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """

    def __init__(self, samples_B: "NDArray[np.int64]", *, seed: int, epoch: int) -> None:
        keys = samples_B.astype(np.uint64)
        self._keys = mixed(mixed(keys, seed), epoch)
        self._draws = 0

    def __len__(self) -> int:
        return len(self._keys)

    def bits(self, each: int = 1) -> "NDArray[np.uint64]":
        """[B, each]: 64 bits."""
        counters = np.arange(self._draws, self._draws + each, dtype=np.uint64)
        self._draws += each
        with np.errstate(over="ignore"):
            return mixed(self._keys[:, None] + counters * np.uint64(DRAW), 0)

    def uniform(self, low: float, high: float, each: int = 1) -> "NDArray[np.float64]":
        """[B, each]: in [low, high)."""
        share = (self.bits(each) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * share

    def happens(self, probability: float) -> "NDArray[np.bool_]":
        """[B]: whether it does."""
        return self.uniform(0, 1)[:, 0] < probability

    def whole(self, count: int, each: int = 1) -> "NDArray[np.int64]":
        """[B, each]: in [0, count), for counts far below 2**53."""
        return (self.uniform(0, 1, each) * count).astype(np.int64)
