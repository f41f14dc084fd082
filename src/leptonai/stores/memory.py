"""The store in plain dicts: for tests, and for simulations of the whole control plane."""

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property

import msgspec

from leptonai.core.records import Event, Record
from leptonai.errors import Conflict
from leptonai.ports.counts import CountStore
from leptonai.ports.messages import MessageStore
from leptonai.ports.points import PointStore
from leptonai.ports.store import Batch, Change, Fence, Query, R
from leptonai.ports.values import ValueStore
from leptonai.stores.decisions import Key, Known, Told, decide, kind_of, unstorable
from leptonai.stores.journal import batch_of
from leptonai.stores.memory_counts import MemoryCounts


class MemoryStore:
    """Keeps the promise of `ports.store.Store`, except that nothing outlives the process.

    It uses no threads and no clock, and every call first gives way to other tasks once and then
    does everything in one step: equal schedules give equal histories. `close` lets go of nothing,
    so that the next control plane of a simulation finds what the last one left.
    """

    def __init__(self) -> None:
        self._known = Known()
        self._told: dict[Key, Told] = {}  # in the order of seq: what changes moves to the end
        self._events: list[Event] = []
        self._seq = 0
        self._forgotten = 0  # the seq up to which deleted records may have been pruned
        self._changed = asyncio.Event()
        self.counts: CountStore = MemoryCounts()

    @cached_property
    def points(self) -> PointStore:
        from leptonai.stores.memory_points import MemoryPoints  # loads numpy

        return MemoryPoints()

    @cached_property
    def values(self) -> ValueStore:
        from leptonai.stores.memory_values import MemoryValues

        return MemoryValues()

    @cached_property
    def messages(self) -> MessageStore:
        from leptonai.stores.memory_values import MemoryMessages

        return MemoryMessages()

    async def get(self, kind: type[R], workspace: str, id: str) -> R | None:
        await _give_way()
        told = self._told.get((kind_of(kind), workspace, id))
        if told is None or told.deleted:
            return None
        assert isinstance(told.record, kind)
        return told.record

    async def find(self, kind: type[R], query: Query) -> list[R]:
        await _give_way()
        found = self._matching(kind, query)
        found.sort(key=lambda record: (record.created_at_ms, record.id))
        if query.newest_first:
            found.reverse()
        end = None if query.limit is None else query.offset + query.limit
        return found[query.offset : end]

    async def count(self, kind: type[Record], query: Query) -> int:
        await _give_way()
        return len(self._matching(kind, query))

    async def commit(self, *changes: Change, fence: Fence | None = None) -> tuple[Record, ...]:
        await _give_way()
        decision = decide(changes, fence, self._known, self._seq)
        try:
            for written in (*decision.records, *decision.events):
                msgspec.json.encode(written)  # what a database could not keep is refused here too
        except UnicodeError as error:
            raise unstorable(error) from error
        self._known.take(decision)
        for told in decision.told:
            self._told.pop(told.key, None)
            self._told[told.key] = told
        self._events.extend(decision.events)
        self._seq += len(changes)
        if decision.told:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
        return decision.records

    async def lease(self, name: str) -> Fence:
        await _give_way()
        self._known.epochs[name] = self._known.epochs.get(name, 0) + 1
        return Fence(name, self._known.epochs[name])

    async def changes(self, after: int) -> AsyncIterator[Batch]:
        while True:
            await _give_way()
            if 0 < after < self._forgotten:
                raise Conflict(
                    f"some of the changes after {after} are forgotten",
                    hint="read the records again, and follow from the seq at which that began",
                )
            batch = batch_of(self._seq, reversed(self._told.values()), after)
            after = max(after, batch.seq)
            if batch.records or batch.deleted:
                yield batch
            else:
                await self._changed.wait()

    async def seq(self) -> int:
        await _give_way()
        return self._seq

    async def events(
        self, workspace: str, *, kind: str = "", id: str = "", after: int = 0, limit: int = 1000
    ) -> list[Event]:
        await _give_way()
        return [
            event
            for event in self._events
            if event.seq > after
            and event.workspace == workspace
            and kind in ("", event.kind)
            and id in ("", event.id)
        ][:limit]

    async def prune_events(self, before_ms: int) -> int:
        await _give_way()
        pruned = [event for event in self._events if event.at_ms < before_ms]
        self._events = [event for event in self._events if event.at_ms >= before_ms]
        if pruned:
            up_to = max(event.seq for event in pruned)
            if self._events:
                up_to = min(up_to, self._events[0].seq - 1)
            self._forgotten = max(self._forgotten, up_to)
            old = [key for key, told in self._told.items() if told.deleted and told.seq <= up_to]
            for key in old:
                del self._told[key], self._known.rows[key]
        return len(pruned)

    async def close(self) -> None:
        await _give_way()

    def _matching(self, kind: type[R], query: Query) -> list[R]:
        return [
            told.record
            for told in self._told.values()
            if not told.deleted and isinstance(told.record, kind) and matches(told.record, query)
        ]


def matches(record: Record, query: Query) -> bool:
    """Whether every condition of the query holds."""
    due = record.due_at_ms
    return (
        (query.workspace is None or record.workspace == query.workspace)
        and (query.ids is None or record.id in query.ids)
        and (query.name is None or record.name == query.name)
        and (query.parent is None or record.parent == query.parent)
        and (query.unique_key is None or record.unique_key == query.unique_key)
        and (query.states is None or record.state_name in query.states)
        and record.state_name not in query.not_states
        and (
            query.owners_begin is None
            or record.owner.lower().startswith(tuple(each.lower() for each in query.owners_begin))
        )
        and (query.search is None or query.search in record.name or query.search in record.id)
        and (query.mentions is None or query.mentions in msgspec.json.encode(record))
        and (query.live is None or record.live == query.live)
        and (query.due_before_ms is None or (due is not None and due < query.due_before_ms))
    )


async def _give_way() -> None:
    await asyncio.sleep(0)
