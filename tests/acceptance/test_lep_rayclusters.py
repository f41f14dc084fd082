"""Ray clusters with the published client, whose environment has Ray. `make test-lep` runs this."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from lep_client import Lep

from leptonai.testing.platform import RunningPlatform, eventually

pytestmark = pytest.mark.lep

READY_WITHIN_S = 240  # Ray takes half a minute where nothing else runs
STOPPED_WITHIN_S = 60
SHAPE = ("--head-resource-shape", "cpu.small", "--head-node-group", "local")
JOB = "import ray; ray.init(); print(sorted(ray.cluster_resources().items()))"


@pytest.fixture(scope="module")
def lep_platform(tmp_path_factory, lep_program):
    """One that finds Ray where the client is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(lep_program).parent}{os.pathsep}{os.environ['PATH']}")
        with RunningPlatform(tmp_path_factory.mktemp("ray") / "home") as running:
            yield running


def a_group(name: str, workers: int) -> tuple[str, ...]:
    return (
        "-wg", "--group-name", name, "--resource-shape", "cpu.small", "--node-group", "local",
        "--min-replicas", str(workers),
    )  # fmt: skip


def state_of(lep: Lep, name: str = "tune") -> dict:
    status: dict = lep.answer("raycluster", "get", "-n", name)["status"]
    return status


def becomes(lep: Lep, state: str, within_s: float) -> dict:
    return eventually(lambda: state_of(lep), lambda s: s["state"] == state, within_s=within_s)


def test_a_cluster_from_its_making_to_its_removal(lep: Lep, lep_platform, tmp_path) -> None:
    said = lep("raycluster", "create", "-n", "tune", *SHAPE, *a_group("cpu", 1))
    assert "Created Successfully" in said
    assert "already" in lep("raycluster", "create", "-n", "tune", *SHAPE, *a_group("b", 1), code=1)
    status = becomes(lep, "Ready", READY_WITHIN_S)
    assert (status["readyWorkerReplicas"], status["desiredWorkerReplicas"]) == (1, 1)
    listed = lep("raycluster", "list", "-s", "ready")
    assert "tune" in listed
    assert "1/1" in listed
    lep("raycluster", "get", "-n", "tune", "-p", str(tmp_path))
    saved = json.loads((tmp_path / "raycluster-spec-tune.json").read_text())
    assert saved["worker_group_specs"][0]["group_name"] == "cpu"

    run_ray_jobs(lep, tmp_path)
    submit_by_ray_itself(lep, lep_platform, tmp_path)
    show_no_token(lep, lep_platform)

    lep("raycluster", "update", "-n", "tune", "-wg", "--min-replicas", "0")
    becomes(lep, "Ready", STOPPED_WITHIN_S)
    assert state_of(lep)["desiredWorkerReplicas"] == 0
    assert "stopped" in lep("raycluster", "stop", "-n", "tune")
    becomes(lep, "Stopped", STOPPED_WITHIN_S)
    assert "started" in lep("raycluster", "start", "-n", "tune")
    becomes(lep, "Ready", READY_WITHIN_S)
    assert "No Ray jobs found" in lep("raycluster", "list-jobs", "-n", "tune")
    lep("raycluster", "remove", "-n", "tune")
    assert "tune" not in lep("raycluster", "list")
    lep("raycluster", "get", "-n", "tune", code=1)
    url = lep_platform.state.url
    eventually(lambda: ray_processes(url), lambda left: left == [], within_s=STOPPED_WITHIN_S)


def run_ray_jobs(lep: Lep, directory: Path) -> None:
    work = directory / "work"
    work.mkdir()
    (work / "job.py").write_text(JOB)
    options = ("-n", "tune", "--submission-id", "first", "--working-dir", str(work))
    said = lep("raycluster", "submit-job", *options, "--", "python", "job.py")
    assert "finished with status: SUCCEEDED" in said
    assert "('CPU', 2.0)" in said
    slow = ("-n", "tune", "--submission-id", "slow", "--no-wait")
    lep("raycluster", "submit-job", *slow, "--", "sleep", "600")
    assert "Requested stop" in lep("raycluster", "stop-job", "-n", "tune", "-j", "slow")
    lep.until("STOPPED", "raycluster", "list-jobs", "-n", "tune", "-q", "slow")
    assert "first" in lep("raycluster", "list-jobs", "-n", "tune", "-s", "succeeded")


def submit_by_ray_itself(lep: Lep, platform: RunningPlatform, directory: Path) -> None:
    """As our own documents say."""
    address = platform.cli("raycluster", "address", "tune").stdout.strip()
    ray = shutil.which("ray", path=str(Path(lep._program).parent))
    assert ray
    done = subprocess.run(
        [ray, "job", "submit", "--address", address, "--", "echo", "by ray itself"],
        env={
            **lep.environment(logged_in=False),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": platform.token,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done
    assert "by ray itself" in done.stdout


def show_no_token(lep: Lep, platform: RunningPlatform) -> None:
    """Ray's own token is in its processes' environment and nowhere else."""
    processes = ray_processes(platform.state.url)
    assert processes
    (token,) = {variables_of(each).get("RAY_AUTH_TOKEN", "") for each in processes} - {""}
    assert len(token) == 64
    for process in Path("/proc").glob("[0-9]*"):
        assert token not in read(process / "cmdline")
    for file in (platform.home.path / "logs").iterdir():
        assert token not in read(file)
    for file in (platform.home.path / "attempts").rglob("log*"):
        assert file.is_dir() or token not in read(file)
    assert token not in lep("raycluster", "get", "-n", "tune", "-d")
    shown = [platform.cli("raycluster", what, "tune").stdout for what in ("get", "log", "events")]
    assert token not in "".join(shown)


def ray_processes(url: str) -> list[Path]:
    """Those of this platform's clusters that still run."""
    return [
        process
        for process in Path("/proc").glob("[0-9]*")
        if "LEPTON_RAYCLUSTER_NAME" in (told := variables_of(process))
        and told.get("LEPTON_WORKSPACE_URL", "").startswith(url)
    ]


def variables_of(process: Path) -> dict[str, str]:
    told = read(process / "environ").split("\0")
    return dict(each.split("=", 1) for each in told if "=" in each)


def read(file: Path) -> str:
    try:
        return file.read_bytes().decode(errors="replace")
    except OSError:  # it has ended, or is another's
        return ""
