"""What must hold of the records after every single commit, whatever goes wrong."""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable

from leptonai.core.records import Event, Job, Node, OwnerKind, Phase, Quota, Record, Replica
from leptonai.core.resources import Free
from leptonai.ports.messages import MessageStore
from leptonai.ports.points import PointStore
from leptonai.ports.store import Batch, Change, Delete, Fence, Query, R, Store
from leptonai.ports.values import ValueStore
from leptonai.spec.jobs import JobState

Key = tuple[str, str]  # workspace, id
START_WITHIN_S = 12.0  # a victim has ten seconds to save and end


class CheckedStore:
    """A store whose every commit is checked."""

    def __init__(
        self, inner: Store, report: Callable[[str], None], *, prompt: bool = False
    ) -> None:
        """With `prompt`, whoever others give way to must start within START_WITHIN_S."""
        self._inner, self._report = inner, report
        self.replicas: dict[Key, Replica] = {}
        self.nodes: dict[str, Node] = {}
        self.gave_way = 0
        # Since when others give way, by whom they give way to: name and priority.
        self._promised_s: dict[tuple[str, int], float] | None = {} if prompt else None
        self._jobs: dict[Key, Job] = {}

    @property
    def points(self) -> PointStore:
        return self._inner.points

    @property
    def values(self) -> ValueStore:
        return self._inner.values

    @property
    def messages(self) -> MessageStore:
        return self._inner.messages

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
            elif isinstance(record, Job):
                key = (record.workspace, record.id)
                self._check_job(self._jobs.get(key), record)
                self._jobs[key] = record
        if self._promised_s is not None:
            self._check_promises(self._promised_s, written, changes)
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

    def _check_job(self, before: Job | None, after: Job) -> None:
        if after.giving_way and not (before and before.giving_way):
            self.gave_way += 1
            if self._promised_s is not None and (to := _given_way_to(after)):
                self._promised_s.setdefault(to, asyncio.get_running_loop().time())
        if after.finished and after.giving_way:
            self._report(f"{after.id} is {after.state}, and still to give way")
        if before and before.giving_way and not after.giving_way:
            came_back = after.state in (JobState.QUEUEING, JobState.STARTING)
            if not (came_back or after.finished or after.spec.stopped):
                self._report(f"{after.id} gave way, and is {after.state}")
            if came_back and after.queued_at_ms != before.queued_at_ms:
                self._report(f"{after.id} lost its turn when it gave way")

    def _check_promises(
        self,
        promised_s: dict[tuple[str, int], float],
        written: Iterable[Record],
        changes: Iterable[Change],
    ) -> None:
        """Where nothing goes wrong those whom others give way to start soon, or one that has come
        to go before them does."""
        kept: set[tuple[str, int]] = set()
        for record in written:
            if isinstance(record, Replica) and record.phase is Phase.PLACED:
                kept |= {to for to in promised_s if to[1] <= record.priority}
            elif isinstance(record, Replica) and record.phase is Phase.DONE:  # not wanted any more
                kept |= {to for to in promised_s if to[0] == record.owner_name}
            elif isinstance(record, Job) and (record.finished or record.spec.stopped):
                kept |= {to for to in promised_s if to[0] == record.name}
            elif isinstance(record, Quota):  # what was promised may be more than it may have now
                kept |= promised_s.keys()
        for change in changes:
            if isinstance(change, Delete):
                kept |= {to for to in promised_s if to[0] == change.record.name}
        for to in kept:
            del promised_s[to]
        now_s = asyncio.get_running_loop().time()
        late = [to for to, since_s in promised_s.items() if now_s - since_s > START_WITHIN_S]
        for name, priority in late:
            del promised_s[name, priority]  # told once
            self._report(f"{name} has not started {START_WITHIN_S:g} s after others gave way")

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


def _given_way_to(job: Job) -> tuple[str, int] | None:
    """Of "gives way to NAME (priority 9000)"."""
    found = re.search(r"gives way to (\S+) \(priority (\d+)\)", job.giving_way)
    return (found[1], int(found[2])) if found else None
