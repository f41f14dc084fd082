"""One HTTP exchange after another over kept connections, with the standard library alone: the
command line has no time to import more."""

import contextlib
import os
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from http.client import (
    BadStatusLine,
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    RemoteDisconnected,
)
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeAlias, TypeVar
from urllib.parse import urlsplit

from leptonai.client.messages import (
    CHUNK_BYTES,
    CONNECT_TIMEOUT_S,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_PROBES,
    MAX_ANSWER_BYTES,
    Answer,
    Cut,
    NotReached,
    Request,
    Told,
    too_large,
)

P = ParamSpec("P")
T = TypeVar("T")
Feed: TypeAlias = Generator[T, None, None]
MAX_IDLE_CONNECTIONS = 8


def pause(seconds: float) -> None:
    time.sleep(seconds)


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Slow work: here, simply done."""
    return function(*args, **kwargs)


class Stream:
    """An answer whose body is still arriving."""

    def __init__(self, connection: HTTPConnection, response: HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status

    def chunks(self) -> Iterator[bytes]:
        """Raises:
        Cut: the body is not complete.
        """
        try:
            while chunk := self._response.read1(CHUNK_BYTES):
                yield chunk
            if self._response.length:  # http.client takes a short body for a complete one
                raise Cut("the connection was closed")
        except (OSError, HTTPException) as broken:
            raise Cut(_reason(broken)) from broken

    def read(self) -> bytes:
        parts, size = [], 0
        for chunk in self.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise too_large()
        return b"".join(parts)

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class Http:
    """Exchanges with one server; safe for many threads."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._prefix = parts.path
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._timeout_s = timeout_s
        self._idle: deque[HTTPConnection] = deque(maxlen=MAX_IDLE_CONNECTIONS)

    def exchange(self, request: Request, token: str) -> Answer:
        """Raises:
        NotReached: nothing was sent.
        Cut: no complete answer came.
        """
        connection, response = self._open(request, token)
        try:
            body = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, HTTPException) as broken:
            connection.close()
            raise Cut(_reason(broken)) from broken
        if len(body) > MAX_ANSWER_BYTES:
            connection.close()
            raise too_large()
        if response.length:  # http.client takes a short body for a complete one
            connection.close()
            raise Cut("the connection was closed")
        if not response.will_close and len(self._idle) < MAX_IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, body, headers)

    def stream(self, request: Request, token: str) -> Stream:
        """The answer as it arrives, however long it is silent, unless it can be asked for again;
        raises as `exchange` does."""
        connection, response = self._open(request, token)
        if (
            connection.sock is not None and not request.ranged
        ):  # None: the server closes after this answer
            connection.sock.settimeout(None)
        return Stream(connection, response)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _open(self, request: Request, token: str) -> tuple[HTTPConnection, HTTPResponse]:
        headers = request.headers(token)
        connection = self._kept() or self._connect()
        try:
            # A server may refuse an upload before it has read all of it: hear its answer.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._send(connection, request, headers)
            return connection, connection.getresponse()
        except (OSError, HTTPException) as broken:
            connection.close()
            raise Cut(_reason(broken)) from broken

    def _send(self, connection: HTTPConnection, request: Request, headers: dict[str, str]) -> None:
        url = self._prefix + request.path
        if isinstance(request.body, Path):
            with request.body.open("rb") as file:
                body = file if request.told is None else _Counted(file, request.told)
                connection.request(request.method, url, body=body, headers=headers)
        else:
            connection.request(request.method, url, body=request.body, headers=headers)

    def _kept(self) -> HTTPConnection | None:
        """A connection that the server has not closed meanwhile."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took the last one
                return None
            if connection.sock is not None and not _readable(connection.sock):
                return connection
            connection.close()
        return None

    def _connect(self) -> HTTPConnection:
        connection = (
            HTTPSConnection(
                self._host,
                self._port,
                timeout=CONNECT_TIMEOUT_S,
                blocksize=CHUNK_BYTES,
                context=self._tls,
            )
            if self._tls is not None
            else HTTPConnection(
                self._host, self._port, timeout=CONNECT_TIMEOUT_S, blocksize=CHUNK_BYTES
            )
        )
        try:
            connection.connect()
        except (OSError, HTTPException) as failure:
            connection.close()
            raise NotReached(_reason(failure)) from failure
        connection.sock.settimeout(self._timeout_s)
        for option in keepalive_options():
            with contextlib.suppress(OSError):
                connection.sock.setsockopt(*option)
        return connection


class _Counted:
    """A file that says how much of it was read."""

    def __init__(self, file: BinaryIO, told: Told) -> None:
        self._file = file
        self._told = told
        self._done = 0

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        self._told(self._done)  # of what was read before, which is sent by now
        data = self._file.read(size)
        self._done += len(data)
        return data


def keepalive_options() -> list[tuple[int, int, int]]:
    """So that a stream whose peer vanished without a word ends."""
    return [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    ]


def _readable(sock: socket.socket) -> bool:
    """On an idle connection: closed by the server, or broken."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def system_words(failure: OSError) -> str:
    """The operating system's own words, whoever raised it: "connection refused"."""
    if failure.errno is not None and failure.errno > 0:
        return os.strerror(failure.errno).lower()
    return (failure.strerror or str(failure) or type(failure).__name__).lower()


def _reason(failure: BaseException) -> str:
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    if isinstance(failure, OSError):
        return system_words(failure)
    if isinstance(failure, BadStatusLine) and not isinstance(failure, RemoteDisconnected):
        return "its answer is not HTTP"
    return str(failure) or type(failure).__name__
