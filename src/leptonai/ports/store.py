"""Where records and events are kept: the promise that the SQL and the memory store keep.

`leptonai.testing.store_contract` is the same promise as a test suite.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from leptonai.core.records import Event, Record
from leptonai.ports.counts import CountStore
from leptonai.ports.messages import MessageStore
from leptonai.ports.points import PointStore
from leptonai.ports.values import ValueStore

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Put:
    """Write a record. Version 0 creates it; any other must be the stored one.

    A record's `version` and `seq` are set by the store.
    """

    record: Record


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a record, which must still have this version. Its id is never seen again in a
    query, but a follower of `changes` learns of it."""

    record: Record


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell people that something happened."""

    event: Event


Change = Put | Delete | Emit


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write as the holder of a lease. A commit that carries it is refused once
    somebody else has taken the lease."""

    name: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which records: every condition that is given must hold.

    The answer is ordered by (created_at_ms, id), newest first if asked.
    """

    workspace: str | None = None
    ids: tuple[str, ...] | None = None
    name: str | None = None
    parent: str | None = None
    unique_key: str | None = None
    states: tuple[str, ...] | None = None
    not_states: tuple[str, ...] = ()
    owners_begin: tuple[str, ...] | None = None  # the owner begins with one, in any case
    search: str | None = None  # a part of the name or of the id, taken literally
    mentions: bytes | None = None  # a part of the record as JSON: finds at least what has it
    live: bool | None = None
    due_before_ms: int | None = None
    newest_first: bool = False
    offset: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What changed, in the order of `seq`. Only the newest state of a record is told, so a
    follower may miss states in between but never the last one."""

    seq: int  # ask for what came after this
    records: tuple[Record, ...]
    deleted: tuple[Record, ...]  # as they were last


class Store(Protocol):
    """Records by kind, committed atomically and durably; safe for many callers at once."""

    @property
    def points(self) -> PointStore:
        """What runs measured: beside the records, for nobody follows it."""
        ...

    @property
    def counts(self) -> CountStore:
        """How many requests endpoints got: beside the records, for nobody follows it."""
        ...

    @property
    def values(self) -> ValueStore:
        """What key spaces hold."""
        ...

    @property
    def messages(self) -> MessageStore:
        """What queues hold."""
        ...

    async def get(self, kind: type[R], workspace: str, id: str) -> R | None: ...

    async def find(self, kind: type[R], query: Query) -> list[R]: ...

    async def count(self, kind: type[Record], query: Query) -> int: ...

    async def commit(self, *changes: Change, fence: Fence | None = None) -> tuple[Record, ...]:
        """Apply all changes or none; when it returns, they are on disk.

        Returns:
            the records of the Puts, in their order, with their new version and seq.

        Raises:
            AlreadyExists: a created record's id or unique key is taken; carries the holder's id.
            VersionConflict: a record was changed or removed since it was read.
            StaleEpoch: the fence's lease has been taken by somebody else.
            StorageFull: the disk is full.
            Unavailable: the database does not answer. The commit may have happened.
        """
        ...

    async def lease(self, name: str) -> Fence:
        """Take the lease from whoever holds it: epochs grow by one."""
        ...

    def changes(self, after: int) -> AsyncIterator[Batch]:
        """Follow every change of every record after a seq, for ever; waits while there is none.

        A change is seen by every follower that asked with a smaller seq, and batches never go back:
        no commit becomes visible behind a seq that was already given out, on any database.

        Raises:
            Conflict: deletions after that seq are forgotten (`prune_events`): read the records
                again and follow from there.
            Unavailable: the store was closed, or the database does not answer.
        """
        ...

    async def seq(self) -> int:
        """The newest seq that is visible."""
        ...

    async def events(
        self, workspace: str, *, kind: str = "", id: str = "", after: int = 0, limit: int = 1000
    ) -> list[Event]:
        """Events in the order of seq, of one record or of all."""
        ...

    async def prune_events(self, before_ms: int) -> int:
        """Forget events older than this, and the records that were deleted before the oldest event
        that is kept; says how many events."""
        ...

    async def close(self) -> None: ...
