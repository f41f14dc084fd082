"""The way to a Ray cluster's dashboard: over the API's own connections, to a double of it that
writes down what it is sent."""

import asyncio
import base64
import contextlib
import dataclasses
import os
import socket

import httpx
import pytest
import uvicorn
from api_world import with_api
from msgspec.structs import replace
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from leptonai.control import relays
from leptonai.control.api.connections import BoundedConnection
from leptonai.control.api.rayclusters import dashboard_path
from leptonai.core.records import Phase, Replica
from leptonai.errors import InvalidRequest
from leptonai.ports.store import Put, Query

AT = "/api/v2/workspaces/ws/rayclusters/tune/dashboard"
RAY_TOKEN = "token-of-ws-and-tune"
PATIENCE_S = 60.0


class Dashboard:
    """Answers as it is told to, and keeps the heads and bodies of what it is asked."""

    def __init__(self) -> None:
        self.heads: list[list[str]] = []
        self.bodies: list[bytes] = []
        self.answer = b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"version":4}'
        self.answers_at_once = False  # before it has read the body

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
                self.heads.append(head)
                if not self.answers_at_once:
                    self.bodies.append(await self._body(reader, head))
                writer.write(self.answer)
                if "connection: close" in head:
                    break
        writer.close()

    async def _body(self, reader: asyncio.StreamReader, head: list[str]) -> bytes:
        told = dict(line.split(": ", 1) for line in head[1:])
        if "transfer-encoding" not in told:
            return await reader.readexactly(int(told.get("content-length", 0)))
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return body


