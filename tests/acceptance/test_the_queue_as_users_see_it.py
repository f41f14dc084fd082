"""Who goes first on a machine that is full, and what those who wait are told."""

import re

import pytest

from leptonai.testing.platform import RunningPlatform, eventually

HOLD = 'until [ -e "$0" ]; do sleep 0.05; done'


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("queue") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def client(platform):
    with platform.client() as client:
        yield client


@pytest.fixture(scope="module")
def cores(platform) -> float:
    (node,) = platform.answer("node", "list", "-o", "json")
    assert node["status"]["status"] == ["Ready"]
    assert node["spec"]["resource"]["cpu"]["allocated"] == 0
    return node["spec"]["resource"]["cpu"]["total"]


def created(platform, name: str, cores: float, *arguments: str) -> str:
    cpu = f"{int(cores * 1_000)}m"
    return platform.cli("job", "create", "-n", name, "--cpu", cpu, *arguments).stdout.strip()


def state(client, id: str) -> str:
    return client.jobs.get(id).status.state


def waits_for_room(platform, id: str) -> dict:
    """What `why` says of a job that waits, once it was considered."""
    return eventually(
        lambda: platform.answer("job", "why", id, "-o", "json"),
        lambda why: why["code"] == "capacity",
    )


def test_a_full_machine_is_left_to_the_most_urgent_and_then_to_the_first(
    platform, client, cores, tmp_path
):
    go, order = tmp_path / "go", tmp_path / "order"
    holder = created(platform, "holder", cores, "--", "sh", "-c", HOLD, str(go))
    eventually(lambda: state(client, holder), lambda seen: seen == "Running")
    waiting = {}
    for name, priority in (("low", "low"), ("first", "mid"), ("second", "5"), ("high", "high")):
        note = ("--priority", priority, "--", "sh", "-c", f'echo {name} >> "$0"', str(order))
        waiting[name] = created(platform, name, cores, *note)

    for id in waiting.values():
        why = waits_for_room(platform, id)
        assert why["state"] == "Queueing"
        assert re.search(r"needs .* CPUs?.* on one node; the most that is free", why["because"])
        assert [each["name"] for each in why["held_by"]] == [holder]
    assert "CPU" in platform.cli("job", "log", waiting["low"]).stderr, "no log yet, and why"

    go.touch()
    assert {client.jobs.wait(id, timeout_s=60).status.state for id in waiting.values()} == {
        "Completed"
    }
    assert order.read_text().split() == ["high", "first", "second", "low"]


def test_a_gang_starts_with_all_its_workers_or_with_none(platform, client, cores, tmp_path):
    go, here = tmp_path / "go", tmp_path / "here"
    here.mkdir()
    holder = created(platform, "holder", cores / 2, "--", "sh", "-c", HOLD, str(go))
    eventually(lambda: state(client, holder), lambda seen: seen == "Running")
    # Each waits for the other two: none would end if they did not run at the same time.
    meet = 'touch "$0/$RANK"; until [ "$(ls "$0" | wc -l)" = 3 ]; do sleep 0.05; done'
    gang = created(
        *(platform, "gang", cores / 3, "--num-workers", "3"),
        *("--", "sh", "-c", meet, str(here)),
    )
    why = waits_for_room(platform, gang)
    assert "needs room for 3 workers with" in why["because"]
    assert "there is room for 1" in why["because"]
    small = created(platform, "small", cores / 4, "--", "true")
    assert client.jobs.wait(small, timeout_s=60).status.state == "Completed", "it fits beside"
    assert {each.status.state for each in client.jobs.replicas(gang)} == {"Waiting"}
    assert list(here.iterdir()) == []

    go.touch()
    assert client.jobs.wait(gang, timeout_s=60).status.state == "Completed"
    assert sorted(path.name for path in here.iterdir()) == ["0", "1", "2"]


def test_who_asks_before_is_told_where_and_when_and_nothing_is_created(
    platform, client, cores, tmp_path
):
    ask = ("job", "create", "-n", "asked", "--cpu", f"{int(cores * 1_000)}m", "--dry-run")
    told = platform.cli(*ask, "--", "true").stdout
    assert re.match(r"asked would start now: there is room for it now: on \S+\n", told)

    go = tmp_path / "go"
    estimated = ("--estimate", "1h", "--", "sh", "-c", HOLD, str(go))
    holder = created(platform, "holder", cores / 2, *estimated)
    eventually(lambda: state(client, holder), lambda seen: seen == "Running")
    told = platform.cli(*ask, "--", "true").stdout
    assert told.startswith("asked would wait: needs ")
    assert re.search(rf"job +{holder}", told), told
    assert re.search(r"Starts in about (59m|1h) \(between (29|30)m and (119m|1h59m|2h)\): ", told)
    assert re.search(r"Would start it now:\n  1\. ask for .* CPU instead of .*   --cpu ", told)
    assert "asked" not in platform.cli("job", "list").stdout

    late = platform.cli(
        *("job", "create", "-n", "late", "--cpu", f"{int(cores * 1_000)}m"),
        *("--estimate", "1h", "--hard-deadline", "+90m", "--", "true"),
        check=False,
    )
    assert late.returncode == 1
    assert late.stderr.startswith("error: the deadline cannot be met: this could be done in 2 h")
    go.touch()
    assert client.jobs.wait(holder, timeout_s=60).status.state == "Completed"


def test_a_gang_for_which_there_is_never_room_is_refused(platform, cores):
    huge = ("--num-workers", "3", "--cpu", str(cores / 2), "--", "true")
    done = platform.cli("job", "create", "-n", "huge", *huge, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: this could never run here: needs room for 3 workers")


def test_a_job_that_waits_can_be_stopped_and_removed(platform, client, cores, tmp_path):
    holder = created(platform, "holder", cores, "--", "sh", "-c", HOLD, str(tmp_path / "go"))
    stopped = created(platform, "stopped", cores, "--", "true")
    removed = created(platform, "removed", cores, "--", "true")
    platform.cli("job", "stop", stopped)
    platform.cli("job", "remove", removed)
    assert client.jobs.wait(stopped, timeout_s=60).status.state == "Stopped"
    assert platform.cli("job", "get", removed, check=False).returncode == 1
    (tmp_path / "go").touch()
    assert client.jobs.wait(holder, timeout_s=60).status.state == "Completed"
    eventually(
        lambda: platform.answer("node", "list", "-o", "json")[0]["status"]["workloads"],
        lambda left: left == [],
    )
