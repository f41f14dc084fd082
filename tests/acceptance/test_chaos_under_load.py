"""Everything that runs gets `kill -9` in random order, under load, and no request that may be
repeated fails.

Control plane, gateway, replicas and their template are killed one after the other, without a wait
until what was killed before is back. LEPTON_CHAOS_S=300 makes it a drill of minutes;
LEPTON_CHAOS_SEED repeats an order.

Who is connected to a gateway that is killed sees its connection break, whatever anybody does, and
asks again, as HTTP clients do of such requests. Nothing else may break off a connection, nor refuse
one: that has failed.
"""

import asyncio
import itertools
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from leptonai.testing.platform import RunningPlatform, eventually

SECONDS = float(os.environ.get("LEPTON_CHAOS_S", "20"))
SEED = int(os.environ.get("LEPTON_CHAOS_SEED", time.time_ns() % 10_000))
CLIENTS = 8
PAUSE_S = (0.2, 2.0)  # between two kills
ANSWER_S = 120.0  # what is held for a replica may take

PHOTON = """
import os
from leptonai.photon import Photon

class Echo(Photon):
    def init(self):
        self.loaded_by = os.getpid()

    @Photon.handler(method="GET")
    def who(self) -> int:
        return os.getpid()

    @Photon.handler
    def echo(self, text: str) -> int:
        return os.getpid()
"""


class Load:
    """Clients that ask again as soon as they are answered, and obey `Connection: close`."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self.host, self.port = where.hostname, where.port
        body = b'{"text": "' + b"x" * 500 + b'"}'
        start = b"%b " + where.path.encode() + b"/%b HTTP/1.1\r\nHost: drill\r\n"
        self.requests = (
            start % (b"GET", b"who") + b"\r\n",
            start % (b"POST", b"echo")
            + b"Idempotency-Key: %d\r\nContent-Type: application/json\r\n" % SEED
            + b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
        )
        self.answers: Counter[str] = Counter()
        self.wrong: list[bytes] = []
        self.pids: set[int] = set()
        self.slowest_s = 0.0
        self.gateways_killed = 0
        self.over = False

    async def client(self, number: int) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        killed = 0  # gateways, before it was opened
        for turn in itertools.count(number):
            if self.over:
                break
            began = time.monotonic()
            answer = b""
            while not answer:
                try:
                    async with asyncio.timeout(ANSWER_S):
                        if connection is None:
                            killed = self.gateways_killed
                            connection = await asyncio.open_connection(self.host, self.port)
                        answer = await self._ask(*connection, self.requests[turn % 2])
                except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                    if connection is not None:
                        connection[1].close()
                    connection = None
                    if killed == self.gateways_killed:
                        self.answers["failed"] += 1
                        self.wrong.append(f"{time.monotonic():.2f} {error!r}".encode())
                        break
                    self.answers["broken"] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            if connection is not None and b"connection: close" in answer.lower():
                connection[1].close()
                connection = None
        if connection is not None:
            connection[1].close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> bytes:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = await reader.readexactly(int(length))
        status = head.split(b" ")[1].decode()
        self.answers[status] += 1
        if status == "200":
            self.pids.add(int(body))
        else:
            self.wrong.append(head + body)
        return head


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class Drill:
    def __init__(self, platform: RunningPlatform, load: Load) -> None:
        self.platform, self.load = platform, load
        self.killed: Counter[str] = Counter()
        self.told: list[str] = []  # when what was killed
        self.random = random.Random(SEED)

    def round(self) -> list[Callable[[], None]]:
        """Something of everything, in some order."""
        kills = [self.control_plane, self.gateway, self.replica, self.replica, self.template]
        self.random.shuffle(kills)
        return kills

    def control_plane(self) -> None:
        self.platform.kill()
        self.platform.up()
        self.killed["control plane"] += 1

    def gateway(self) -> None:
        running = self._running("leptonai.gateway")
        self.load.gateways_killed += len(running)  # before a caller can notice
        self.killed["gateway"] += sum(kill(pid) for pid in running)

    def replica(self) -> None:
        there, self.load.pids = sorted(self.load.pids), set()
        self.killed["replica"] += bool(there) and kill(self.random.choice(there))

    def template(self) -> None:
        templates = self._running("leptonai.serving.template")
        self.killed["template"] += sum(kill(pid) for pid in templates)

    def _running(self, module: str) -> list[int]:
        """Processes of this platform that run this module; templates without the copies of them."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environ = (process / "environ").read_bytes()
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            ours = os.fsencode(self.platform.home.path) in environ + b" ".join(words)
            is_copy = re.search(rb"LEPTON_ATTEMPT_MARK=[^\0]*/echo-", environ) is not None
            if ours and words[1:3] == [b"-m", module.encode()] and not is_copy:
                found.append(int(process.name))
        return sorted(found)


async def under_load(drill: Drill, load: Load) -> None:
    clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        for kill_one in drill.round():
            await asyncio.sleep(drill.random.uniform(*PAUSE_S))
            drill.told.append(f"{time.monotonic():.2f} {kill_one.__name__}")
            await asyncio.to_thread(kill_one)
    answered = load.answers["200"]
    while load.answers["200"] < answered + 100:  # what was killed last came back, too
        await asyncio.sleep(0.05)
    load.over = True
    await asyncio.gather(*clients)


@pytest.mark.slow
def test_whatever_is_killed_no_request_that_may_be_repeated_fails(tmp_path: Path) -> None:
    file = tmp_path / "echo.py"
    file.write_text(PHOTON)
    with RunningPlatform(tmp_path / "home") as platform:
        platform.cli("photon", "create", "-n", "echo", "-m", f"{file}:Echo")
        platform.cli("photon", "push", "-n", "echo")
        created = platform.cli(
            *("endpoint", "create", "-n", "echo", "--photon", "echo@1", "--public", "--wait"),
            *("--min-replicas", "3", "--scale-to-zero-after", "3600s"),
        )
        events = lambda: platform.answer("endpoint", "events", "echo", "-o", "json")  # noqa: E731
        eventually(lambda: "WarmStartsOn" in {each["reason"] for each in events()})
        load = Load(created.stdout.strip())
        drill = Drill(platform, load)
        asyncio.run(asyncio.wait_for(under_load(drill, load), SECONDS + 300))
        told = f"seed {SEED}: killed {dict(drill.killed)}, answered {dict(load.answers)}, slowest "
        print(f"{told}{load.slowest_s:.1f} s")
        assert min(drill.killed.values()) > 0, told
        if load.wrong:
            print(*load.wrong[:20], *drill.told, sep="\n")
        assert load.answers.keys() <= {"200", "broken"}, told
