"""A gateway as a real process, between a control plane and replicas that the test writes."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from leptonai.core.ingress import Host
from leptonai.core.routing import Route, RouteTable, Upstream
from leptonai.core.traffic import TrafficReport
from leptonai.home import Home
from leptonai.main.envoy_process import EnvoyProcess, end_envoy

PATIENCE_S = 60  # how long a test waits for what must come
WORKSPACE_TOKEN = "workspace-secret"
OTHER_WORKSPACE_TOKEN = "other-secret"
ENDPOINT_TOKEN = "endpoint-secret"
GATEWAY_TOKEN = "gateway-secret"

RUN = """
import json, sys
from pathlib import Path
from leptonai.gateway import Config, Limits, server
from leptonai.gateway.__main__ import run
from leptonai.otlp import Collector
server.LAST_SPANS_S = 60.0  # a busy machine is no reason to lose some
given = json.loads(sys.argv[1])
home, token_file = Path(given.pop("home")), Path(given.pop("token_file"))
limits = Limits(**given.pop("limits"))
collector = given.pop("collector")
collector = Collector(**collector) if collector else None
run(Config(home=home, token_file=token_file, limits=limits, collector=collector, **given))
"""


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


# --- the two ends ---------------------------------------------------------------------------------


class Wire:
    """One end of a connection, for reading messages byte by byte."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        self.sock = sock
        self.buffer = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self._more()
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._more()
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def read_to_end(self) -> bytes:
        with suppress(EOFError, ConnectionResetError):
            while True:
                self._more()
        found, self.buffer = self.buffer, b""
        return found

    def at_end(self) -> bool:
        """Whether the other side has closed, or does soon, without another byte."""
        return self.read_to_end() == b""

    def read_head(self) -> tuple[str, dict[str, str]]:
        first, *lines = self.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, line
            headers[name.lower()] = value
        return first, headers

    def read_body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return self.read(int(headers["content-length"]))
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while piece := self.read_chunk():
                body += piece
        return body

    def read_chunk(self) -> bytes:
        data = self.read(int(self.read_until(b"\r\n"), 16))
        assert self.read(2) == b"\r\n"
        return data

    def _more(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise EOFError(self.buffer)
        self.buffer += data

    def close(self) -> None:
        self.sock.close()


class Request:
    def __init__(self, line: str, headers: dict[str, str], body: bytes) -> None:
        self.line = line
        self.headers = headers
        self.body = body


def ok(body: bytes = b"ok", *more: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *more]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def answer_ok(wire: Wire, request: Request) -> None:
    wire.send(ok())


def echo(wire: Wire, request: Request) -> None:
    wire.send(ok(request.body))


class Replica:
    """A server whose every byte the test decides, on a port of its own."""

    def __init__(
        self,
        answer: Callable[[Wire, Request], None] = answer_ok,
        *,
        connection: Callable[[Wire], None] | None = None,
    ) -> None:
        self._answer = answer
        self._connection = connection or self._speak_http
        self.requests: list[Request] = []
        self.connections = 0
        self._wires: list[Wire] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                wire = Wire(sock)
                self._wires.append(wire)
                threading.Thread(target=self._run, args=(wire,), daemon=True).start()

    def _run(self, wire: Wire) -> None:
        with suppress(EOFError, OSError):
            self._connection(wire)
        wire.close()

    def _speak_http(self, wire: Wire) -> None:
        while True:
            line, headers = wire.read_head()
            request = Request(line, headers, wire.read_body(headers))
            self.requests.append(request)
            self._answer(wire, request)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for wire in self._wires:
            with suppress(OSError):
                wire.sock.shutdown(socket.SHUT_RDWR)
            wire.close()

    def upstream(self, name: str = "r1", version: str = "7") -> Upstream:
        return Upstream(replica=name, host="127.0.0.1", port=self.port, version=version)


class ControlPlane:
    """Holds the poll of a gateway until it has a table that the gateway has not."""

    def __init__(self) -> None:
        self.table = RouteTable(seq=0, routes=(), workspace_token_sha256={})
        self.asked_after: list[int] = []
        self.tokens: set[str] = set()
        self.reports: list[TrafficReport] = []
        self.hold_s = 5.0  # that a poll is held when there is nothing new
        self._changed = threading.Condition()
        self._replica = Replica(self._answer)
        self.url = f"http://127.0.0.1:{self._replica.port}"

    def publish(self, table: RouteTable) -> None:
        with self._changed:
            self.table = table
            self._changed.notify_all()

    def _answer(self, wire: Wire, request: Request) -> None:
        if request.line == "POST /internal/traffic HTTP/1.1":
            self.reports.append(msgspec.json.decode(request.body, type=TrafficReport))
            wire.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        found = re.fullmatch(r"GET /internal/routes\?after=(-?\d+) HTTP/1.1", request.line)
        assert found is not None, request.line
        after = int(found[1])
        self.tokens.add(request.headers["authorization"])
        self.asked_after.append(after)
        with self._changed:
            newer = self._changed.wait_for(lambda: self.table.seq > after, timeout=self.hold_s)
            body = msgspec.json.encode(self.table)
        if newer:
            wire.send(ok(body))
        else:
            wire.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    def close(self) -> None:
        self._replica.close()


# --- the gateway between them ---------------------------------------------------------------------


class Gateway:
    def __init__(self, home: Path, control_url: str, **limits: Any) -> None:
        self.home = home
        self.log = home / "gateway.log"
        token_file = home / "gateway-token"
        token_file.write_text(GATEWAY_TOKEN)
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = listener.getsockname()[1]
        given = {
            "home": str(home),
            "control_url": control_url,
            "token_file": str(token_file),
            "fd": listener.fileno(),
            "access_log": bool(limits.pop("access_log", False)),
            "collector": limits.pop("collector", None),
            "behind_envoy": (front := bool(limits.pop("envoy", False))),
            "limits": limits,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, json.dumps(given)],
                pass_fds=[listener.fileno()],
                stderr=log,
            )
        listener.close()
        self.envoy: EnvoyProcess | None = None
        if front:
            self.envoy = EnvoyProcess(Home(home), host="127.0.0.1", port=0)
            (home / "logs").mkdir(exist_ok=True)
            self.envoy.start()
            self.port = self.envoy.port

    def connect(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S))

    @contextmanager
    def client(self) -> Iterator[Wire]:
        wire = self.connect()
        try:
            yield wire
        finally:
            wire.close()

    def ask(
        self, path: str, token: str | None = WORKSPACE_TOKEN, *lines: str, method: str = "GET"
    ) -> tuple[int, dict[str, str], bytes]:
        with self.client() as wire:
            wire.send(a_request(path, token, *lines, method=method))
            return read_answer(wire)

    def wait_for_seq(self, seq: int) -> None:
        def seen() -> bool:
            status, _, body = self.ask("/metrics")
            return status == 200 and f"route_table_seq {seq}\n".encode() in body

        eventually(seen)
        if self.envoy is not None:
            known = f"envoy_table_seq {seq}\n".encode()
            eventually(lambda: known in self.ask("/metrics")[2])

    def envoy_says(self, path: str) -> Any:
        """What Envoy answers on its own socket."""
        folder = os.open(self.home / "gateway" / "envoy", os.O_PATH | os.O_DIRECTORY)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(f"/proc/self/fd/{folder}/admin.sock")
            wire = Wire(sock)
            wire.send(a_request(path, None))
            return json.loads(read_answer(wire)[2])
        finally:
            os.close(folder)
            sock.close()

    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def close(self) -> None:
        if self.envoy is not None:
            self.envoy.let_go()
            end_envoy(Home(self.home))
        self.process.kill()
        self.process.wait()


