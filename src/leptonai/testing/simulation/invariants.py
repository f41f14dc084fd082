"""What must hold of the records after every single commit, whatever goes wrong."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable

from leptonai.core.records import Event, Node, OwnerKind, Phase, Record, Replica
from leptonai.core.resources import Free
from leptonai.ports.store import Batch, Change, Delete, Fence, Query, R, Store

Key = tuple[str, str]  # workspace, id


class CheckedStore:
    """A store whose every commit is checked."""

    def __init__(self, inner: Store, report: Callable[[str], None]) -> None:
        self._inner, self._report = inner, report
        self.replicas: dict[Key, Replica] = {}
        self.nodes: dict[str, Node] = {}

    async def commit(self, *changes: Change, fence: Fence | None = None) -> tuple[Record, ...]:
        written = await self._inner.commit(*changes, fence=fence)
        touched: list[Replica] = []
        for record in written:
            if isinstance(record, Node):
                self.nodes[record.id] = record
            elif isinstance(record, Replica):
                key = (record.workspace, record.id)
                if (before := self.replicas.get(key)) is not None:
                    self._check_progress(before, record)
                self.replicas[key] = record
                touched.append(record)
        for change in changes:
            if isinstance(change, Delete) and isinstance(change.record, Replica):
                self.replicas.pop((change.record.workspace, change.record.id), None)
        self._check_nodes({replica.node for replica in touched if replica.node})
        self._check_gangs({(replica.workspace, replica.gang) for replica in touched})
        return written

    def _check_progress(self, before: Replica, after: Replica) -> None:
        if after.attempt < before.attempt:
            self._report(f"{after.id} went back from attempt {before.attempt} to {after.attempt}")
        if before.phase is Phase.DONE and after.phase is not Phase.DONE:
            self._report(f"{after.id} was done, and is {after.phase} again")
        moved = before.node and after.node and before.node != after.node
        if moved and before.attempt == after.attempt:
            self._report(f"{after.id} moved from {before.node} to {after.node} within an attempt")
        if after.ready and after.phase is not Phase.RUNNING:
            self._report(f"{after.id} is ready, but {after.phase}")

    def _check_nodes(self, ids: Iterable[str]) -> None:
        held: dict[str, list[Replica]] = defaultdict(list)
        for replica in self.replicas.values():
            if replica.holds_capacity:
                held[replica.node].append(replica)
        for id in ids:
            node = self.nodes.get(id)
            if node is None:
                self._report(f"replicas are placed on {id}, which is no node")
                continue
            left = Free.all_of(node.capacity)
            ports: Counter[int] = Counter()
            for replica in held[id]:
                left = left.take(replica.program.needs, replica.gpus)
                ports.update([*replica.ports, replica.rendezvous_port])
            if min(left.cpu_millis, left.memory_bytes, left.disk_bytes, *left.gpu_millis, 0) < 0:
                names = sorted(replica.id for replica in held[id])
                self._report(f"{id} is given more than it has: {left} is left beside {names}")
            twice = sorted(port for port, many in ports.items() if many > 1 and port)
            gangs = {(r.gang, r.rendezvous_port) for r in held[id]}
            twice = [p for p in twice if p not in {port for _, port in gangs}]
            if twice:
                self._report(f"{id}: ports {twice} are given twice")

    def _check_gangs(self, gangs: Iterable[tuple[str, str]]) -> None:
        for workspace, gang in gangs:
            phases = {
                replica.phase
                for replica in self.replicas.values()
                if replica.gang == gang
                and replica.workspace == workspace
                and replica.owner_kind is OwnerKind.JOB
            }
            if Phase.WAITING in phases and phases & {Phase.PLACED, Phase.RUNNING, Phase.ENDED}:
                self._report(f"gang {gang} is placed in part: {sorted(phases)}")

    # --- the rest is as it is --------------------------------------------------------------------

    async def get(self, kind: type[R], workspace: str, id: str) -> R | None:
        return await self._inner.get(kind, workspace, id)

    async def find(self, kind: type[R], query: Query) -> list[R]:
        return await self._inner.find(kind, query)

    async def count(self, kind: type[Record], query: Query) -> int:
        return await self._inner.count(kind, query)

    async def lease(self, name: str) -> Fence:
        return await self._inner.lease(name)

    def changes(self, after: int) -> AsyncIterator[Batch]:
        return self._inner.changes(after)

    async def seq(self) -> int:
        return await self._inner.seq()

    async def events(
        self, workspace: str, *, kind: str = "", id: str = "", after: int = 0, limit: int = 1000
    ) -> list[Event]:
        return await self._inner.events(workspace, kind=kind, id=id, after=after, limit=limit)

    async def prune_events(self, before_ms: int) -> int:
        return await self._inner.prune_events(before_ms)

    async def close(self) -> None:
        await self._inner.close()