class Served:
    """The API on a port, and a cluster whose head is a double."""

    def __init__(self, api) -> None:
        self.api = api
        self.dashboard = Dashboard()
        # As derived ones do, it differs for each cluster.
        api.app._world = dataclasses.replace(
            api.world,
            ray_token=lambda workspace, cluster: f"token-of-{workspace}-and-{cluster[:4]}",
        )
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._listening = listening
        config = uvicorn.Config(
            api.app,
            http=BoundedConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=1,
        )
        self._server = uvicorn.Server(config)
        self._server.capture_signals = contextlib.nullcontext

    async def __aenter__(self) -> "Served":
        asked = {"metadata": {"name": "tune"}, "spec": {"worker_group_specs": []}}
        answer = await self.api.call("POST", "/rayclusters", json=asked)
        assert answer.status_code == 200, answer.text
        self._head_server = await asyncio.start_server(self.dashboard.handle, "127.0.0.1", 0)
        await self.lead_to(self._head_server.sockets[0].getsockname()[1])
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listening]))
        while not self._server.started:
            await asyncio.sleep(0.01)
        self.http = httpx.AsyncClient(base_url=self.url, headers=self.bearer())
        return self

    async def __aexit__(self, *raised) -> None:
        await self.http.aclose()
        self.api.app.stop()
        self._server.should_exit = True
        await self._serving
        self._head_server.close()

    def bearer(self, who: str = "admin") -> dict[str, str]:
        return {"authorization": f"Bearer {self.api.tokens[who]}"}

    async def lead_to(self, port: int) -> None:
        (head,) = await self.api.store.find(Replica, Query())
        ports = (port, 1, 1, 1)
        self.port_of_head = port
        await self.api.store.commit(
            Put(replace(head, phase=Phase.RUNNING, node="laptop", ports=ports, ready=True))
        )

    async def send(self, raw: bytes) -> bytes:
        """What comes back for these bytes until the connection is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        finally:
            writer.close()

    async def idle(self) -> bool:
        """Whether nothing is left under way, soon."""
        async with asyncio.timeout(PATIENCE_S):
            while self.api.world.relays.under_way:
                await asyncio.sleep(0.02)
        return True


def served(test):
    async def story(api) -> None:
        async with Served(api) as running:
            await test(running)
            assert await running.idle()

    story.__name__ = test.__name__
    return with_api(story)


# --- HTTP ----------------------------------------------------------------------------------------


@served
async def test_a_request_gets_there_with_rays_token_and_without_the_callers(running):
    answer = await running.http.get(
        f"{AT}/api/jobs/a%2Fb?x=1&y=%20",
        headers={
            "cookie": "a=b",
            "origin": "http://dashboard",
            "x-ray-authorization": "Bearer other",
            "x-forwarded-for": "1.2.3.4",
            "accept": "application/json",
            "user-agent": "ray",
            "accept-encoding": "identity",
        },
    )
    assert (answer.status_code, answer.json()) == (200, {"version": 4})
    (head,) = running.dashboard.heads
    assert head[0] == "GET /api/jobs/a%2Fb?x=1&y=%20 HTTP/1.1"
    assert sorted(head[1:]) == [
        "accept-encoding: identity",
        "accept: application/json",
        f"authorization: Bearer {RAY_TOKEN}",
        "connection: close",
        f"host: 127.0.0.1:{running.port_of_head}",
        "user-agent: ray",
    ]


@served
async def test_bodies_get_there_whole_in_either_framing(running):
    body = bytes(range(256)) * 12_000  # 3 MB: more than any buffer

    async def pieces():
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    for content in (body, pieces(), b""):
        answer = await running.http.put(f"{AT}/api/packages/gcs/p.zip", content=content)
        assert answer.status_code == 200
    assert running.dashboard.bodies == [body, body, b""]
    assert [head[-1] for head in running.dashboard.heads] == [
        f"content-length: {len(body)}",
        "transfer-encoding: chunked",
        "content-length: 0",
    ]


ANSWERS = {
    "with a length": (b"content-length: 5\r\n\r\nhello", "hello"),
    "in chunks": (b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "hello"),
    "until it closes": (b"connection: close\r\n\r\nhello", "hello"),
    "empty": (b"content-length: 0\r\n\r\n", ""),
}


@served
async def test_answers_come_back_whole_and_without_what_is_rays_alone(running):
    for rest, text in ANSWERS.values():
        told = b"HTTP/1.1 404 Not Found\r\nset-cookie: ray=secret\r\ncontent-type: text/x\r\n"
        running.dashboard.answer = told + rest
        answer = await running.http.get(f"{AT}/api/jobs/x")
        assert (answer.status_code, answer.text) == (404, text)
        assert answer.headers["content-type"] == "text/x"
        assert "set-cookie" not in answer.headers
        assert RAY_TOKEN not in str(answer.headers)
    running.dashboard.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    answer = await running.http.head(f"{AT}/api/version")
    assert (answer.status_code, answer.headers["content-length"]) == (200, "5")


@served
async def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(running):
    running.dashboard.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello"
    with pytest.raises(httpx.RemoteProtocolError):
        await running.http.get(f"{AT}/api/version")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000,
        b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_an_error_that_says_so(answer, tmp_path):
    async def story(running):
        running.dashboard.answer = answer
        found = await running.http.get(f"{AT}/api/version")
        assert (found.status_code, found.json()["code"]) == (503, "Unavailable")
        assert "tune" in found.json()["message"]

    served(story)(tmp_path)


@served
async def test_an_answer_before_the_body_was_read_is_handed_on(running):
    running.dashboard.answers_at_once = True
    running.dashboard.answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n"
    answer = await running.http.post(f"{AT}/api/jobs/", content=b"x" * 100)
    assert answer.status_code == 413


# --- what is kept out ----------------------------------------------------------------------------

CLIMBING = (
    *("/..", "/../x", "/a/../../x", "/%2e%2e/x", "/a/.%2E/x", "/a%2f..%2fx", "/a/%2e", "/a/./b"),
    *("/a\\..\\x", "/a%5c..%5cx", "/..?x"),
)


@served
async def test_no_path_climbs_out_of_the_dashboard(running):
    for path in CLIMBING:
        raw = f"GET {AT}{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        raw += f"authorization: {running.bearer()['authorization']}\r\n\r\n"
        answer = await running.send(raw.encode())
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404")), (path, answer)
    assert running.dashboard.heads == []


@pytest.mark.parametrize("path", [b"/", b"/api/version", b"/a..b/...", b"/x?next=/../y", b"/%41"])
def test_other_paths_are_left_as_they_are(path):
    assert dashboard_path(AT.encode() + path) == path


@pytest.mark.parametrize("target", [b"/", AT.encode(), b"/a/b/c/d/e/f/g/h", b"", b"/\xff" * 9])
def test_what_is_no_path_of_a_dashboard_is_refused(target):
    with pytest.raises(InvalidRequest):
        dashboard_path(target)


@served
async def test_no_second_request_is_smuggled_behind_the_first(running):
    bearer = running.bearer()["authorization"]
    first = f"POST {AT}/api/jobs/ HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\n"
    second = "POST /api/jobs/evil HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    framings = (
        "content-length: 0\r\n\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        "transfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        "content-length: 0\r\ncontent-length: 5\r\n\r\n",
        "content-length: 0\r\nconnection: authorization, upgrade\r\nupgrade: h2c\r\n\r\n",
    )
    for framing in framings:
        await running.send((first + framing + second).encode())
    for head in running.dashboard.heads:
        assert head[0] == "POST /api/jobs/ HTTP/1.1"
        assert head.count(f"authorization: Bearer {RAY_TOKEN}") == 1
    assert set(running.dashboard.bodies) <= {b""}


@served
async def test_a_client_that_stalls_is_let_go(running):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relays, "QUIET_S", 0.2)
        raw = f"POST {AT}/api/jobs/ HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n"
        raw += f"authorization: {running.bearer()['authorization']}\r\n\r\nhalf"
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(raw.encode())
        answer = await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE_S)
        assert answer.startswith(b"HTTP/1.1 408")
        assert await running.idle()
        writer.close()


@served
async def test_who_takes_nothing_of_an_answer_holds_nothing_up(running):
    running.dashboard.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 90000000\r\n\r\n" + bytes(
        90_000_000
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relays, "QUIET_S", 0.3)
        raw = f"GET {AT}/logs HTTP/1.1\r\nhost: x\r\n"
        raw += f"authorization: {running.bearer()['authorization']}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1)
        writer.write(raw.encode())
        await reader.read(1)
        writer.transport.pause_reading()
        assert await running.idle()
        writer.transport.abort()


@served
async def test_an_upgrade_that_nobody_asked_for_is_no_answer(running):
    running.dashboard.answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n"
    answer = await running.http.get(f"{AT}/api/version")
    assert answer.status_code == 503


# --- WebSockets ----------------------------------------------------------------------------------


async def ray_tails(running, stack, handler) -> list[dict]:
    """Have the double serve WebSockets; what their requests' headers were."""
    asked: list[dict] = []

    def note(connection, request):
        asked.append(dict(request.headers.raw_items()) | {"path": request.path})

    server = await stack.enter_async_context(
        serve(handler, "127.0.0.1", 0, process_request=note, max_size=1 << 23)
    )
    await running.lead_to(server.sockets[0].getsockname()[1])
    return asked


