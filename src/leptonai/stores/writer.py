"""The one thread that writes to a database: what many callers wait for reaches the disk at once."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import msgspec

from leptonai.core.records import Record
from leptonai.errors import Unavailable
from leptonai.ports.store import Change, Emit, Fence, Put
from leptonai.stores.databases import Connection, Cursor, Database, is_trouble
from leptonai.stores.decisions import Decision, Held, Known, Told, decide
from leptonai.stores.statements import Parameters, Statements

MAX_WAITING = 10_000  # commits; more are refused at once
MAX_GROUP = 256  # commits that share an fsync

T = TypeVar("T")
encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Commit:
    """What one caller of `Store.commit` waits for."""

    changes: Sequence[Change]
    fence: Fence | None
    answer: "asyncio.Future[tuple[Record, ...]]"


@dataclass(frozen=True, slots=True)
class Alone:
    """Work that gets a transaction of its own."""

    work: Callable[[Cursor], Any]
    answer: "asyncio.Future[Any]"


Waiting = Commit | Alone


@dataclass(slots=True)
class Written:
    """How a group of commits ended, each for itself."""

    results: list[tuple[Waiting, Any]]  # what each gets: a value, or the exception to raise
    base: int = 0  # the seq before the first of the group
    top: int = 0  # and the last of the group; equal where nothing was written
    told: Sequence[Told] = ()


class Writer:
    """Takes work from the event loop, and does it in the order of arrival.

    While one group of commits waits for the disk the next one gathers; a commit that is refused
    leaves the others of its group alone.
    """

    def __init__(
        self,
        database: Database,
        statements: Statements,
        on_written: Callable[[int, int, Sequence[Told]], None],
    ) -> None:
        """`on_written(base, top, told)` is called in the event loop before any caller of the group
        goes on, so that followers are as up to date as the callers."""
        self._database = database
        self._statements = statements
        self._on_written = on_written
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._waiting = 0
        self._closing = False
        self._stopped = asyncio.Event()
        self._connection: Connection | None = None
        self.process_id = 0  # of the server's process that does our writing, where there is one
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def commit(self, changes: Sequence[Change], fence: Fence | None) -> tuple[Record, ...]:
        answer: asyncio.Future[tuple[Record, ...]] = self._loop.create_future()
        self._submit(Commit(changes, fence, answer))
        return await answer

    async def alone(self, work: Callable[[Cursor], T]) -> T:
        """Do the work in a transaction of its own; its error undoes it."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._submit(Alone(work, answer))
        return await answer

    async def close(self) -> None:
        """Write what still waits, then stop."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await self._stopped.wait()

    def _submit(self, waiting: Waiting) -> None:
        if self._closing:
            raise Unavailable("the store is closed", hint="the platform is stopping")
        if self._waiting >= MAX_WAITING:
            raise Unavailable(
                f"{self._waiting} writes already wait for the disk; nothing was written",
                hint="try again in a moment",
            )
        self._waiting += 1
        self._queue.put(waiting)

    def _settle(self, written: Written) -> None:
        self._waiting -= len(written.results)
        if written.top > written.base:
            self._on_written(written.base, written.top, written.told)
        for waiting, result in written.results:
            if waiting.answer.done():  # its caller was cancelled
                continue
            if isinstance(result, BaseException):
                waiting.answer.set_exception(result)
            else:
                waiting.answer.set_result(result)

    # --- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        running = True
        while running:
            gathered, running = self._gather()
            commits = [waiting for waiting in gathered if isinstance(waiting, Commit)]
            for waiting in gathered:
                if isinstance(waiting, Alone):
                    self._tell(self._write_alone(waiting))
            if commits:
                self._tell(self._write_group(commits))
        self._disconnect()
        self._in_loop(self._stopped.set)

    def _gather(self) -> tuple[list[Waiting], bool]:
        """Everything that waits, up to a bound, and whether to go on afterwards."""
        gathered: list[Waiting] = []
        waiting = self._queue.get()
        with contextlib.suppress(Empty):
            while waiting is not None:
                gathered.append(waiting)
                if len(gathered) == MAX_GROUP:
                    break
                waiting = self._queue.get_nowait()
        return gathered, waiting is not None

    def _tell(self, written: Written) -> None:
        self._in_loop(lambda: self._settle(written))

    def _in_loop(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call)

    def _write_alone(self, alone: Alone) -> Written:
        try:
            cursor = self._begin()
            result = alone.work(cursor)
            cursor.execute("COMMIT")
        except Exception as error:
            return Written([(alone, self._undone(error))])
        return Written([(alone, result)])

    def _write_group(self, commits: Sequence[Commit]) -> Written:
        try:
            cursor = self._begin()
            written = self._write_together(cursor, commits)
            cursor.execute("COMMIT" if written.top > written.base else "ROLLBACK")
        except Exception as error:
            failure = self._undone(error)
            if len(commits) > 1 and not is_trouble(failure):
                return self._write_one_by_one(commits)
            return Written([(commit, failure) for commit in commits])
        return written

    def _write_one_by_one(self, commits: Sequence[Commit]) -> Written:
        """Find the commit that the database refuses, and spare its neighbours."""
        parts: list[Written] = []
        try:
            cursor = self._begin()
            for commit in commits:
                cursor.execute("SAVEPOINT one")
                try:
                    parts.append(self._write_together(cursor, [commit]))
                except Exception as error:
                    failure = self._database.translate(error)
                    if is_trouble(failure):
                        raise
                    cursor.execute("ROLLBACK TO SAVEPOINT one")
                    parts.append(Written([(commit, failure)]))
                cursor.execute("RELEASE SAVEPOINT one")
            cursor.execute("COMMIT")
        except Exception as error:
            failure = self._undone(error)
            return Written([(commit, failure) for commit in commits])
        written = [part for part in parts if part.top > part.base]
        return Written(
            [result for part in parts for result in part.results],
            base=min((part.base for part in written), default=0),
            top=max((part.top for part in written), default=0),
            told=[told for part in written for told in part.told],
        )

    def _write_together(self, cursor: Cursor, commits: Sequence[Commit]) -> Written:
        """Write every commit that the rules allow, inside the current transaction."""
        count = sum(len(commit.changes) for commit in commits)
        cursor.execute(self._statements.take_seqs, {"counter": "seq", "count": count})
        ((top,),) = cursor.fetchall()
        known = self._look(cursor, commits)
        seq = base = top - count
        results: list[tuple[Waiting, Any]] = []
        done: list[Decision] = []
        for commit in commits:
            try:
                decision = decide(commit.changes, commit.fence, known, seq)
            except Exception as error:
                results.append((commit, error))
            else:
                known.take(decision)
                done.append(decision)
                results.append((commit, decision.records))
                seq += len(commit.changes)
        told = [told for decision in done for told in decision.told]
        if told:
            cursor.executemany(self._statements.put_record, [_row(each) for each in told])
        events = [event for decision in done for event in decision.events]
        if events:
            cursor.executemany(
                self._statements.add_event,
                [
                    {
                        "seq": event.seq,
                        "workspace": event.workspace,
                        "kind": event.kind,
                        "id": event.id,
                        "at_ms": event.at_ms,
                        "document": encode(event),
                    }
                    for event in events
                ],
            )
        if seq == base:
            return Written(results)
        if self._database.announce is not None:
            cursor.execute(self._database.announce)
        return Written(results, base, top, told)

    def _look(self, cursor: Cursor, commits: Iterable[Commit]) -> Known:
        """What is stored of everything that the commits touch."""
        touched = [
            change
            for commit in commits
            for change in commit.changes
            if not isinstance(change, Emit)
        ]
        known = Known()
        if touched:
            self._look_at(
                cursor, known, self._statements.held_by_id, "ids", (c.record.id for c in touched)
            )
        unique_keys = [c.record.unique_key for c in touched if isinstance(c, Put)]
        wanted = [unique_key for unique_key in unique_keys if unique_key is not None]
        if wanted:
            self._look_at(cursor, known, self._statements.held_by_unique_key, "unique_keys", wanted)
        leases = {commit.fence.name for commit in commits if commit.fence is not None}
        if leases:
            cursor.execute(self._statements.epochs, {"names": self._database.as_list(leases)})
            known.epochs.update(cursor.fetchall())
        return known

    def _look_at(
        self, cursor: Cursor, known: Known, statement: str, parameter: str, values: Iterable[str]
    ) -> None:
        cursor.execute(statement, {parameter: self._database.as_list(values)})
        for kind, workspace, holder, version, deleted, unique_key in cursor.fetchall():
            known.rows[kind, workspace, holder] = Held(version, bool(deleted), unique_key)
            if unique_key is not None:
                known.holders[kind, workspace, unique_key] = holder

    def _begin(self) -> Cursor:
        if self._connection is not None:
            try:
                return self._begin_on(self._connection)
            except Exception:
                if not self._database.is_lost(self._connection):
                    raise
                self._disconnect()  # the server went away since, and nothing is written yet
        self._connection = self._database.connect(writes=True)
        self.process_id = self._database.process_id(self._connection)
        return self._begin_on(self._connection)

    def _begin_on(self, connection: Connection) -> Cursor:
        cursor = self._database.cursor(connection)
        cursor.execute(self._database.begin)
        self._database.check()
        return cursor

    def _undone(self, error: Exception) -> Exception:
        """Roll back after an error, and say it in our words."""
        failure = self._database.translate(error)
        if is_trouble(failure):
            self._disconnect()  # which rolls back, and the next try starts afresh
        elif self._connection is not None:
            try:
                self._connection.rollback()
            except Exception:
                self._disconnect()
        return failure

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None


def _row(told: Told) -> Parameters:
    record, deleted = told.record, told.deleted
    return {
        "id": record.id,
        "kind": told.key[0],
        "workspace": record.workspace,
        "unique_key": None if deleted else record.unique_key,
        "name": record.name,
        "parent": record.parent,
        "state": str(record.state_name),
        "owner": record.owner,
        "live": record.live and not deleted,
        "due_at_ms": None if deleted else record.due_at_ms,
        "created_at_ms": record.created_at_ms,
        "version": record.version,
        "seq": told.seq,
        "deleted": deleted,
        "document": encode(record),
    }
