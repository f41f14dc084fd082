"""An endpoint that sleeps wakes as a copy of a process that has its model already."""

import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from leptonai.client import LeptonClient
from leptonai.testing.platform import RunningPlatform, eventually

# A copy may take half of what loading took. A busy machine may still be later, and then the replica
# loads for itself, as it should: so a copy gets more than one try.
PHOTON = """
import os
import time
from leptonai.photon import Photon

class Slow(Photon):
    def init(self):
        time.sleep(6)
        self.loaded_by = os.getpid()

    @Photon.handler(method="GET")
    def processes(self) -> list[int]:
        return [self.loaded_by, os.getpid()]
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with RunningPlatform(tmp_path_factory.mktemp("warm") / "home") as running:
        yield running


def processes(url: str) -> tuple[int, int]:
    """The one that loaded it, and the one that answers."""
    with urllib.request.urlopen(f"{url}/processes", timeout=60) as answer:
        loaded_by, own = answer.read().strip(b"[]").split(b",")
    return int(loaded_by), int(own)


def asleep(client: LeptonClient) -> bool:
    return len(client.endpoints.replicas("slow")) == 0


def loaded_by_in_wakings(url: str, client: LeptonClient, wanted: int) -> set[int]:
    """What loaded the replicas that woke, until it is the one that is wanted, or three did."""
    seen: set[int] = set()
    for _ in range(3):
        eventually(lambda: asleep(client))
        seen.add(processes(url)[0])
        if wanted in seen:
            break
    return seen


def told(platform: RunningPlatform) -> list[str]:
    events = platform.answer("endpoint", "events", "slow", "-o", "json")
    return [each["message"] for each in events if each["reason"] == "WarmStartsOn"]


def test_it_wakes_as_a_copy_whatever_happens_to_the_platform_meanwhile(
    platform: RunningPlatform, tmp_path: Path
) -> None:
    file = tmp_path / "slow.py"
    file.write_text(PHOTON)
    platform.cli("photon", "create", "-n", "slow", "-m", f"{file}:Slow")
    platform.cli("photon", "push", "-n", "slow")
    created = platform.cli(
        *("endpoint", "create", "-n", "slow", "--photon", "slow@1", "--public", "--wait"),
        *("--scale-to-zero-after", "1s"),
    )
    url = created.stdout.strip()
    (message,) = eventually(lambda: told(platform))
    assert message.startswith("further replicas start as copies of a loaded process, which takes")

    with platform.client() as client:
        (template,) = templates(platform)
        assert template in loaded_by_in_wakings(url, client, template), "it is a copy"

        eventually(lambda: asleep(client))
        platform.kill()
        platform.up()
        assert template in templates(platform), "the next control plane has the same one"
        assert template in loaded_by_in_wakings(url, client, template), "and uses it"

        eventually(lambda: asleep(client))
        os.kill(template, signal.SIGKILL)
        loaded_by, own = processes(url)
        assert loaded_by == own, "without a template it loads for itself"

    platform.cli("down")
    assert running(platform) == {}


def templates(platform: RunningPlatform) -> list[int]:
    """And what still ends of their copies."""
    command = ["-m", "leptonai.serving.template"]
    return [pid for pid, line in running(platform).items() if line.split("\0")[1:3] == command]


def running(platform: RunningPlatform) -> dict[int, str]:
    """What still runs in its home: command lines by their processes."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(platform.home.path) in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_text()
        except OSError:
            continue
    return found
