"""The store in a database: SQLite or PostgreSQL, by the same code."""

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property, lru_cache

import msgspec

from leptonai.core.records import AnyRecord, Event, Record
from leptonai.errors import Conflict, Unavailable
from leptonai.ports.counts import CountStore
from leptonai.ports.messages import MessageStore
from leptonai.ports.points import PointStore
from leptonai.ports.store import Batch, Change, Fence, Query, R
from leptonai.ports.values import ValueStore
from leptonai.stores.databases import Cursor, Database, database_at
from leptonai.stores.decisions import Told, kind_of
from leptonai.stores.journal import Journal, batch_of
from leptonai.stores.readers import Readers
from leptonai.stores.schema import prepare
from leptonai.stores.statements import Statements
from leptonai.stores.writer import Writer

MAX_BATCH = 1_000  # changes read from the database at once
MAX_QUICK_IDS = 16  # so few records are read at once without leaving the event loop
PRUNE_SLICE = 2_000  # events; other writers get their turn between two slices


class SqlStore:
    """Keeps the promise of `ports.store.Store`.

    One thread writes, a few read, and everything else happens in the event loop that opened it.
    Followers are served from memory while they keep up.
    """

    def __init__(self, database: Database) -> None:
        """Use `open`."""
        self._database = database
        self._statements = Statements(database)
        self._journal = Journal(0)
        self._readers = Readers(database)
        self._writer = Writer(database, self._statements, self._journal.extend)
        self._listening: asyncio.Task[None] | None = None
        self._closed = False
        writers = database.listen()
        if writers is not None:
            self._listening = asyncio.create_task(self._heed(writers))

    @classmethod
    async def open(cls, url: str) -> "SqlStore":
        database = database_at(url)
        if database.quick_reads_inline:
            prepare(database)  # a file, and milliseconds
        else:
            await asyncio.to_thread(prepare, database)
        store = cls(database)
        try:
            store._journal.reached(await store.seq(), 0)
        except BaseException:
            await store.close()
            raise
        return store

    @cached_property
    def points(self) -> PointStore:
        from leptonai.stores.points import SqlPoints  # loads numpy

        return SqlPoints(self._database, self._readers, self._writer)

    @cached_property
    def counts(self) -> CountStore:
        from leptonai.stores.counts import SqlCounts  # not before it is needed

        return SqlCounts(self._database, self._readers, self._writer)

    @cached_property
    def values(self) -> ValueStore:
        from leptonai.stores.values import SqlValues

        return SqlValues(self._database, self._take_turn, self._readers, self._writer)

    @cached_property
    def messages(self) -> MessageStore:
        from leptonai.stores.messages import SqlMessages

        return SqlMessages(self._database, self._take_turn, self._readers, self._writer)

    async def get(self, kind: type[R], workspace: str, id: str) -> R | None:
        wanted = {"kind": kind_of(kind), "workspace": workspace, "id": id}

        def read(cursor: Cursor) -> R | None:
            cursor.execute(self._statements.get, wanted)
            row = cursor.fetchone()
            return None if row is None else _decoder(kind).decode(row[0])

        return await self._readers.read_quickly(read)

    async def find(self, kind: type[R], query: Query) -> list[R]:
        statement, parameters = self._statements.find(kind_of(kind), query)

        def read(cursor: Cursor) -> list[R]:
            cursor.execute(statement, parameters)
            decode = _decoder(kind).decode
            return [decode(document) for (document,) in cursor.fetchall()]

        few = query.unique_key is not None or (
            query.ids is not None and len(query.ids) <= MAX_QUICK_IDS
        )
        return await (self._readers.read_quickly(read) if few else self._readers.read(read))

    async def count(self, kind: type[Record], query: Query) -> int:
        statement, parameters = self._statements.count(kind_of(kind), query)

        def read(cursor: Cursor) -> int:
            cursor.execute(statement, parameters)
            return int(cursor.fetchone()[0])

        return await self._readers.read(read)

    async def commit(self, *changes: Change, fence: Fence | None = None) -> tuple[Record, ...]:
        return await self._writer.commit(changes, fence)

    async def lease(self, name: str) -> Fence:
        def take(cursor: Cursor) -> Fence:
            self._take_turn(cursor)
            cursor.execute(self._statements.take_lease, {"lease": name, "first": 1})
            ((epoch,),) = cursor.fetchall()
            return Fence(name, epoch)

        return await self._writer.alone(take)

    def _take_turn(self, cursor: Cursor) -> None:
        """Wait for every commit that is under way, and let none begin before this one is done."""
        cursor.execute(self._statements.take_seqs, {"counter": "seq", "count": 0})
        cursor.fetchall()

    async def changes(self, after: int) -> AsyncIterator[Batch]:
        while True:
            if self._closed:
                raise Unavailable("the store is closed", hint="the platform is stopping")
            batch = self._journal.since(after)
            if batch is None:
                others_wrote = self._journal.others_wrote
                batch = await self._read_changes(after)
                self._journal.reached(batch.seq, others_wrote)
            after = max(after, batch.seq)
            if batch.records or batch.deleted:
                yield batch
            else:
                await self._journal.wait(after)

    async def seq(self) -> int:
        return await self._readers.read_quickly(lambda cursor: self._counter(cursor, "seq"))

    async def events(
        self, workspace: str, *, kind: str = "", id: str = "", after: int = 0, limit: int = 1000
    ) -> list[Event]:
        statement = self._statements.events[kind != "", id != ""]
        parameters = {"workspace": workspace, "after": after, "limit": limit}
        parameters |= {"kind": kind} if kind else {}
        parameters |= {"id": id} if id else {}

        def read(cursor: Cursor) -> list[Event]:
            cursor.execute(statement, parameters)
            decode = _decoder(Event).decode
            return [decode(document) for (document,) in cursor.fetchall()]

        return await self._readers.read(read)

    async def prune_events(self, before_ms: int) -> int:
        pruned, newest = 0, 0
        while seqs := await self._writer.alone(lambda cursor: self._prune_slice(cursor, before_ms)):
            pruned += len(seqs)
            newest = max(newest, *seqs)
        if pruned:
            await self._writer.alone(lambda cursor: self._forget_deleted(cursor, newest))
        return pruned

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        await self._writer.close()
        await self._readers.close()
        self._closed = True
        self._journal.wake()

    async def _read_changes(self, after: int) -> Batch:
        def read(cursor: Cursor) -> Batch:
            # The counter first: whatever is committed since then has a greater seq.
            seq = self._counter(cursor, "seq")
            cursor.execute(self._statements.changes, {"after": after, "limit": MAX_BATCH})
            told = [
                Told(seq, tuple(key), _any_record.decode(document), bool(deleted))
                for seq, *key, deleted, document in cursor.fetchall()
            ]
            if 0 < after < self._counter(cursor, "forgotten"):
                raise Conflict(
                    f"some of the changes after {after} are forgotten",
                    hint="read the records again, and follow from the seq at which that began",
                )
            if len(told) == MAX_BATCH:
                seq = told[-1].seq
            elif told:
                seq = max(seq, told[-1].seq)
            return batch_of(seq, reversed(told), after)

        return await self._readers.read(read)

    def _counter(self, cursor: Cursor, name: str) -> int:
        cursor.execute(self._statements.read_counter, {"counter": name})
        return int(cursor.fetchone()[0])

    def _prune_slice(self, cursor: Cursor, before_ms: int) -> list[int]:
        """The seqs of the events that are gone now."""
        cursor.execute(
            self._statements.prune_events, {"before_ms": before_ms, "limit": PRUNE_SLICE}
        )
        return [seq for (seq,) in cursor.fetchall()]

    def _forget_deleted(self, cursor: Cursor, newest_pruned: int) -> None:
        """What was deleted before the oldest event that is kept is as old as what was pruned."""
        cursor.execute(self._statements.oldest_event)
        oldest = cursor.fetchone()[0]
        up_to = newest_pruned if oldest is None else min(newest_pruned, oldest - 1)
        cursor.execute(self._statements.raise_counter, {"counter": "forgotten", "to": up_to})
        cursor.execute(self._statements.prune_deleted, {"up_to": up_to})

    async def _heed(self, writers: AsyncIterator[int | None]) -> None:
        """Look again when another process has written, for as long as the store is open."""
        async for process_id in writers:
            if process_id is None or process_id != self._writer.process_id:
                self._journal.disturb()


_any_record: msgspec.json.Decoder[AnyRecord] = msgspec.json.Decoder(AnyRecord)


@lru_cache(maxsize=64)
def _decoder(kind: type[R]) -> msgspec.json.Decoder[R]:
    return msgspec.json.Decoder(kind)
