"""What goes wrong between a control plane and the world: slow, refused and lost calls, and death.

One `Incarnation` is one process of the control plane. All it can reach are the handles made here;
once it has died, nothing it still does has any effect.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import TypeVar

from leptonai.core.records import Event, Record
from leptonai.errors import LeptonError, Unavailable
from leptonai.ports.counts import CountStore
from leptonai.ports.engine import (
    Attempt,
    AttemptId,
    LogChunk,
    LogMarks,
    Machine,
    Observation,
)
from leptonai.ports.messages import MessageStore
from leptonai.ports.points import PointStore
from leptonai.ports.store import Batch, Change, Fence, Query, R, Store
from leptonai.ports.values import ValueStore
from leptonai.testing.simulation.cluster import SimulatedCluster

T = TypeVar("T")


class Died(BaseException):
    """This incarnation is dead: unwind whatever still runs of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """How likely each misfortune is, at every call."""

    slow: float = 0.1  # it takes up to SLOW_S, before and after its effect
    very_slow: float = 0.005  # … up to VERY_SLOW_S
    refused: float = 0.01  # no effect, and an error
    lost: float = 0.01  # the effect takes place, and an error hides it
    death: float = 0.002  # of the process that calls, before or after the effect


CALM = Odds(slow=0, very_slow=0, refused=0, lost=0, death=0)
SLOW_S = 0.02
VERY_SLOW_S = 3.0


class Trace:
    """What happened, in order: equal runs have equal digests."""

    KEPT_LINES = 400

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)
        self.lines: list[str] = []
        self.count = 0

    def note(self, line: str) -> None:
        self.count += 1
        stamped = f"{asyncio.get_running_loop().time():10.3f} {line}"
        self._hash.update(stamped.encode())
        self.lines.append(stamped)
        if len(self.lines) >= 2 * self.KEPT_LINES:
            del self.lines[: self.KEPT_LINES]

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


class Incarnation:
    def __init__(self, number: int, random: Random, odds: Callable[[], Odds], trace: Trace) -> None:
        self.number = number
        self._odds = odds
        self.dead = asyncio.Event()
        self._random = random
        self._trace = trace

    def die(self) -> None:
        if not self.dead.is_set():
            self._trace.note(f"#{self.number} dies")
            self.dead.set()

    async def call(self, what: str, effect: Callable[[], Awaitable[T]]) -> T:
        """Have an effect on the world, with what may befall it."""
        odds, random = self._odds(), self._random
        await self.delay()
        if random.random() < odds.death / 2:
            self.die()
        self.check()
        if random.random() < odds.refused:
            self._note(what, "refused")
            raise Unavailable(f"{what}: refused")
        try:
            result = await effect()
        except LeptonError as error:
            self._note(what, error.code)
            raise
        self._note(what, "")
        await self.delay()
        if random.random() < odds.death / 2:
            self.die()
        self.check()
        if random.random() < odds.lost:
            self._note(what, "answer lost")
            raise Unavailable(f"{what}: the answer was lost")
        return result

    def check(self) -> None:
        if self.dead.is_set():
            raise Died

    async def delay(self) -> None:
        fate, odds = self._random.random(), self._odds()
        if fate < odds.very_slow:
            await asyncio.sleep(self._random.uniform(0, VERY_SLOW_S))
        elif fate < odds.very_slow + odds.slow:
            await asyncio.sleep(self._random.uniform(0, SLOW_S))

    def _note(self, what: str, outcome: str) -> None:
        self._trace.note(f"#{self.number} {what}{': ' if outcome else ''}{outcome}")


class StoreHandle:
    """One incarnation's connection to the store."""

    def __init__(self, inner: Store, life: Incarnation) -> None:
        self._inner, self._life = inner, life

    @property
    def points(self) -> PointStore:
        return self._inner.points

    @property
    def counts(self) -> CountStore:
        return self._inner.counts

    @property
    def values(self) -> ValueStore:
        return self._inner.values

    @property
    def messages(self) -> MessageStore:
        return self._inner.messages

    async def get(self, kind: type[R], workspace: str, id: str) -> R | None:
        return await self._life.call(
            f"get {kind.__name__} {id}", lambda: self._inner.get(kind, workspace, id)
        )

    async def find(self, kind: type[R], query: Query) -> list[R]:
        return await self._life.call(f"find {kind.__name__}", lambda: self._inner.find(kind, query))

    async def count(self, kind: type[Record], query: Query) -> int:
        return await self._life.call(
            f"count {kind.__name__}", lambda: self._inner.count(kind, query)
        )

    async def commit(self, *changes: Change, fence: Fence | None = None) -> tuple[Record, ...]:
        what = "commit " + ", ".join(_describe(change) for change in changes)
        return await self._life.call(what, lambda: self._inner.commit(*changes, fence=fence))

    async def lease(self, name: str) -> Fence:
        return await self._life.call(f"lease {name}", lambda: self._inner.lease(name))

    async def changes(self, after: int) -> AsyncIterator[Batch]:
        async for batch in self._inner.changes(after):
            await self._life.delay()
            self._life.check()
            yield batch

    async def seq(self) -> int:
        return await self._life.call("seq", self._inner.seq)

    async def events(
        self, workspace: str, *, kind: str = "", id: str = "", after: int = 0, limit: int = 1000
    ) -> list[Event]:
        return await self._life.call(
            "events",
            lambda: self._inner.events(workspace, kind=kind, id=id, after=after, limit=limit),
        )

    async def prune_events(self, before_ms: int) -> int:
        return await self._life.call("prune", lambda: self._inner.prune_events(before_ms))

    async def close(self) -> None:
        """The store outlives those who use it."""


