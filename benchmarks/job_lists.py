"""What it costs to list the jobs of a workspace with 10,000: ``python -m benchmarks.job_lists``.

The API alone, in this process, over SQLite on disk: no sockets, so what is measured is ours.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
from msgspec.structs import replace

from leptonai.blobs import BlobStore
from leptonai.control.api.app import make_app
from leptonai.control.dns import DomainLookups
from leptonai.control.traffic import TrafficLog
from leptonai.control.world import Config, World
from leptonai.core.lifecycle.job import new_job
from leptonai.core.records import Job
from leptonai.core.routing import RouteTable
from leptonai.monitoring.audit import AuditLog
from leptonai.ports.store import Put, Store
from leptonai.security.links import Links
from leptonai.security.secrets import Sealer
from leptonai.security.tokens import Authenticator, JobTokens, issue
from leptonai.spec.containers import Affinity, Container
from leptonai.spec.jobs import JobSpec, JobState
from leptonai.stores import open_store
from leptonai.testing.fake_engine import FakeEngine
from leptonai.testing.virtual_time import VirtualClock

JOBS = 10_000
A_COMMIT = 500
TIMES = 30
STATES = (JobState.COMPLETED, JobState.FAILED, JobState.QUEUEING, JobState.RUNNING)
SHAPES = ("cpu.small", "gpu.a10")
PATHS = {
    "page_500": "?page_size=500",
    "page_500_last": "?page_size=500&page=20",
    "page_past_the_end": "?page_size=500&page=21",
    "by_name": "?page_size=500&q=train-99",
    "by_state": "?page_size=500&status=fail&status=queue",
    "by_user": "?page_size=500&created_by=user-7",
    "by_label": "?page_size=500&query=team%3D7",
    "by_labels": "?page_size=500&query=team+in+(6,+7)",
    "by_node_group": "?page_size=500&node_groups=group-7",
    "by_all_of_it": "?page_size=500&q=train&status=comp&created_by=user-7&query=team",
    "archive": "?page_size=500&job_query_mode=archive_only",
}


def a_job(number: int) -> Job:
    spec = JobSpec(
        container=Container(command=["python", "train.py", f"--seed={number}"]),
        resource_shape=SHAPES[number % 2],
        affinity=Affinity(allowed_dedicated_node_groups=[f"group-{number % 10}"]),
        completions=1 + number % 4,
    )
    job = new_job(
        workspace="ws",
        id=f"train-{number}-{number % 7:04d}",
        name=f"train-{number}",
        spec=spec,
        owner=f"user-{number % 50}",
        labels={"team": str(number % 20), "run": str(number)},
        visibility="",
        now_ms=1_700_000_000_000 + number,
    )
    return replace(job, state=STATES[number % len(STATES)])


class NoRoutes:
    async def wait(self, after: int, timeout_s: float) -> RouteTable | None:
        return None


async def an_api(store: Store, folder: Path) -> httpx.AsyncClient:
    """The API over this store; the client is an admin's."""
    key, clock = bytes(32), VirtualClock()
    links = Links(key)
    world = World(
        store=store,
        engine=FakeEngine([], clock=clock),
        clock=clock,
        blobs=BlobStore("memory://"),
        sealer=Sealer(key),
        authenticator=Authenticator(store, clock, JobTokens(key), links),
        domains=DomainLookups(clock, "g"),
        links=links,
        audit=AuditLog(folder / "audit.log"),
        routes=NoRoutes(),
        traffic=TrafficLog(clock),
        config=Config(workspaces=("ws",), url="http://a", gateway_url="http://g", version="1"),
    )
    literal, token = issue(workspace="ws", name="admin", role="admin", now_ms=clock.now_ms())
    await store.commit(Put(token))
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(make_app(world)),
        base_url="http://api",
        headers={"authorization": f"Bearer {literal}"},
    )


async def fill(store: Store, jobs: int) -> None:
    for first in range(0, jobs, A_COMMIT):
        numbers = range(first, min(jobs, first + A_COMMIT))
        await store.commit(*(Put(a_job(number)) for number in numbers))


async def measured(http: httpx.AsyncClient, path: str, times: int) -> dict[str, float]:
    took, cpu, size, found = [], [], 0, 0
    for _ in range(times):
        began, used = time.perf_counter(), time.process_time()
        answer = await http.get(path)
        took.append(1000 * (time.perf_counter() - began))
        cpu.append(1000 * (time.process_time() - used))
        answer.raise_for_status()
        size, found = len(answer.content), len(answer.json()["jobs"])
    return {
        "ms_p50": round(statistics.median(took), 1),
        "cpu_ms_p50": round(statistics.median(cpu), 1),
        "found": found,
        "kib": size >> 10,
    }


async def measure(jobs: int = JOBS, times: int = TIMES) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        store = await open_store(f"sqlite:///{Path(folder, 'lepton.db')}")
        try:
            async with await an_api(store, Path(folder)) as http:
                await fill(store, jobs)
                return {
                    name: await measured(http, f"/api/v2/workspaces/ws/jobs{query}", times)
                    for name, query in PATHS.items()
                }
        finally:
            await store.close()


if __name__ == "__main__":
    json.dump(asyncio.run(measure()), sys.stdout, indent=2)