def a_request(
    path: str,
    token: str | None = WORKSPACE_TOKEN,
    *lines: str,
    method: str = "GET",
    body: bytes = b"",
) -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: gateway.test", *lines]
    if token is not None:
        head.append(f"Authorization: Bearer {token}")
    if body:
        head.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def read_answer(wire: Wire) -> tuple[int, dict[str, str], bytes]:
    line, headers = wire.read_head()
    return int(line.split(" ")[1]), headers, wire.read_body(headers)


def eventually(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.01)


def waiting(cloud: "Cloud") -> int:
    """How many requests of the test's endpoint are held."""
    name = rb'lepton_gateway_waiting{workspace="default",endpoint="e"} (\d+)\n'
    found = re.search(name, cloud.gateway.ask("/metrics")[2])
    assert found is not None
    return int(found[1])


class Cloud:
    """A control plane, its gateway, and the replicas of the test that runs."""

    def __init__(self, home: Path, **limits: Any) -> None:
        self.control_plane = ControlPlane()
        self.gateway = Gateway(home, self.control_plane.url, **limits)
        self.replicas: list[Replica] = []
        self.seq = 0
        self.routes: dict[str, Route] = {}
        self.hosts: tuple[Host, ...] = ()
        self.limits = limits
        self.publish()

    def publish(self, *routes: Route) -> None:
        """Send a table with these routes changed or added, and wait until it is served."""
        self.routes |= {route.name: route for route in routes}
        self.seq += 1
        self.control_plane.publish(self.table())
        self.gateway.wait_for_seq(self.seq)

    def table(self) -> RouteTable:
        return RouteTable(
            seq=self.seq,
            routes=tuple(self.routes.values()),
            workspace_token_sha256={
                "default": (sha256(WORKSPACE_TOKEN),),
                "other": (sha256(OTHER_WORKSPACE_TOKEN),),
            },
            hosts=self.hosts,
        )

    def replica(
        self,
        answer: Callable[[Wire, Request], None] = answer_ok,
        *,
        connection: Callable[[Wire], None] | None = None,
    ) -> Replica:
        replica = Replica(answer, connection=connection)
        self.replicas.append(replica)
        return replica

    def endpoint(self, *replicas: Replica, **fields: object) -> None:
        """Have an endpoint "e" with these replicas, and nothing else."""
        self.routes.clear()
        upstreams = tuple(each.upstream(f"r{n}") for n, each in enumerate(replicas, start=1))
        self.publish(a_route("e", upstreams=upstreams, **fields))

    def end_test(self) -> None:
        for replica in self.replicas:
            replica.close()
        self.replicas.clear()

    def close(self) -> None:
        self.end_test()
        self.gateway.close()
        self.control_plane.close()


def a_route(name: str, **fields: object) -> Route:
    return msgspec.convert(
        {"workspace": "default", "name": name, "expecting": True, **fields}, Route
    )


@pytest.fixture(scope="module")
def shared_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path_factory.mktemp("gateway"))
    yield cloud
    assert cloud.gateway.process.poll() is None, cloud.gateway.log.read_text()
    log = cloud.gateway.log.read_text()
    cloud.close()
    assert "Traceback" not in log, log


@pytest.fixture
def cloud(shared_cloud: Cloud) -> Iterator[Cloud]:
    yield shared_cloud
    shared_cloud.end_test()


@pytest.fixture
def own_cloud(tmp_path: Path) -> Iterator[Callable[..., Cloud]]:
    """A cloud for one test, with its own limits."""
    made: list[Cloud] = []

    def make(**limits: Any) -> Cloud:
        made.append(Cloud(tmp_path, **limits))
        return made[-1]

    yield make
    for cloud in made:
        log = cloud.gateway.log.read_text()
        cloud.close()
        assert "Traceback" not in log, log