class EngineHandle:
    """One incarnation's connection to the machines."""

    def __init__(self, cluster: SimulatedCluster, life: Incarnation) -> None:
        self._cluster, self._life = cluster, life

    async def machines(self) -> tuple[Machine, ...]:
        return await self._life.call("machines", self._cluster.machines)

    async def start(self, attempt: Attempt, *, epoch: int) -> None:
        await self._life.call(
            f"start {attempt.id} on {attempt.node}",
            lambda: self._cluster.start(attempt, epoch=epoch),
        )

    async def warm(self, attempt: Attempt, *, epoch: int) -> None:
        await self._life.call(
            f"warm {attempt.id} on {attempt.node}",
            lambda: self._cluster.warm(attempt, epoch=epoch),
        )

    async def cool(self, node: str, key: str, *, epoch: int) -> None:
        await self._life.call(
            f"cool {key} on {node}", lambda: self._cluster.cool(node, key, epoch=epoch)
        )

    async def stop(self, node: str, attempt: AttemptId, *, grace_ms: int, epoch: int) -> None:
        await self._life.call(
            f"stop {attempt} on {node}",
            lambda: self._cluster.stop(node, attempt, grace_ms=grace_ms, epoch=epoch),
        )

    async def observe(self, node: str) -> Observation:
        return await self._life.call(f"observe {node}", lambda: self._cluster.observe(node))

    async def listens(self, node: str, attempt: AttemptId, port: int) -> bool | None:
        return await self._life.call(
            f"listens {attempt} on {node}", lambda: self._cluster.listens(node, attempt, port)
        )

    async def changed(self) -> None:
        await self._cluster.changed()
        self._life.check()

    async def forget(self, node: str, attempt: AttemptId, *, epoch: int) -> None:
        await self._life.call(
            f"forget {attempt} on {node}",
            lambda: self._cluster.forget(node, attempt, epoch=epoch),
        )

    async def drop(self, node: str, keeps: str, *, epoch: int) -> None:
        await self._life.call(
            f"drop {keeps} on {node}", lambda: self._cluster.drop(node, keeps, epoch=epoch)
        )

    async def remove(self, node: str, attempt: AttemptId, *, epoch: int) -> None:
        await self._life.call(
            f"remove {attempt} on {node}",
            lambda: self._cluster.remove(node, attempt, epoch=epoch),
        )

    async def fence(self, node: str, *, epoch: int) -> bool:
        return await self._life.call(
            f"fence {node}", lambda: self._cluster.fence(node, epoch=epoch)
        )

    async def read_log(
        self, node: str, attempt: AttemptId, *, offset: int, limit: int
    ) -> LogChunk | None:
        return await self._cluster.read_log(node, attempt, offset=offset, limit=limit)

    async def gpu_use(self, node: str) -> Mapping[int, float]:
        return await self._cluster.gpu_use(node)

    async def log_marks(self, node: str, attempt: AttemptId) -> LogMarks:
        return await self._cluster.log_marks(node, attempt)

    async def close(self) -> None:
        """The machines outlive those who use them."""


class ProberHandle:
    """One incarnation's probes of the servers."""

    def __init__(self, cluster: SimulatedCluster, life: Incarnation) -> None:
        self._cluster, self._life = cluster, life

    async def answers(self, host: str, port: int, path: str) -> bool:
        async def probe() -> bool:
            return self._cluster.answers(host, port)

        try:
            return await self._life.call(f"probe {host}:{port}", probe)
        except Unavailable:
            return False


def _describe(change: Change) -> str:
    verb = type(change).__name__.lower()
    if hasattr(change, "event"):
        return f"{verb} {change.event.reason} of {change.event.id}"
    record = change.record
    return f"{verb} {type(record).__name__} {record.id} v{record.version} {record.state_name}"
