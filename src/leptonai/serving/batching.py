"""Which of the calls that wait go into the next batch: a decision without clocks or threads.

A batch is what has arrived while the model was busy, so a call that comes alone does not wait. Only
what has the same *bucket*, the shapes of its arrays, goes together. Clients take turns: one that
sends many calls delays its own.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(slots=True, eq=False)
class Waiting(Generic[Item]):
    """A call in the queue."""

    item: Item
    client: Hashable
    bucket: Hashable
    arrived_s: float


class BatchQueue(Generic[Item]):
    """Calls of many clients, in the order in which they came.

    Args:
        max_batch_size: calls that go together, at most.
        max_wait_s: how long a batch that is not full waits for more; with 0 it never does.
        capacity: calls that may wait.
    """

    def __init__(self, max_batch_size: int, max_wait_s: float, capacity: int) -> None:
        assert max_batch_size >= 1 and max_wait_s >= 0 and capacity >= 1
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._capacity = capacity
        self._length = 0
        self._last_size = 0  # of the batch that was taken last
        # Clients in the order of their turns, and what each waits for, the oldest first. Python's
        # dictionaries keep order and lose any entry in constant time.
        self._turns: dict[Hashable, dict[Waiting[Item], None]] = {}
        self._buckets: dict[Hashable, _Bucket[Item]] = {}

    def __len__(self) -> int:
        return self._length

    @property
    def full(self) -> bool:
        return self._length >= self._capacity

    @property
    def crowded(self) -> bool:
        """The last batch was of several calls: another that comes will hardly be alone."""
        return self._last_size > 1

    @property
    def lets_pass(self) -> bool:
        """A call that finds the model free is a batch by itself now: `put` and `take` would say so,
        and cost a small model's call a part of its time."""
        return not (self._length or self._max_wait_s or self.crowded)

    def put(self, item: Item, client: Hashable, bucket: Hashable, now_s: float) -> Waiting[Item]:
        assert not self.full
        waiting = Waiting(item, client, bucket, now_s)
        self._turns.setdefault(client, {})[waiting] = None
        self._buckets.setdefault(bucket, _Bucket()).add(waiting)
        self._length += 1
        return waiting

    def discard(self, waiting: Waiting[Item]) -> bool:
        """Let it go without having been in a batch; False if it was in one already."""
        if waiting not in self._turns.get(waiting.client, ()):
            return False
        self._remove(waiting)
        return True

    def take(self, now_s: float, at_most: int | None = None) -> list[Item]:
        """The next batch, for a model that is free; empty where none is due yet.

        Args:
            at_most: calls that there is room for, if that is less than a whole batch.
        """
        first = self._next(now_s)
        if first is None:
            return []
        bucket = self._buckets[first.bucket]
        size = self._max_batch_size if at_most is None else min(at_most, self._max_batch_size)
        batch: list[Item] = []
        for waiting in bucket.from_each_in_turn(first, size):
            batch.append(waiting.item)
            self._remove(waiting)
            rest = self._turns.pop(waiting.client, None)
            if rest:
                self._turns[waiting.client] = rest  # its next turn comes after all others'
        self._last_size = len(batch)
        return batch

    def due_s(self) -> float | None:
        """When `take` will give a batch although no other call comes; None if nothing waits."""
        return min(
            (self._due_s(bucket) for bucket in self._buckets.values()),
            default=None,
        )

    def _due_s(self, bucket: "_Bucket[Item]") -> float:
        if len(bucket.waiting) >= self._max_batch_size:
            return bucket.oldest.arrived_s
        return bucket.oldest.arrived_s + self._max_wait_s

    def _next(self, now_s: float) -> Waiting[Item] | None:
        """The oldest call, in a bucket that is due, of the client whose turn it is."""
        if not self._max_wait_s:
            return next((next(iter(calls)) for calls in self._turns.values()), None)
        due = {key for key, bucket in self._buckets.items() if self._due_s(bucket) <= now_s}
        if not due:
            return None
        return next(
            waiting for calls in self._turns.values() for waiting in calls if waiting.bucket in due
        )

    def _remove(self, waiting: Waiting[Item]) -> None:
        calls = self._turns[waiting.client]
        del calls[waiting]
        if not calls:
            del self._turns[waiting.client]
        bucket = self._buckets[waiting.bucket]
        bucket.remove(waiting)
        if not bucket.waiting:
            del self._buckets[waiting.bucket]
        self._length -= 1


class _Bucket(Generic[Item]):
    """Calls that may go together."""

    def __init__(self) -> None:
        self.waiting: dict[Waiting[Item], None] = {}
        self._by_client: dict[Hashable, dict[Waiting[Item], None]] = {}

    @property
    def oldest(self) -> Waiting[Item]:
        return next(iter(self.waiting))

    def add(self, waiting: Waiting[Item]) -> None:
        self.waiting[waiting] = None
        self._by_client.setdefault(waiting.client, {})[waiting] = None

    def remove(self, waiting: Waiting[Item]) -> None:
        del self.waiting[waiting]
        calls = self._by_client[waiting.client]
        del calls[waiting]
        if not calls:
            del self._by_client[waiting.client]

    def from_each_in_turn(self, first: Waiting[Item], count: int) -> list[Waiting[Item]]:
        """`first`, then one of each client after the other until there are enough."""
        if len(self._by_client) == 1:
            return [waiting for waiting, _ in zip(self.waiting, range(count), strict=False)]
        others: dict[Hashable, Iterator[Waiting[Item]]] = {
            client: iter(calls) for client, calls in self._by_client.items()
        }
        mine = others.pop(first.client)
        taken = [next(mine)]
        others[first.client] = mine
        while others and len(taken) < count:
            for client, calls in list(others.items()):
                waiting = next(calls, None)
                if waiting is None:
                    del others[client]
                else:
                    taken.append(waiting)
                    if len(taken) == count:
                        break
        return taken
