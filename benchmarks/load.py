"""Load for an HTTP server: so many connections, each asking again as soon as it is answered.

It comes from `wrk` if it is on the PATH, else from a small generator in a process of its own, which
is this file run with the number of connections and of seconds, and the request on its input.
"""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Request(NamedTuple):
    """What is asked again and again: GET, or POST where there is a body."""

    url: str
    headers: Mapping[str, str]
    body: str = ""

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"


class Answered(NamedTuple):
    requests: int
    per_second: int
    p50_ms: float
    p99_ms: float


def generator(builtin: bool) -> str:
    """The name of what makes the load."""
    return "builtin" if builtin or not shutil.which("wrk") else "wrk"


def load(request: Request, connections: int, seconds: float, *, by: str) -> Answered:
    make = _wrk if by == "wrk" else _builtin
    return make(request, connections, seconds)


def _wrk(request: Request, connections: int, seconds: float) -> Answered:
    headers = [
        part for name, value in request.headers.items() for part in ("-H", f"{name}: {value}")
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        if request.body:
            script.write(f'wrk.method = "{request.method}"\nwrk.body = [==[{request.body}]==]\n')
            script.flush()
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{connections}", "--latency", *headers, "-s", script.name),
                *(f"-d{max(1, round(seconds))}s", request.url),  # it takes no fractions
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    said = done.stdout
    assert "Non-2xx" not in said and "Socket errors" not in said, said

    def found(pattern: str) -> str:
        match = re.search(pattern, said, re.MULTILINE)
        assert match, said
        return match[1]

    return Answered(
        requests=int(found(r"(\d+) requests in")),
        per_second=round(float(found(r"Requests/sec:\s+([\d.]+)"))),
        p50_ms=_wrk_ms(found(r"^\s+50%\s+(\S+)")),
        p99_ms=_wrk_ms(found(r"^\s+99%\s+(\S+)")),
    )


def _wrk_ms(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s)", text)
    assert match, text
    return round(float(match[1]) * {"us": 0.001, "ms": 1, "s": 1000}[match[2]], 3)


def _builtin(request: Request, connections: int, seconds: float) -> Answered:
    done = subprocess.run(
        [sys.executable, __file__, str(connections), str(seconds)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    return Answered(*json.loads(done.stdout))


class _Caller(asyncio.Protocol):
    def __init__(self, request: bytes, latencies_s: list[float]) -> None:
        self._request = request
        self._latencies_s = latencies_s
        self._missing = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            head, _, rest = data.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert b" 200 " in head and length, data
            self._missing = int(length[1]) - len(rest)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._latencies_s.append(time.perf_counter() - self._asked_s)
            self._ask()

    def _ask(self) -> None:
        self._asked_s = time.perf_counter()
        self._transport.write(self._request)


async def _generate(request: Request, connections: int, seconds: float) -> Answered:
    url = urlsplit(request.url)
    headers = {"host": url.netloc, **request.headers}
    if request.body:
        headers["content-length"] = str(len(request.body.encode()))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    sent = f"{request.method} {url.path} HTTP/1.1\r\n{head}\r\n{request.body}".encode()
    latencies_s: list[float] = []
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: _Caller(sent, latencies_s), url.hostname, url.port)
    await asyncio.sleep(seconds)
    took_s = time.perf_counter() - began
    ordered = sorted(latencies_s)
    return Answered(
        requests=len(ordered),
        per_second=round(len(ordered) / took_s),
        p50_ms=round(1000 * ordered[len(ordered) // 2], 3),
        p99_ms=round(1000 * ordered[int(len(ordered) * 0.99)], 3),
    )


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        asked = Request(*json.load(sys.stdin))
        print(json.dumps(runner.run(_generate(asked, int(sys.argv[1]), float(sys.argv[2])))))
