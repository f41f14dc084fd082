"""An endpoint that is called 1,000 times a second while its versions change, on a real platform.

    python -m benchmarks.rollouts [--rate 1000] [--connections 64]

Every request has its time, whether those before it were answered or not. A request that is not
answered 200 has failed; so has one whose connection ends without an answer. Also how long after the
API has accepted a change of an endpoint the gateway goes by it. Prints one JSON object.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leptonai.client import LeptonClient
from leptonai.spec.rollouts import RolloutState
from leptonai.testing.platform import RunningPlatform, eventually

CHANGES = 30  # of a route
DECIDED_S = 120
SERVER = """
import os
from leptonai.photon import Photon

class NoOp(Photon):
    @Photon.handler("", method="GET")
    async def version(self) -> str:
        return os.environ["VERSION"]

NoOp().launch()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=1_000, help="requests a second")
    parser.add_argument("--connections", type=int, default=64)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        RunningPlatform(Path(folder) / "home") as platform,
    ):
        print(json.dumps(measure(platform, Path(folder), given.rate, given.connections), indent=1))


def measure(platform: RunningPlatform, folder: Path, rate: int, connections: int) -> dict[str, Any]:
    source = folder / "source"
    source.mkdir()
    (source / "server.py").write_text(SERVER)
    options = ("--public", "--workdir", str(source), "--replicas", "2", "-e", "VERSION=1", "--wait")
    command = ("--", sys.executable, "server.py")
    created = platform.cli("endpoint", "create", "-n", "web", *options, *command)
    url = created.stdout.strip()
    client = platform.client()
    figures: dict[str, Any] = {"rate": rate, "connections": connections}
    figures |= route_change(client, platform.state.gateway_url)
    canary = ("--canary", "25%,50%", "--step-seconds", "2")
    long = ("--canary", "50%", "--step-seconds", "600")
    for name, update, wanted, serves in (
        ("rolling", (), RolloutState.PROMOTED, "rolling"),
        ("canary", canary, RolloutState.PROMOTED, "canary"),
        ("rollback", long, RolloutState.ROLLED_BACK, "canary"),
    ):
        with load(url, rate, connections) as answers:
            time.sleep(1)
            platform.cli("endpoint", "update", "web", "-e", f"VERSION={name}", *update)
            if name == "rollback":
                eventually(
                    lambda: client.endpoints.rollout("web").percent,
                    lambda percent: percent == 50,
                    within_s=DECIDED_S,
                )
                time.sleep(2)
                platform.cli("endpoint", "rollout", "rollback", "web")
            found = eventually(
                lambda: client.endpoints.rollout("web").state,
                lambda state: state is not RolloutState.PROGRESSING,
                within_s=DECIDED_S,
            )
            client.endpoints.wait_ready("web", DECIDED_S)
            assert found is wanted, found
            time.sleep(1)
            with urllib.request.urlopen(f"{url}/", timeout=30) as answer:
                assert json.load(answer) == serves, (name, serves)
        figures[name] = answers
    return figures


def route_change(client: LeptonClient, gateway_url: str) -> dict[str, float]:
    """From the API's answer to a change of an endpoint's hosts until the gateway answers for it."""
    host, port = re.fullmatch(r"http://([^:]+):(\d+).*", gateway_url).groups()  # type: ignore[union-attr]
    times_ms = []

    async def until_answered(name: str) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while True:
            writer.write(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            if b" 200 " in head:
                break
        writer.close()

    for number in range(CHANGES):
        name = f"change-{number}.example.org"
        endpoint = client.endpoints.get("web")
        assert endpoint.metadata.name == "web"
        client.endpoints.update("web", {"spec": {"gateway": {"domains": [name]}}})
        began = time.perf_counter()
        asyncio.run(until_answered(name))
        times_ms.append(1000 * (time.perf_counter() - began))
        time.sleep(0.2)
    times_ms.sort()
    return {
        "route_change_ms_p50": round(statistics.median(times_ms), 1),
        "route_change_ms_max": round(times_ms[-1], 1),
    }


@contextlib.contextmanager
def load(url: str, rate: int, connections: int) -> Iterator[dict[str, Any]]:
    """Called from a process of its own; what it found is there at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.rollouts", "load", url, str(rate), str(connections)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    found: dict[str, Any] = {}
    try:
        yield found
        printed, _ = process.communicate(b"", timeout=60)  # the end of its input ends it
        found |= json.loads(printed)
    finally:
        process.kill()
        process.wait()


class Load:
    def __init__(self, url: str, rate: int) -> None:
        match = re.fullmatch(r"http://([^:/]+):(\d+)(/.*?)/?", url)
        assert match, url
        self._host, self._port, path = match[1], int(match[2]), match[3]
        self._request = f"GET {path}/ HTTP/1.1\r\nHost: {match[1]}:{match[2]}\r\n\r\n".encode()
        self._rate = rate
        self._numbers = itertools.count()
        self._began = time.perf_counter()
        self.over = False
        self.answers: Counter[str] = Counter()
        self.late_ms: list[float] = []

    async def caller(self) -> None:
        """Takes the next request that is due, and waits for its time."""
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.over:
            due = self._began + next(self._numbers) / self._rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            try:
                if connection is None:
                    connection = await asyncio.open_connection(self._host, self._port)
                reader, writer = connection
                writer.write(self._request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            except (OSError, asyncio.IncompleteReadError) as error:
                self.answers[type(error).__name__] += 1
                connection = None
                continue
            self.answers[head.split(b" ")[1].decode()] += 1
            self.late_ms.append(1000 * (time.perf_counter() - due))
            if b"connection: close" in head:
                writer.close()
                connection = None


async def generate(url: str, rate: int, connections: int) -> None:
    load = Load(url, rate)
    callers = [asyncio.create_task(load.caller()) for _ in range(connections)]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    load.over = True
    await asyncio.gather(*callers)
    ordered = sorted(load.late_ms)
    good = load.answers.pop("200", 0)
    print(
        json.dumps(
            {
                "answered": good,
                "failed": sum(load.answers.values()),
                "how": dict(load.answers),
                "p50_ms": round(ordered[len(ordered) // 2], 1),
                "p99_ms": round(ordered[int(len(ordered) * 0.99)], 1),
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        asyncio.run(generate(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        main()
