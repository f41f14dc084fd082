"""What the gateway's hop costs: the same server, asked directly and through the gateway.

    python -m benchmarks.gateway [--seconds 5] [--connections 64] [--routes 1000] [--idle 10000]
                                 [--server tiny|asgi|photon]

The server is the least that can answer, a bare ASGI application on uvicorn, or a photon's handler
that does nothing. --idle also measures the memory of so many idle connections.

Prints one JSON object. CPU holds on a busy machine too, where requests a second do not.
"""

import argparse
import asyncio
import hashlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.load import Request, generator, load
from benchmarks.processes import cpu_s, pss_mb

TOKEN = "benchmark-token"
ALLOWED = {"authorization": f"Bearer {TOKEN}"}
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nok\n"
HARD_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--routes", type=int, default=1, help="in the table; one of them is used")
    parser.add_argument("--server", choices=("tiny", "asgi", "photon"), default="tiny")
    parser.add_argument("--idle", type=int, default=0, help="connections to hold open at the end")
    parser.add_argument("--builtin-load", action="store_true", help="even where wrk is installed")
    given = parser.parse_args()
    by = generator(given.builtin_load)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        server_socket, gateway_socket = listening(), listening()
        server_port = server_socket.getsockname()[1]
        gateway_port = gateway_socket.getsockname()[1]
        write_table(home, server_port, given.routes)
        serve = ("benchmarks.gateway", f"serve-{given.server}", str(server_socket.fileno()))
        server = start(serve, server_socket)
        started_at = time.monotonic()
        gateway = start(
            (
                *("leptonai.gateway", "--home", folder, "--control-url", "http://127.0.0.1:9"),
                *("--token-file", str(home / "token"), "--fd", str(gateway_socket.fileno())),
            ),
            gateway_socket,
        )
        processes = {"server": server, "gateway": gateway}
        try:
            requests = {
                "direct": Request(f"http://127.0.0.1:{server_port}/", ALLOWED),
                "gateway": Request(f"http://127.0.0.1:{gateway_port}/e/default/echo0/", ALLOWED),
            }
            first = ask(gateway_port, "/e/default/echo0/")
            ready_s = time.monotonic() - started_at
            assert b" 200 " in first, first
            results = {
                "load": by,
                "connections": given.connections,
                "routes": given.routes,
                "gateway_start_to_first_answer_s": round(ready_s, 3),
                "gateway_idle_pss_mb": memory_mb(gateway),
            }
            for name, request in requests.items():
                load(request, given.connections, 0.5, by=by)  # warm
                results[name] = measure(request, given.connections, given.seconds, by, processes)
            results["one_connection"] = {
                name: measure(request, 1, max(1.0, given.seconds / 3), by, processes)
                for name, request in requests.items()
            }
            results["gateway_loaded_pss_mb"] = memory_mb(gateway)
            results["of_direct"] = round(
                results["gateway"]["per_second"] / results["direct"]["per_second"], 3
            )
            if given.idle:
                results["gateway_idle_connections_pss_mb"] = idle(gateway, gateway_port, given.idle)
        finally:
            for process in processes.values():
                process.terminate()
                process.wait()
    print(json.dumps(results, indent=2))


def idle(gateway: subprocess.Popen, port: int, count: int) -> float:
    """Megabytes of a gateway with so many connections that have each been answered once."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, max(count + 100, HARD_FILES)))
    request = (
        f"GET /e/default/echo0/ HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
    ).encode()
    opened = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(request)
        assert b" 200 " in connection.recv(4096)
        opened.append(connection)
    took = memory_mb(gateway)
    for connection in opened:
        connection.close()
    return took


def memory_mb(process: subprocess.Popen) -> float:
    return round(pss_mb(process.pid), 1)


def measure(request, connections, seconds, by, processes):
    before = {name: cpu_s(process.pid) for name, process in processes.items()}
    figures = load(request, connections, seconds, by=by)._asdict()
    for name, process in processes.items():
        spent = cpu_s(process.pid) - before[name]
        figures[f"{name}_cpu_us_per_request"] = round(1e6 * spent / figures["requests"], 1)
    return figures


class TinyServer(asyncio.Protocol):
    """The least that an HTTP server can do: one write for each head that came."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(ANSWER * data.count(b"\r\n\r\n"))


async def bare_asgi(scope, receive, send):
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"3")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok\n"})


def no_op():
    from leptonai.photon import Photon
    from leptonai.serving.app import App

    class NoOp(Photon):
        @Photon.handler("", method="GET")
        async def nothing(self) -> int:
            return 1

    return App(NoOp())


async def serve_on_uvicorn(app, fd: int, http="httptools") -> None:
    import uvicorn

    config = uvicorn.Config(app, http=http, log_level="critical", access_log=False)
    await uvicorn.Server(config).serve([socket.socket(fileno=fd)])


async def serve_tiny(fd: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        TinyServer, sock=socket.socket(fileno=fd)
    )
    await server.serve_forever()


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.set_inheritable(True)
    return listener


def start(module, inherited: socket.socket) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        pass_fds=[inherited.fileno()],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stderr=subprocess.DEVNULL,
    )
    inherited.close()
    return process


def write_table(home: Path, port: int, routes: int) -> None:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    upstream = {"replica": "r1", "host": "127.0.0.1", "port": port}
    (home / "token").write_text("unused")
    (home / "gateway").mkdir()
    (home / "gateway" / "routes.json").write_text(
        json.dumps(
            {
                "seq": 1,
                "routes": [
                    {"workspace": "default", "name": f"echo{n}", "upstreams": [upstream]}
                    for n in range(routes)
                ],
                "workspace_token_sha256": {"default": [digest]},
            }
        )
    )


def ask(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        s.sendall(
            f"GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        return s.recv(65536)


def run(coroutine) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve-tiny"]:
        run(serve_tiny(int(sys.argv[2])))
    elif sys.argv[1:2] == ["serve-asgi"]:
        run(serve_on_uvicorn(bare_asgi, int(sys.argv[2])))
    elif sys.argv[1:2] == ["serve-photon"]:
        from leptonai.serving.connection import Connections

        app = no_op()
        run(serve_on_uvicorn(app, int(sys.argv[2]), Connections(app, keep_alive_s=60)))
    else:
        main()
