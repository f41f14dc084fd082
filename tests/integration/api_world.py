"""The API in one process, over the store in memory: for tests of its routes."""

import asyncio
from pathlib import Path

import httpx

from leptonai.blobs import BlobStore
from leptonai.control.api.app import make_app
from leptonai.control.dns import DomainLookups
from leptonai.control.traffic import TrafficLog
from leptonai.control.world import Config, World
from leptonai.core.records import Node
from leptonai.core.resources import Capacity
from leptonai.core.routing import RouteTable
from leptonai.monitoring.audit import AuditLog
from leptonai.ports.engine import LogChunk, LogMarks
from leptonai.ports.store import Put, Store
from leptonai.security.links import Links
from leptonai.security.secrets import Sealer
from leptonai.security.tokens import Authenticator, JobTokens, issue
from leptonai.stores import open_store

KEY = bytes(range(32))
GIB = 1 << 30
NOW_MS = 1_700_000_000_000
NOW_NS = NOW_MS * 1_000_000


class ManualClock:
    def __init__(self) -> None:
        self.at_ms = NOW_MS

    def now_ms(self) -> int:
        return self.at_ms


class WrittenLogs:
    """Stands in for an engine: it has nothing but logs, which tests write."""

    def __init__(self) -> None:
        self.logs: dict[str, bytes] = {}
        self.marks: dict[str, LogMarks] = {}

    async def read_log(self, node, attempt, *, offset, limit):
        if attempt not in self.logs:
            return None
        return LogChunk(offset, self.logs[attempt][offset : offset + limit])

    async def log_marks(self, node, attempt):
        written = self.logs.get(attempt, b"")
        return self.marks.get(attempt) or LogMarks.of(
            [(NOW_NS, 0), (NOW_NS + len(written), len(written))]
        )


class Routes:
    table: RouteTable | None = None

    async def wait(self, after: int, timeout_s: float) -> RouteTable | None:
        await asyncio.sleep(0)
        return self.table


class ApiUnderTest:
    """`admin`, `ana` and `ben` (members), and `gateway` may call it; so may the token of a job."""

    def __init__(self, audit: Path, store: Store) -> None:
        self.store, self.clock = store, ManualClock()
        self.engine, self.blobs, self.routes = WrittenLogs(), BlobStore("memory://"), Routes()
        self.traffic = TrafficLog(self.clock)
        self.job_tokens = JobTokens(KEY)
        links = Links(KEY)
        self.audit = audit
        self.tokens: dict[str, str] = {}
        self.addresses = {"gateway": ("10.0.0.1",)}  # what DNS says
        self.world = World(
            store=self.store,
            engine=self.engine,
            clock=self.clock,
            blobs=self.blobs,
            sealer=Sealer(KEY),
            authenticator=Authenticator(self.store, self.clock, self.job_tokens, links),
            domains=DomainLookups(self.clock, "gateway", resolve=self.resolve),
            links=links,
            audit=AuditLog(audit),
            routes=self.routes,
            traffic=self.traffic,
            config=Config(
                workspaces=("ws", "other"),
                url="http://api",
                gateway_url="http://gateway",
                version="1.2.3",
            ),
        )
        self.app = make_app(self.world)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://api"
        )

    def resolve(self, host: str) -> tuple[str, ...]:
        return self.addresses.get(host, ())

    async def prepare(self) -> None:
        for workspace, name, role in (
            ("ws", "admin", "admin"),
            ("ws", "ana", "member"),
            ("ws", "ben", "member"),
            ("ws", "gateway", "gateway"),
            ("other", "eve", "admin"),
        ):
            literal, record = issue(workspace=workspace, name=name, role=role, now_ms=NOW_MS)
            self.tokens[name] = literal
            await self.store.commit(Put(record))
        await self.store.commit(Put(a_node()))

    async def add_blob(self, data: bytes) -> str:
        async def chunks():
            yield data

        return await self.blobs.put(chunks())

    async def call(self, method, path, *, who="admin", json=None, **more) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens[who]}"} if who else {}
        headers["prefer"] = "handling=strict"  # as our own client does
        headers |= more.pop("headers", {})
        if not path.startswith("/api/") and not more.pop("platform", False):
            path = f"/api/v2/workspaces/ws{path}"
        return await self.http.request(method, path, json=json, headers=headers, **more)


def a_node(**fields) -> Node:
    defaults = {
        "workspace": "ws",
        "id": "laptop",
        "name": "laptop",
        "created_at_ms": NOW_MS,
        "group": "local",
        "capacity": Capacity(cpu_millis=4_000, memory_bytes=8 * GIB, disk_bytes=100 * GIB),
    }
    return Node(**(defaults | fields))


def a_job(name="hello", **spec):
    spec = {"container": {"command": ["echo", "hi"]}} | spec
    return {"metadata": {"id": name}, "spec": spec}


def an_endpoint(name="digits", **spec):
    spec = {"container": {"command": ["serve"]}} | spec
    return {"metadata": {"id": name, "name": name}, "spec": spec}


def with_api(test, database="memory:"):
    """Run an async test with a fresh API."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            store = await open_store(database.format(tmp_path))
            api = ApiUnderTest(tmp_path / "audit.log", store)
            try:
                await api.prepare()
                await test(api)
            finally:
                await api.http.aclose()
                api.world.audit.close()
                await store.close()

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.story = test
    return run
