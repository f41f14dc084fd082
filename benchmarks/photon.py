"""CPU time of one request to a no-op Photon handler, beside a bare ASGI application.

Both are served by uvicorn with the same settings in a process of their own, and asked in turns over
kept-open connections, so that whatever else the machine does falls on both. Run it with::

    python benchmarks/photon.py
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time

CONNECTIONS = 16
REQUESTS = 4_000  # a round
ROUNDS = 5
START_TIMEOUT_S = 30

BODY = b'{"x":1}'
REQUEST = (
    b"POST /%s HTTP/1.1\r\nhost: photon\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%s"
)

BARE = """
import os, uvicorn

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"content-type", b"application/json"), (b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": b"1"})

uvicorn.run(app, host='127.0.0.1', port=int(os.environ["PORT"]), http="httptools",
            loop="uvloop", ws="none", lifespan="off", access_log=False, server_header=False,
            log_level="error")
"""

PHOTON = """
from leptonai.photon import Photon

class NoOp(Photon):
    @Photon.handler("async")
    async def on_the_loop(self, x: int) -> int:
        return x

    @Photon.handler("sync")
    def in_a_thread(self, x: int) -> int:
        return x

NoOp().launch()
"""


def main() -> None:
    targets = {
        "bare_cpu_us": (BARE, b"async"),
        "async_handler_cpu_us": (PHOTON, b"async"),
        "sync_handler_cpu_us": (PHOTON, b"sync"),
    }
    servers = [start(source) for source, _ in targets.values()]
    measured: dict[str, list[float]] = {name: [] for name in targets}
    try:
        for _ in range(ROUNDS):
            for (name, (_, path)), (process, port) in zip(targets.items(), servers, strict=True):
                measured[name].append(asyncio.run(cpu_us_per_request(process.pid, port, path)))
    finally:
        for process, _ in servers:
            process.kill()
            process.wait()
    print(json.dumps({name: statistics.median(samples) for name, samples in measured.items()}))


def start(source: str) -> "tuple[subprocess.Popen[bytes], int]":
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        env={**os.environ, "PORT": str(port)},
        stderr=subprocess.PIPE,
    )
    give_up = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > give_up:
                process.kill()
                _, printed = process.communicate()
                sys.exit(f"the server did not start: {printed.decode()}")
            time.sleep(0.02)
        else:
            return process, port


async def cpu_us_per_request(pid: int, port: int, path: bytes) -> float:
    request = REQUEST % (path, len(BODY), BODY)
    before = cpu_seconds(pid)
    each = REQUESTS // CONNECTIONS
    await asyncio.gather(*(ask(port, request, each) for _ in range(CONNECTIONS)))
    return 1e6 * (cpu_seconds(pid) - before) / (each * CONNECTIONS)


async def ask(port: int, request: bytes, times: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(times):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(1)
    writer.close()
    await writer.wait_closed()


def cpu_seconds(pid: int) -> float:
    """Of all threads of the process; the clock is what clock_getcpuclockid(3) gives."""
    return time.clock_gettime((~pid << 3) | 2)


if __name__ == "__main__":
    main()
