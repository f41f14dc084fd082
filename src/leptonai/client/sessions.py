"""What is done in a pod: sessions and forwarded connections, each over a WebSocket by the gateway.

For asyncio alone. Nothing here holds more than a few messages: who does not read slows the other
side down.
"""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from leptonai.errors import Internal, InvalidRequest, LeptonError, Unavailable, from_wire
from leptonai.spec.pods import (
    CHUNK_BYTES,
    MAX_MESSAGE_BYTES,
    STDERR,
    STDIN,
    STDOUT,
    ExecControl,
    ExecEnd,
    ExecRequest,
    ForwardControl,
    JupyterProgress,
    SshKey,
    SshReady,
)

OPEN_S = 15.0
CLOSE_S = 1.0
QUEUED_MESSAGES = 8
LOST = 255  # the exit code of a session that broke off, as ssh has it

T = TypeVar("T")
Read = Callable[[], Awaitable[bytes]]  # b"" at the end
Write = Callable[[bytes], Awaitable[None]]


class Broken(Unavailable):
    """The connection to the pod is gone: the pod stopped, or the network is."""

    code = "PodConnectionBroken"


def _broken() -> Broken:
    return Broken(
        "the connection to the pod broke off", hint="see `leptonai pod list`, and enter it again"
    )


class Tunnel:
    """A WebSocket to a pod."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, message: bytes | msgspec.Struct) -> None:
        """Raises Broken."""
        try:
            if isinstance(message, bytes):
                await self._connection.send(message)
            else:
                await self._connection.send(msgspec.json.encode(message).decode())
        except ConnectionClosed:
            raise _broken() from None

    async def receive(self, kind: type[T]) -> bytes | T:
        """Raises Broken."""
        try:
            message = await self._connection.recv()
        except ConnectionClosed:
            raise _broken() from None
        if isinstance(message, bytes):
            return message
        try:
            return msgspec.json.decode(message, type=kind)
        except msgspec.DecodeError as error:
            raise Internal(
                f"the pod's answer cannot be read: {error}",
                hint="is the platform as new as this command?",
            ) from error

    async def receive_value(self, kind: type[T]) -> T:
        """Raises Broken."""
        value = await self.receive(kind)
        if isinstance(value, bytes) and kind is not bytes:
            raise Internal("the pod sent bytes where words were due", hint="report this")
        return value  # type: ignore[return-value]


@contextlib.asynccontextmanager
async def entered(url: str, token: str, path: str, **query: str) -> AsyncIterator[Tunnel]:
    """A WebSocket to what a pod has at `path`.

    Args:
        url: of the pod, as its status names it.

    Raises:
        LeptonError: what the gateway says to it; Unavailable if it does not answer.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    target = f"{'wss' if secure else 'ws'}://{parts.netloc}{parts.path}{path}"
    if query:
        target += f"?{urlencode(query)}"
    try:
        connection = await connect(
            target,
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            open_timeout=OPEN_S,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=QUEUED_MESSAGES,
            write_limit=CHUNK_BYTES,
            ping_interval=None,  # the pod pings
            proxy=None,  # as all of the client does
            user_agent_header="openlepton",
            process_exception=lambda error: error,  # tried once
            close_timeout=CLOSE_S,
            ssl=ssl.create_default_context() if secure else None,
        )
    except InvalidStatus as refused:
        raise _refusal(refused) from None
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise Unavailable(
            f"the gateway at {parts.netloc} does not answer: {error or 'no answer in time'}",
            hint="check the network, and `leptonai status`",
        ) from None
    try:
        yield Tunnel(connection)
    finally:
        try:
            async with asyncio.timeout(2 * CLOSE_S):
                await connection.close()
        except TimeoutError:  # it does not even read
            connection.transport.abort()


async def run_session(
    tunnel: Tunnel,
    request: ExecRequest,
    *,
    read: Read,
    write: Callable[[bytes, bytes], Awaitable[None]],
    controls: asyncio.Queue[ExecControl],
) -> ExecEnd:
    """Carry a session from its request to its end.

    Args:
        read: what the command is given to read.
        write: takes what it writes, with the mark of the stream.
        controls: what happens here: windows that change, signals.

    Raises:
        Broken: it broke off before it ended.
    """
    await tunnel.send(request)

    async def feed() -> None:
        while data := await read():
            await tunnel.send(STDIN + data)
        await tunnel.send(ExecControl(end_of_input=True))

    async def steer() -> None:
        while True:
            await tunnel.send(await controls.get())

    beside = [asyncio.create_task(feed()), asyncio.create_task(steer())]
    try:
        while True:
            message = await tunnel.receive(ExecEnd)
            if not isinstance(message, bytes):
                return message
            if message[:1] in (STDOUT, STDERR):
                await write(message[:1], message[1:])
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


async def carry(tunnel: Tunnel, read: Read, write: Write, end: Callable[[], None]) -> None:
    """A forwarded connection, until both sides have ended.

    Args:
        end: told that nothing more will be written.

    Raises:
        Unavailable: the pod's side does not take it.
        Broken: it broke off.
    """

    async def there() -> None:
        with contextlib.suppress(Broken):  # why, is heard from the other side
            while data := await read():
                await tunnel.send(data)
            await tunnel.send(ForwardControl(end=True))

    async def back() -> None:
        while True:
            message = await tunnel.receive(ForwardControl)
            if isinstance(message, bytes):
                await write(message)
            elif message.error:
                raise Unavailable(message.error, hint="is its program running? see its log")
            elif message.end:
                end()
                return

    both = [asyncio.create_task(there()), asyncio.create_task(back())]
    try:
        await asyncio.gather(*both)
    finally:
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def authorize(url: str, token: str, key: str) -> SshReady:
    """Let a public key in by SSH.

    Raises:
        Unavailable: the pod has no SSH server.
    """
    async with entered(url, token, "/authorize") as tunnel:
        await tunnel.send(SshKey(key=key))
        ready = await tunnel.receive_value(SshReady)
    if ready.error:
        raise Unavailable(ready.error, hint="use `leptonai pod exec -t NAME`")
    return ready


async def start_jupyter(
    url: str, token: str, told: Callable[[JupyterProgress], None]
) -> JupyterProgress:
    """Have JupyterLab run in a pod; returns how that ended."""
    async with entered(url, token, "/jupyter") as tunnel:
        while True:
            progress = await tunnel.receive_value(JupyterProgress)
            told(progress)
            if progress.state in ("running", "failed"):
                return progress


class ThreadedReader:
    """Reads what the event loop cannot wait for, a file say, in a thread of its own, one chunk
    ahead. The thread ends with the process."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, daemon=True).start()

    async def __call__(self) -> bytes:
        return await self._chunks.get()

    def _run(self) -> None:
        data = b"."
        while data:
            try:
                data = self._read(CHUNK_BYTES)
            except OSError:
                data = b""
            with contextlib.suppress(RuntimeError):  # the loop has ended
                asyncio.run_coroutine_threadsafe(self._chunks.put(data), self._loop).result()


def _refusal(refused: InvalidStatus) -> LeptonError:
    response = refused.response
    try:
        body: object = json.loads(response.body or b"")
    except ValueError:
        body = None
    if response.status_code == 401 and body is None:
        return InvalidRequest("the pod does not know its gateway", hint="restart the pod")
    return from_wire(response.status_code, body)
