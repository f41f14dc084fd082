"""What routes and actions stand on, handed to them by whoever starts them."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from leptonai.blobs import BlobStore
from leptonai.control.dns import DomainLookups
from leptonai.control.log_following import LogTails
from leptonai.control.measures import Measures
from leptonai.control.relays import Relays
from leptonai.control.traffic import TrafficLog
from leptonai.core.records import Job, Record, Replica, Workload
from leptonai.core.routing import RouteTable
from leptonai.monitoring.audit import AuditLog
from leptonai.ports.clock import Clock
from leptonai.ports.engine import Engine
from leptonai.ports.store import Change, Store
from leptonai.security.links import Links
from leptonai.security.secrets import Sealer
from leptonai.security.tokens import Authenticator
from leptonai.spec.explanations import Explanation

MaySee = Callable[[Workload], bool]


class RouteFeed(Protocol):
    async def wait(self, after: int, timeout_s: float) -> RouteTable | None:
        """The table as soon as it is another one than `after`; None if it stays."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    workspaces: tuple[str, ...]
    url: str  # of the API, without a path
    gateway_url: str
    version: str
    build_time: str = ""
    home: str = ""  # the directory of the platform's own files, which no volume may hold


class Adviser(Protocol):
    """What the scheduler says: see `leptonai.control.advice`."""

    async def explain(self, workload: Workload, may_see: MaySee) -> Explanation: ...
    def short(self, workload: Workload) -> str: ...
    async def foresee(
        self, workload: Workload, replicas: Sequence[Replica], may_see: MaySee
    ) -> Explanation: ...
    async def admit(self, job: Job, replicas: Sequence[Replica]) -> None: ...


class NoScheduler:
    """Where nothing is placed: for tests of routes."""

    async def explain(self, workload: Workload, may_see: MaySee) -> Explanation:
        state = workload.state
        return Explanation(
            state=state,
            code=state.lower().replace(" ", "_"),
            because=workload.message or f"it is {state.lower()}",
        )

    def short(self, workload: Workload) -> str:
        return ""

    async def foresee(
        self, workload: Workload, replicas: Sequence[Replica], may_see: MaySee
    ) -> Explanation:
        return await self.explain(workload, may_see)

    async def admit(self, job: Job, replicas: Sequence[Replica]) -> None:
        return None


def _ignore(records: Iterable[Record]) -> None:
    return None


def _no_key(workspace: str, id: str) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    store: Store
    engine: Engine
    clock: Clock
    blobs: BlobStore
    sealer: Sealer
    authenticator: Authenticator
    domains: DomainLookups
    links: Links
    audit: AuditLog
    routes: RouteFeed
    traffic: TrafficLog
    config: Config
    adviser: Callable[[], Adviser] = NoScheduler
    notice: Callable[[Iterable[Record]], None] = _ignore  # told of every commit: wakes the loops
    pod_key: Callable[[str, str], str] = _no_key  # of a workspace and the id of a pod
    ray_token: Callable[[str, str], str] = _no_key  # of a workspace and the id of a Ray cluster
    measures: Measures = field(default_factory=Measures)
    tails: LogTails = field(default_factory=LogTails)
    relays: Relays = field(default_factory=Relays)
    # Held from the look at who has a host to the commit of who gets it.
    hosts: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def advice(self) -> Adviser:
        return self.adviser()

    async def commit(self, *changes: Change) -> tuple[Record, ...]:
        written = await self.store.commit(*changes)
        self.notice(written)
        return written
