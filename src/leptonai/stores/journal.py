"""The newest changes, kept in memory so that followers need not ask the database for them."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from leptonai.ports.store import Batch
from leptonai.stores.decisions import Key, Told

MAX_KEPT = 4_096  # changes; who is further behind reads the database


class Journal:
    """What was written after `base` up to `top`, without a gap. Belongs to the event loop."""

    def __init__(self, seq: int) -> None:
        self.base = seq
        self.top = seq  # the newest seq that is known to be visible
        self.others_wrote = 0  # how often another process was heard to write
        self._read_up_to = 0  # `others_wrote` when the database was last read
        self._told: deque[Told] = deque()
        self._changed = asyncio.Event()

    def extend(self, base: int, top: int, told: Sequence[Told]) -> None:
        """A commit of this process took the seqs after `base` up to `top`."""
        if base == self.top:
            self._told.extend(told)
            while len(self._told) > MAX_KEPT:
                self.base = self._told.popleft().seq
        elif top > self.top:  # somebody else committed in between
            self._told = deque(told)
            self.base = base
        self.top = max(self.top, top)
        self.wake()

    def disturb(self) -> None:
        """Another process may have committed: nobody is up to date before the next read."""
        self.others_wrote += 1
        self.wake()

    def reached(self, seq: int, others_wrote: int) -> None:
        """The database was read up to `seq`, by a read that began at `others_wrote`."""
        self._read_up_to = max(self._read_up_to, others_wrote)
        if seq > self.top:
            self._told.clear()
            self.base = self.top = seq

    def since(self, after: int) -> Batch | None:
        """What was written after `after`; None where only the database knows."""
        if after < self.base or self._read_up_to < self.others_wrote:
            return None
        return batch_of(self.top, (told for told in reversed(self._told)), after)

    async def wait(self, after: int) -> None:
        """Return when there may be something after `after`."""
        if self.top <= after and self._read_up_to == self.others_wrote:
            await self._changed.wait()

    def wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def batch_of(seq: int, newest_first: Iterable[Told], after: int) -> Batch:
    """The newest state of each record that was written after `after`."""
    newest: dict[Key, Told] = {}
    for told in newest_first:
        if told.seq <= after:
            break
        newest.setdefault(told.key, told)
    in_order = list(reversed(newest.values()))
    return Batch(
        seq,
        records=tuple(told.record for told in in_order if not told.deleted),
        deleted=tuple(told.record for told in in_order if told.deleted),
    )