def tail(running, who="admin", path="/api/jobs/j/logs/tail"):
    url = f"ws://127.0.0.1:{running.port}{AT}{path}"
    return connect(url, additional_headers=running.bearer(who), max_size=1 << 23)


async def echo(connection) -> None:
    async for message in connection:
        await connection.send(message)
    # As Ray's does when a job has ended.


@served
async def test_a_websocket_passes_both_ways_until_either_side_ends(running):
    async def lines(connection) -> None:
        for message in ("one", os.urandom(2_000_000), await connection.recv()):
            await connection.send(message)
        await connection.close(1000, "the job has ended")

    async with contextlib.AsyncExitStack() as stack:
        asked = await ray_tails(running, stack, lines)
        async with tail(running) as socket:
            await socket.send("from the client")
            got = [message async for message in socket]
            assert [got[0], len(got[1]), got[2]] == ["one", 2_000_000, "from the client"]
            assert (socket.close_code, socket.close_reason) == (1000, "the job has ended")
        assert await running.idle()
        (head,) = asked
        assert head["path"] == "/api/jobs/j/logs/tail"
        assert head["authorization"] == f"Bearer {RAY_TOKEN}"
        assert running.api.tokens["admin"] not in str(head)


@served
async def test_a_client_that_leaves_takes_its_connection_along(running):
    left = asyncio.Event()

    async def wait(connection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await connection.recv()
        left.set()

    async with contextlib.AsyncExitStack() as stack:
        await ray_tails(running, stack, wait)
        async with tail(running) as socket:
            assert running.api.world.relays.under_way == 1
            socket.transport.abort()
        await asyncio.wait_for(left.wait(), PATIENCE_S)
        assert await running.idle()


@served
async def test_a_client_that_left_before_the_answer_came_is_not_waited_for(running):
    asked, left = asyncio.Event(), asyncio.Event()

    async def late(reader, writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await left.wait()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n")
        writer.write(b"connection: upgrade\r\n\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(late, "127.0.0.1", 0) as server:
        await running.lead_to(server.sockets[0].getsockname()[1])
        raw = f"GET {AT}/tail HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket"
        raw += f"\r\nauthorization: {running.bearer()['authorization']}\r\n\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(raw.encode())
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        writer.transport.abort()
        await asyncio.sleep(0.1)
        left.set()
        assert await running.idle()


@served
async def test_a_client_that_takes_nothing_from_its_websocket_is_let_go(running):
    async def flood(connection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.send(os.urandom(1_000_000))  # which nothing makes smaller
                await asyncio.sleep(0)  # to hear that the other side has gone

    async with contextlib.AsyncExitStack() as stack:
        await ray_tails(running, stack, flood)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relays, "QUIET_S", 0.3)
            patch.setattr(relays, "LINGER_S", 0.1)
            socket = await tail(running)
            socket.transport.pause_reading()
            assert await running.idle()
            socket.transport.abort()


@served
async def test_whoever_may_not_change_the_cluster_gets_no_websocket(running):
    async with contextlib.AsyncExitStack() as stack:
        asked = await ray_tails(running, stack, echo)
        for who, status in (("ben", 403), ("eve", 404)):
            with pytest.raises(InvalidStatus) as refused:
                await stack.enter_async_context(tail(running, who))
            assert refused.value.response.status_code == status
        assert asked == []


@served
async def test_no_more_connections_than_are_put_up_with(running):
    async with contextlib.AsyncExitStack() as stack:
        await ray_tails(running, stack, echo)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relays, "MAX_AT_ONCE", 1)
            async with tail(running):
                with pytest.raises(InvalidStatus) as refused:
                    await stack.enter_async_context(tail(running))
                assert refused.value.response.status_code == 429
            assert await running.idle()


@served
async def test_a_websocket_that_is_refused_or_asked_for_elsewhere_gets_a_plain_answer(running):
    with pytest.raises(InvalidStatus) as refused:
        async with tail(running):
            pass
    assert refused.value.response.status_code == 200  # the double's, which knows no WebSockets
    key = base64.b64encode(bytes(16)).decode()
    raw = "GET /api/v2/workspaces/ws/jobs HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n"
    raw += f"upgrade: websocket\r\nsec-websocket-key: {key}\r\nsec-websocket-version: 13\r\n"
    raw += f"authorization: {running.bearer()['authorization']}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(raw.encode())
    answer = await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE_S)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b'{"jobs":[]}')
    writer.close()


@served
async def test_a_platform_that_ends_ends_its_tunnels(running):
    async with contextlib.AsyncExitStack() as stack:
        await ray_tails(running, stack, echo)
        async with tail(running) as socket:
            running.api.app.stop()
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), PATIENCE_S)
