"""The pod's entrance: who comes by the gateway has been let in there, and shows the pod's key."""

import asyncio
import contextlib
import hmac
import http
import logging
import signal
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, urlsplit

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from leptonai.errors import InvalidRequest
from leptonai.pod.activity import Activity
from leptonai.pod.channel import Channel, Gone
from leptonai.pod.forwarding import forward
from leptonai.pod.jupyter import Jupyter
from leptonai.pod.place import Place
from leptonai.pod.report import Report
from leptonai.pod.sessions import Sessions
from leptonai.pod.ssh import SshServer
from leptonai.pod.syncing import receive_tree
from leptonai.spec.pods import CHUNK_BYTES, MAX_MESSAGE_BYTES, PodPlan

MAX_CONNECTIONS = 500
ANSWER_AFTER_S = 30.0  # to who waits for a change of the report
HANDSHAKE_S = 60.0  # so long, and longer, may an answer take
CLOSE_S = 1.0  # for a client that does not read, to hear that this is the end
QUEUED_MESSAGES = 8  # of one client, before it is not read from any more
LOOPBACK = "127.0.0.1"


async def serve(place: Place, plan: PodPlan) -> None:
    """Until SIGTERM."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # a probe is no handshake
    place.make()
    pod = Pod(place, plan)
    async with serve_websockets(
        pod.handle,
        LOOPBACK,
        place.port,
        process_request=pod.admit,
        compression=None,
        open_timeout=HANDSHAKE_S,
        max_size=MAX_MESSAGE_BYTES,
        max_queue=QUEUED_MESSAGES,
        write_limit=CHUNK_BYTES,
        server_header=None,
        close_timeout=CLOSE_S,
        ping_timeout=None,  # who does not read for a while, a paused pager, does not answer either
    ) as server:
        beside = asyncio.create_task(pod.begin())
        await stopping.wait()
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)
        await pod.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*(each.close() for each in server.connections))
        for each in server.connections:
            each.transport.abort()


class Pod:
    def __init__(self, place: Place, plan: PodPlan) -> None:
        self._place = place
        self._plan = plan
        self._report = Report(user=place.user, home=str(place.home))
        self._sessions = Sessions(place)
        self._ssh = SshServer(place, plan, self._report)
        self._jupyter = Jupyter(place, plan, self._report)
        self._activity = Activity(self._ssh, self._jupyter)
        self._expected = f"Bearer {place.key}"
        self._connections = 0

    async def begin(self) -> None:
        """What runs beside those who come in."""
        await self._ssh.start()
        running = [asyncio.create_task(self._run_command())] if self._plan.command else []
        if self._plan.jupyter:
            running.append(asyncio.create_task(self._jupyter.see_to_it()))
        try:
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()

    async def close(self) -> None:
        self._report.close()
        await asyncio.gather(self._sessions.close(), self._jupyter.close(), self._ssh.close())

    async def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to who is not let in, or only asks how the pod is."""
        shown = request.headers.get("Authorization") or ""
        if not hmac.compare_digest(shown.encode(), self._expected.encode()):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "the gateway lets you in\n")
        url = urlsplit(request.path)
        if url.path == "/report":
            return await self._told(parse_qs(url.query))
        if url.path not in self._handlers:
            return connection.respond(http.HTTPStatus.NOT_FOUND, "there is nothing here\n")
        if "Upgrade" not in request.headers:
            return connection.respond(http.HTTPStatus.UPGRADE_REQUIRED, "by WebSocket only\n")
        if self._connections >= MAX_CONNECTIONS:
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_CONNECTIONS} are here already\n"
            )
        return None

    async def handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        url = urlsplit(connection.request.path)
        self._connections += 1
        try:
            await self._handlers[url.path](Channel(connection), parse_qs(url.query))
        except (Gone, InvalidRequest):
            pass
        finally:
            self._connections -= 1

    @property
    def _handlers(self) -> dict[str, Callable[[Channel, dict[str, list[str]]], Awaitable[None]]]:
        return {
            "/exec": self._exec,
            "/forward": self._forward,
            "/jupyter": self._open_jupyter,
            "/authorize": self._authorize,
            "/sync": self._sync,
        }

    async def _exec(self, channel: Channel, query: dict[str, list[str]]) -> None:
        with self._report.during("sessions"):
            await self._sessions.run(channel)

    async def _forward(self, channel: Channel, query: dict[str, list[str]]) -> None:
        with self._report.during("forwards"):
            await forward(channel, self._place, query.get("port", [""])[-1])

    async def _open_jupyter(self, channel: Channel, query: dict[str, list[str]]) -> None:
        self._report.use()
        await self._jupyter.tell(channel)

    async def _authorize(self, channel: Channel, query: dict[str, list[str]]) -> None:
        await self._ssh.authorize(channel)

    async def _sync(self, channel: Channel, query: dict[str, list[str]]) -> None:
        with self._report.during("sessions"):
            await receive_tree(channel, self._place)

    async def _told(self, query: dict[str, list[str]]) -> Response:
        after = query.get("after", ["0"])[-1]
        await self._report.wait(int(after) if after.isdigit() else 0, ANSWER_AFTER_S)
        watch_cpu = query.get("cpu", ["0"])[-1] == "1"
        report = await self._activity.told(self._report, watch_cpu=watch_cpu)
        body = msgspec.json.encode(report)
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
        headers["Connection"] = "close"
        return Response(200, "OK", headers, body)

    async def _run_command(self) -> None:
        """The user's own, whose output is the pod's log. The pod outlives it."""
        command = self._plan.command
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                cwd=self._place.home,
                env=self._place.environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._report.note("CommandFailed", f"its command cannot be started: {error}", "Warning")
            return
        code = await process.wait()
        words = f"exited with code {code}" if code >= 0 else f"was killed by signal {-code}"
        self._report.note(
            "CommandEnded",
            f"its command {words}; the pod goes on",
            "Normal" if code == 0 else "Warning",
        )
