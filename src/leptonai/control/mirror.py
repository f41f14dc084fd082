"""What the loops look at: every live record, in memory, as of one seq of the store.

Whoever writes applies the answer of its commit at once, and a follower of the store brings in what
others wrote. Old news is ignored, so the order in which the two arrive does not matter.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from leptonai.core.records import (
    Endpoint,
    Ingress,
    Job,
    Node,
    OwnerKind,
    Quota,
    RayCluster,
    Record,
    Replica,
    Reservation,
    Run,
    Token,
    Workload,
)
from leptonai.errors import Conflict
from leptonai.ports.store import Change, Fence, Query, Store

Key = tuple[str, str]  # workspace, id
LIVE_KINDS: tuple[type[Record], ...] = (
    Job,
    Endpoint,
    RayCluster,
    Replica,
    Node,
    Token,
    Quota,
    Run,
    Ingress,
    Reservation,
)


class Watch:
    """One loop's view of what changed since it last looked."""

    def __init__(self, kinds: tuple[type[Record], ...], only: Callable[[Record], bool]) -> None:
        self.kinds = kinds
        self._only = only
        self.news = asyncio.Event()
        self._changed: dict[tuple[type[Record], Key], Record] = {}

    def note(self, record: Record) -> None:
        if isinstance(record, self.kinds) and self._only(record):
            self._changed[type(record), (record.workspace, record.id)] = record
            self.news.set()

    def take(self) -> list[Record]:
        """The records that changed, each as it was last, oldest change first."""
        changed = list(self._changed.values())
        self._changed.clear()
        return changed


class Mirror:
    def __init__(self) -> None:
        self.seq = 0
        self.jobs: dict[Key, Job] = {}
        self.endpoints: dict[Key, Endpoint] = {}
        self.rayclusters: dict[Key, RayCluster] = {}
        self.replicas: dict[Key, Replica] = {}
        self.nodes: dict[Key, Node] = {}
        self.tokens: dict[Key, Token] = {}
        self.quotas: dict[Key, Quota] = {}
        self.runs: dict[Key, Run] = {}
        self.ingresses: dict[Key, Ingress] = {}
        self.reservations: dict[Key, Reservation] = {}
        self._children: dict[Key, dict[str, Replica]] = {}
        self._gone: dict[tuple[type[Record], Key], int] = {}  # dropped at which seq
        self._watches: list[Watch] = []

    def watch(
        self, *kinds: type[Record], only: Callable[[Record], bool] = lambda record: True
    ) -> Watch:
        """A watch that has already noted every live record of these kinds."""
        watch = Watch(kinds, only)
        for kind in kinds:
            for record in self._table(kind).values():
                watch.note(record)
        self._watches.append(watch)
        return watch

    def replicas_of(self, workspace: str, parent: str) -> list[Replica]:
        """The live replicas of "job/ID", "endpoint/ID" or "raycluster/ID"."""
        return list(self._children.get((workspace, parent), {}).values())

    async def load(self, store: Store) -> None:
        """Read every live record; what is written meanwhile is seen by `follow`."""
        seq = await store.seq()
        for kind in LIVE_KINDS:
            found = await store.find(kind, Query(live=True))
            self.apply(found)
            there = {(record.workspace, record.id) for record in found}
            for key, record in list(self._table(kind).items()):
                if key not in there and record.seq <= seq:
                    self._drop(record)
        self._reach(seq)

    async def follow(self, store: Store) -> None:
        """Take in what is written, until the store does not answer: then follow again.

        Raises:
            Unavailable: nothing is known of what was written since.
        """
        while True:
            try:
                async for batch in store.changes(self.seq):
                    self.apply(batch.records)
                    for record in batch.deleted:
                        self._drop(record)
                    self._reach(batch.seq)
            except Conflict:  # too far behind: what was removed meanwhile is told no more
                await self.load(store)

    def _reach(self, seq: int) -> None:
        self.seq = max(self.seq, seq)
        for key in [key for key, gone in self._gone.items() if gone <= self.seq]:
            del self._gone[key]

    async def commit(self, store: Store, *changes: Change, fence: Fence) -> tuple[Record, ...]:
        """Commit, and see one's own writes at once."""
        written = await store.commit(*changes, fence=fence)
        self.notice(written)
        return written

    def notice(self, written: Iterable[Record]) -> None:
        """Take in what somebody in this process has just written."""
        # An answer may come so late that the follower has told of it, and of what came after: even
        # of a removal, which nothing here remembers any more.
        self.apply(record for record in written if record.seq > self.seq)

    def apply(self, records: Iterable[Record]) -> None:
        for record in records:
            if isinstance(record, LIVE_KINDS):
                self._apply(record)

    def forget(self, record: Record) -> None:
        """See one's own removal at once."""
        self._drop(record)

    def workload(self, kind: OwnerKind, key: Key) -> Workload | None:
        match kind:
            case OwnerKind.JOB:
                return self.jobs.get(key)
            case OwnerKind.ENDPOINT:
                return self.endpoints.get(key)
        return self.rayclusters.get(key)

    def _apply(self, record: Record) -> None:
        kind, key = type(record), (record.workspace, record.id)
        table = self._table(kind)
        known = table.get(key)
        newest = known.seq if known is not None else self._gone.get((kind, key), -1)
        if record.seq <= newest:
            return
        if not record.live:
            self._drop(record)
            return
        table[key] = record
        if isinstance(record, Replica):
            self._children.setdefault((record.workspace, record.parent), {})[record.id] = record
        self._tell(record)

    def _drop(self, record: Record) -> None:
        """Forget it, and that older news of it may still arrive."""
        if not isinstance(record, LIVE_KINDS):
            return
        kind, key = type(record), (record.workspace, record.id)
        if record.seq > self.seq:
            self._gone[kind, key] = record.seq
        if self._table(kind).pop(key, None) is None:
            return
        if isinstance(record, Replica):
            family = (record.workspace, record.parent)
            self._children[family].pop(record.id, None)
            if not self._children[family]:
                del self._children[family]
        self._tell(record)

    def _tell(self, record: Record) -> None:
        for watch in self._watches:
            watch.note(record)

    def _table(self, kind: type[Record]) -> dict[Key, Any]:
        tables: dict[type[Record], dict[Key, Any]] = {
            Job: self.jobs,
            Endpoint: self.endpoints,
            RayCluster: self.rayclusters,
            Replica: self.replicas,
            Node: self.nodes,
            Token: self.tokens,
            Quota: self.quotas,
            Run: self.runs,
            Ingress: self.ingresses,
            Reservation: self.reservations,
        }
        return tables[kind]


def serves(record: Record) -> bool:
    """False of the workers of jobs, which come and go by the thousand and answer nobody."""
    return not isinstance(record, Replica) or record.owner_kind is not OwnerKind.JOB
