"""An endpoint that sleeps wakes as a copy of a process that has its model already."""

import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from leptonai.client import LeptonClient
from leptonai.testing.platform import RunningPlatform, eventually

PHOTON = """
import os
from leptonai.photon import Photon

class Slow(Photon):
    def init(self):
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
        eventually(lambda: asleep(client))
        template, own = processes(url)
        assert template != own, "it is a copy"

        eventually(lambda: asleep(client))
        platform.kill()
        platform.up()
        eventually(lambda: asleep(client))
        assert processes(url)[0] == template, "the next control plane has the same template"

        eventually(lambda: asleep(client))
        os.kill(template, signal.SIGKILL)
        loaded_by, own = processes(url)
        assert loaded_by == own, "without a template it loads for itself"

    platform.cli("down")
    assert running(platform) == []


def running(platform: RunningPlatform) -> list[str]:
    """What still runs in its home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(platform.home.path) in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found
