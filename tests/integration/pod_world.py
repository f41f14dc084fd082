"""A pod's own process without a platform around it: its key opens it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from leptonai.client.sessions import entered, run_session
from leptonai.spec.pods import STDERR, STDOUT, ExecControl, ExecRequest, PodPlan, PodReport, Window
from leptonai.testing.free_ports import a_free_port
from leptonai.testing.platform import eventually

KEY = "the-key-of-the-pod"
PATIENCE_S = 60.0


class RunningPod:
    def __init__(self, home: Path, plan: PodPlan, **variables: str) -> None:
        self.home = home
        self.ports = [a_free_port() for _ in range(1 + len(plan.ports))]
        self.url = f"http://127.0.0.1:{self.ports[0]}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "leptonai.pod", msgspec.json.encode(plan).decode()],
            cwd=home,
            env={
                **os.environ,
                "LEPTON_POD_KEY": KEY,
                "LEPTON_PORTS": ",".join(map(str, self.ports)),
                **variables,
            },
            stdout=log_of(home).open("wb"),
            stderr=subprocess.STDOUT,
        )
        eventually(self.listens)

    def listens(self) -> bool:
        assert self.process.poll() is None, log_of(self.home).read_text()
        return listens(self.ports[0])

    def report(self, query: str = "after=0") -> PodReport:
        with socket.create_connection(("127.0.0.1", self.ports[0])) as wire:
            head = f"GET /report?{query} HTTP/1.1\r\nHost: pod\r\nAuthorization: Bearer {KEY}"
            wire.sendall(f"{head}\r\n\r\n".encode())
            answer = b""
            while data := wire.recv(1 << 16):
                answer += data
        return msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=PodReport)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0, log_of(self.home).read_text()


@contextmanager
def a_pod(home: Path, plan: PodPlan | None = None, **variables: str) -> Iterator[RunningPod]:
    home.mkdir(exist_ok=True)
    pod = RunningPod(home, plan or PodPlan(ports=[2222, 18888, 18889]), **variables)
    try:
        yield pod
    finally:
        pod.close()
    log = log_of(home).read_text()
    assert "Traceback" not in log, log


def log_of(home: Path) -> Path:
    return home.with_suffix(".log")


class Said:
    """What a session wrote, and how it ended."""

    def __init__(self) -> None:
        self.out = self.err = b""
        self.code: int | None = None
        self.error = ""
        self._came = asyncio.Event()

    async def take(self, mark: bytes, data: bytes) -> None:
        if mark == STDERR:
            self.err += data
        else:
            assert mark == STDOUT
            self.out += data
        self._came.set()

    async def until(self, words: bytes, *, times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.out.count(words) < times:
                self._came.clear()
                await self._came.wait()


async def session(
    pod: RunningPod, *command: str, given: bytes = b"", window: Window | None = None
) -> Said:
    """A session from its first to its last byte."""
    said = Said()
    chunks = [given, b""] if given else [b""]

    async def read() -> bytes:
        return chunks.pop(0) if chunks else await asyncio.Event().wait() or b""

    request = ExecRequest(command=list(command), window=window)
    controls: asyncio.Queue[ExecControl] = asyncio.Queue()
    async with asyncio.timeout(PATIENCE_S), entered(pod.url, KEY, "/exec") as tunnel:
        ended = await run_session(tunnel, request, read=read, write=said.take, controls=controls)
    said.code, said.error = ended.code, ended.error
    return said


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
