"""What trainings record reaches the workspace whole, whatever is killed meanwhile."""

import sys
from pathlib import Path

import pytest

import leptonai
from leptonai import run
from leptonai.testing.platform import RunningPlatform, eventually

TRAIN = """
import os, signal
from leptonai import run

again = int(os.environ["LEPTON_JOB_FAILURE_COUNT"])
run.log_params(lr=0.1)
if again:
    run.resume(49)  # of which the checkpoint was
for step in range(50 * again, 100 if again else 80):
    run.log(loss=1 / (step + 1) + again, step=step)
run.flush()
if not again:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("runs") / "home") as running:
        yield running


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def curve(platform, id, key="loss"):
    with platform.client() as client:
        (found,) = client.runs.metrics(id, key).curves
    return list(zip(found.steps, found.values, strict=True))


def test_a_job_that_is_killed_and_resumes_has_one_run_and_one_curve(platform):
    source = str(Path(leptonai.__file__).parents[1])
    created = ("job", "create", "-n", "train", "--max-failure-retry", "1", "--wait")
    platform.cli(*created, "-e", f"PYTHONPATH={source}", "--", sys.executable, "-c", TRAIN)
    (found,) = platform.answer("run", "list", "-o", "json")
    assert (found["metadata"]["name"], found["spec"]["params"]) == ("train", {"lr": 0.1})
    ended = eventually(
        lambda: platform.answer("run", "get", found["spec"]["job"], "-o", "json"),
        lambda each: each["status"]["state"] == "Finished",
    )
    assert ended["status"]["job_state"] == "Completed"
    assert ended["status"]["summary"]["loss"]["max"] == 1 + 1 / 51
    assert curve(platform, found["metadata"]["id"]) == [
        (step, 1 / (step + 1) + (step >= 50)) for step in range(100)
    ]
    chart = platform.cli("run", "plot", "train", "-k", "loss").stdout
    assert chart.startswith("loss\n") and "⠤" in chart
    platform.cli("run", "plot", "train", "-k", "loss", "--png", "loss.png")
    assert Path("loss.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_lost_or_doubled_while_the_platform_is_away(platform):
    with platform.client() as client, run.start("away", client=client) as recorded:
        for step in range(3_000):
            recorded.log(loss=float(step), step=step)
            if step == 1_000:
                assert recorded.flush()
                platform.kill()
            if step == 2_000:
                assert not recorded.flush()
                platform.up()
        eventually(recorded.flush)
    with platform.client() as client:
        (found,) = client.runs.metrics(recorded.id, "loss", points=5_000).curves
        assert found.steps == list(range(3_000))
        assert client.runs.get(recorded.id).status.points >= 3_000
        assert client.runs.get(recorded.id).status.state == "Finished"


def test_a_run_of_a_directory_is_uploaded_once(platform):
    Path("report.txt").write_text("fine")
    with run.start("local", params={"lr": 1}, tags=["quick"], local=True) as recorded:
        for step in range(100):
            recorded.log(loss=float(step))
        recorded.resume(49)
        recorded.log(loss=-1.0)
        recorded.log_artifact("report.txt")
    (here,) = platform.answer("run", "list", "--local", "runs", "-o", "json")
    for _ in range(2):
        (sent,) = platform.answer("run", "upload", "runs", "-o", "json")
    assert sent["metadata"]["id"] == here["metadata"]["id"] == recorded.id
    assert sent["status"]["summary"] == here["status"]["summary"]
    assert (sent["status"]["state"], sent["spec"]["params"]) == ("Finished", {"lr": 1})
    assert sent["metadata"]["labels"] == {"quick": ""}
    assert [*sent["spec"]["artifacts"]] == ["report.txt"]
    assert curve(platform, recorded.id) == [*((s, float(s)) for s in range(50)), (50, -1.0)]
    platform.cli("run", "remove", recorded.id)
    assert platform.cli("run", "get", recorded.id, check=False).returncode == 1


def test_a_run_ends_when_its_job_is_stopped_or_removed(platform):
    source = str(Path(leptonai.__file__).parents[1])
    wait = "from leptonai import run; run.log(x=1.0); run.flush(); import time; time.sleep(600)"
    for verb, state in (("stop", "Stopped"), ("remove", "Stopped")):
        arguments = ("job", "create", "-n", f"to-{verb}", "-e", f"PYTHONPATH={source}")
        id = platform.cli(*arguments, "--", sys.executable, "-c", wait).stdout.strip()

        def runs(job=id):
            with platform.client() as client:
                return client.runs.list(job=job)

        eventually(runs)
        platform.cli("job", verb, id)
        eventually(runs, lambda found, state=state: found[0].status.state == state)
