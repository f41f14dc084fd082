"""The disk fills up, and space comes back: nothing that was acknowledged is lost."""

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from leptonai.errors import InvalidRequest, StorageFull
from leptonai.home import Home
from leptonai.spec.containers import Container
from leptonai.spec.jobs import JobSpec, LeptonJob
from leptonai.spec.metadata import Metadata
from leptonai.testing.platform import RunningPlatform, eventually

DISK_SIZE = "24m"
MAX_SUBMISSIONS = 2_000


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def a_job(number: int, *command: str, cpu: float | None = None) -> LeptonJob:
    container = Container(command=list(command))
    return LeptonJob(
        metadata=Metadata(id=f"job-{number}"), spec=JobSpec(container=container, cpu=cpu)
    )


def refused(client, ballast) -> StorageFull:
    """What a submission is told. The first ones may still find room that was set aside before."""
    with pytest.raises(StorageFull) as refusal:
        for number in range(MAX_SUBMISSIONS):
            client.jobs.create(a_job(number, "true"))
            fill(ballast)
    return refusal.value


def test_a_home_on_a_full_disk_wants_room_and_no_permission(small_disk):
    Home(small_disk).make()
    fill(small_disk / "ballast")
    with pytest.raises(InvalidRequest, match="No space left") as refused:
        Home(small_disk).make()
    assert refused.value.hint.startswith("make room on its disk")


@pytest.mark.parametrize("killed", [False, True], ids=["goes-on", "killed-meanwhile"])
def test_on_a_full_disk_submissions_are_refused_and_nothing_acknowledged_is_lost(
    small_disk, tmp_path, killed
):
    ballast = small_disk / "ballast"
    with RunningPlatform(small_disk / "home") as platform, platform.client(retry_for_s=0) as client:
        (group,) = client.nodes.groups()
        (node,) = client.nodes.nodes(group.metadata.id)
        cores = node.spec.resource.cpu.total
        hold = 'touch "$0/runs"; until [ -e "$0/go" ]; do sleep 0.05; done; exit 7'
        holder = client.jobs.create(
            a_job(0, "sh", "-c", hold, str(tmp_path), cpu=cores)
        ).metadata.id
        eventually((tmp_path / "runs").exists)
        eventually(lambda: client.jobs.get(holder).status.state, lambda seen: seen == "Running")
        queued = [client.jobs.create(a_job(1, "true", cpu=cores)).metadata.id for _ in range(5)]

        fill(ballast)
        refusal = refused(client, ballast)
        assert "is full; nothing was written" in refusal.message
        assert "free some space" in refusal.hint
        known = {job.metadata.id for job in client.jobs.list()}
        assert {holder, *queued} <= known, "reading goes on"
        (tmp_path / "go").touch()  # so it ends while nobody can write that down
        eventually(lambda: has_ended(small_disk / "home", holder))
        if killed:
            platform.kill()
            again = platform.cli("up", "-d", check=False)
            assert (again.returncode, len(again.stderr.splitlines())) == (1, 2), again.stderr
        ballast.unlink()
        if killed:
            platform.up()

        with platform.client() as client:
            status = client.jobs.wait(holder, timeout_s=60).status
            assert (status.state, status.exit_code) == ("Failed", 7)
            ends = {id: client.jobs.wait(id, timeout_s=60).status for id in known - {holder}}
            assert {id: end.message for id, end in ends.items() if end.state != "Completed"} == {}
            later = client.jobs.create(a_job(2, "true")).metadata.id
            assert client.jobs.wait(later, timeout_s=60).status.state == "Completed"
            assert {job.metadata.id for job in client.jobs.list()} == {*known, later}


def test_on_a_full_disk_a_gateway_that_was_killed_is_there_again(small_disk):
    with RunningPlatform(small_disk / "home") as platform:
        serve = ("--command", "exec python -m http.server $PORT --bind 127.0.0.1")
        url = platform.cli("endpoint", "create", "-n", "web", *serve, "--wait").stdout.strip()
        record = json.loads(platform.home.gateway_record.read_text())
        fill(small_disk / "ballast")
        os.kill(record["pid"], signal.SIGKILL)
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {platform.token}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
        assert json.loads(platform.home.gateway_record.read_text())["pid"] != record["pid"]
        assert not list(platform.home.gateway.glob(".*")), "no file that was not finished"


def has_ended(home: Path, job: str) -> bool:
    return any(home.glob(f"attempts/*/{job}-*/exited.7"))
