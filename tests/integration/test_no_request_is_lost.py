"""Under load, while replicas and gateways come and go: every request that may be repeated is
answered, with 200."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from gateway_world import (
    GATEWAY_TOKEN,
    PATIENCE_S,
    WORKSPACE_TOKEN,
    Cloud,
    a_request,
    a_route,
    eventually,
    sha256,
)

from leptonai.core.routing import RouteTable, Upstream
from leptonai.home import Home
from leptonai.main.gateway_process import GatewayProcess, end_gateway

# Takes a few ms for each request, so that there is always one under way.
SERVER = """
import asyncio, sys

async def serve(reader, writer):
    while head := await reader.readuntil(b"\\r\\n\\r\\n"):
        length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\\r\\n")
                       if line.startswith(b"content-length")), 0)
        body = await reader.readexactly(length)
        await asyncio.sleep(0.005)
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n%b" % (length, body))

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 21)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


class Server:
    """A replica that can be killed."""

    numbers = itertools.count()

    def __init__(self, version: str = "1") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        self.upstream = Upstream(
            replica=f"s{next(self.numbers)}",
            host="127.0.0.1",
            port=int(self.process.stdout.readline()),
            version=version,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Load:
    """Clients that ask again as soon as they are answered, and obey `Connection: close`."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.port = port
        self.requests = requests
        self.answers: Counter[str] = Counter()
        self._over = False

    async def client(self, number: int) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        for turn in itertools.count(number):
            if self._over:
                break
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(self.requests[turn % len(self.requests)])
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            except (asyncio.IncompleteReadError, ConnectionResetError):
                self.answers["no answer"] += 1
                head = b"connection: close"
            else:
                self.answers[head.split(b" ")[1].decode()] += 1
            if b"connection: close" in head:
                writer.close()
                reader = writer = None
        if writer is not None:
            writer.close()

    async def answered(self, more: int) -> None:
        """Until that many more are."""
        wanted = self.answers["200"] + more
        async with asyncio.timeout(PATIENCE_S):
            while self.answers["200"] < wanted:
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def running(self, clients: int = 8) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.client(n)) for n in range(clients)]
        yield
        self._over = True
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*tasks)


def a_post(*lines: str, body: bytes = b"x" * 1000) -> bytes:
    return a_request("/e/default/e/", WORKSPACE_TOKEN, *lines, method="POST", body=body)


GET = a_request("/e/default/e/")
KEYED = a_post("Idempotency-Key: once")
PLAIN = a_post()


def under_load(
    cloud: Cloud, requests: list[bytes], disturb: Callable[[Load], Awaitable[None]]
) -> Counter[str]:
    load = Load(cloud.gateway.port, requests)

    async def main() -> None:
        async with load.running():
            await disturb(load)

    asyncio.run(main())
    return load.answers


def let_go_of(cloud: Cloud, replica: str) -> None:
    """Wait until it, which has left the table, has ended all its requests, as the gateway says."""
    reports = cloud.control_plane.reports
    eventually(lambda: reports[-1].table == cloud.seq and replica not in reports[-1].leaving)


async def publish(cloud: Cloud, servers: list[Server], **fields: object) -> None:
    upstreams = [each.upstream for each in servers]
    route = a_route("e", upstreams=upstreams, **fields)
    await asyncio.to_thread(cloud.publish, route)


@pytest.mark.parametrize(
    ("requests", "fields"),
    [([GET, KEYED], {}), ([PLAIN], {"retry": "always"})],
    ids=["safe", "declared"],
)
@pytest.mark.parametrize("replicas", [1, 3])
def test_killed_replicas_lose_no_request_that_may_be_repeated(
    own_cloud: Callable[..., Cloud],
    replicas: int,
    requests: list[bytes],
    fields: dict[str, object],
) -> None:
    cloud = own_cloud()
    servers = [Server() for _ in range(replicas)]
    fresh = [Server() for _ in range(3)]

    async def kill_one_after_the_other(load: Load) -> None:
        while fresh:
            await load.answered(40)
            await asyncio.to_thread(servers[0].kill)
            await asyncio.sleep(0.2)  # until the control plane has seen it
            servers[:] = [*servers[1:], fresh.pop()]
            await publish(cloud, servers, **fields)
        await load.answered(40)

    asyncio.run(publish(cloud, servers, **fields))
    try:
        answers = under_load(cloud, requests, kill_one_after_the_other)
    finally:
        for server in (*servers, *fresh):
            server.kill()
    assert set(answers) == {"200"}, answers


def test_what_may_not_be_repeated_is_a_bad_gateway_and_nothing_else(
    own_cloud: Callable[..., Cloud],
) -> None:
    cloud = own_cloud()
    servers = [Server(), Server()]

    async def kill(load: Load) -> None:
        await load.answered(40)
        servers[0].process.send_signal(signal.SIGSTOP)  # so that it has been sent some
        await load.answered(20)
        await asyncio.to_thread(servers[0].kill)
        await load.answered(40)

    asyncio.run(publish(cloud, servers))
    answers = under_load(cloud, [PLAIN], kill)
    for server in servers:
        server.kill()
    assert set(answers) == {"200", "502"}, answers
    assert answers["502"] <= 8  # those that it had been sent


def test_a_replica_that_leaves_is_let_finish(own_cloud: Callable[..., Cloud]) -> None:
    cloud = own_cloud()
    servers = [Server(), Server()]

    fresh = [Server(version="2") for _ in range(2)]

    async def roll(load: Load) -> None:
        while fresh:
            old = servers.pop(0)
            servers.append(fresh.pop())
            await publish(cloud, servers)
            await asyncio.to_thread(let_go_of, cloud, old.upstream.replica)
            await asyncio.to_thread(old.kill)
        await load.answered(40)

    asyncio.run(publish(cloud, servers))
    answers = under_load(cloud, [PLAIN, GET], roll)
    for server in servers:
        server.kill()
    assert set(answers) == {"200"}, answers


def test_a_gateway_that_is_replaced_loses_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    home.gateway_token_file.write_text(GATEWAY_TOKEN)
    server = Server()
    table = RouteTable(
        seq=1,
        routes=(a_route("e", upstreams=[server.upstream]),),
        workspace_token_sha256={"default": (sha256(WORKSPACE_TOKEN),)},
    )
    (home.gateway / "routes.json").write_bytes(msgspec.json.encode(table))
    gateway = GatewayProcess(home, host="127.0.0.1", port=0, control_url="http://127.0.0.1:9")
    gateway.start()
    load = Load(gateway.port, [GET, PLAIN])

    async def main() -> None:
        supervising = asyncio.create_task(gateway.supervise())
        async with load.running():
            for _ in range(2):
                await load.answered(50)
                old = gateway._process.pid
                os.kill(old, signal.SIGTERM)
                while gateway._process.pid == old:
                    await asyncio.sleep(0.02)
        supervising.cancel()
        with suppress(asyncio.CancelledError):
            await supervising

    try:
        asyncio.run(main())
    finally:
        gateway.let_go()
        end_gateway(home)
        server.kill()
    assert set(load.answers) == {"200"}, load.answers


def test_traffic_is_told_by_version_and_silence_is_not(own_cloud: Callable[..., Cloud]) -> None:
    cloud = own_cloud()
    server = Server(version="3")
    asyncio.run(publish(cloud, [server]))
    for _ in range(3):
        assert cloud.gateway.ask("/e/default/e/")[0] == 200
    reports = cloud.control_plane.reports
    windows = lambda: [window for report in list(reports) for window in report.windows]  # noqa: E731
    eventually(lambda: sum(each.ended.get(2, 0) for each in windows()) == 3)
    assert {(each.endpoint, each.version) for each in windows()} == {("e", "3")}
    assert sum(each.arrivals for each in windows()) == 3
    assert sum(each.served for each in windows()) == 3
    assert sum(each.service_sum_ms for each in windows()) >= 3 * 5
    asyncio.run(publish(cloud, []))
    with cloud.gateway.client() as wire:
        wire.send(GET)
        eventually(lambda: any(each.held == 1 and each.version == "" for each in windows()))
    eventually(lambda: any(each.ended == {4: 1} for each in windows()))  # it left
    server.kill()
