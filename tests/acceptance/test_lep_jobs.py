"""Jobs, secrets and nodes with the published client. `make test-lep` runs this."""

import json
import time

import pytest
from lep_client import Lep, id_in

pytestmark = pytest.mark.lep


def submit(lep: Lep, name: str, command: str, *options: str) -> str:
    said = lep("job", "create", "-n", name, "-rs", "cpu.small", "--command", command, *options)
    return id_in(said)


# --- the workspace ---------------------------------------------------------------------------


def test_logging_in_by_either_command(lep: Lep) -> None:
    said = lep("login", "-c", f"{lep.workspace}:{lep.token}", "-u", lep.url, logged_in=False)
    assert f"Workspace: {lep.workspace}" in said
    options = ("-i", lep.workspace, "-t", lep.token, "--workspace-url", lep.url)
    lep("workspace", "login", *options, logged_in=False)
    assert lep("workspace", "id", logged_in=False).strip() == lep.workspace
    assert lep("workspace", "url", logged_in=False).strip() == lep.url
    assert lep("workspace", "token", logged_in=False).strip() == lep.token
    assert lep.url in lep("workspace", "list", logged_in=False)
    assert "WorkspaceState.Normal" in lep("workspace", "status", logged_in=False)


def test_a_wrong_token_is_told_to_be_wrong(lep: Lep) -> None:
    options = ("-i", "x", "-t", "wrong", "--workspace-url", lep.url)
    lep("workspace", "login", *options, code=1, logged_in=False)


# --- secrets and nodes -----------------------------------------------------------------------


def test_secrets(lep: Lep) -> None:
    lep("secret", "create", "-n", "GREETING", "-v", "hello there")
    assert "already exists" in lep("secret", "create", "-n", "GREETING", "-v", "x", code=1)
    listed = lep("secret", "list")
    assert "GREETING" in listed
    assert "hello" not in listed


def test_nodes(lep: Lep) -> None:
    assert "local" in lep("node", "list")
    listed = lep("node", "list-nodes", "-ng", "local")
    assert "Ready" in listed
    assert "Warning" not in listed
    assert "cpu.small" in lep("node", "resource-shape")


def test_reservations(lep: Lep, leptonai) -> None:
    asked = json.loads(leptonai("node", "reserve", "-n", "team", "--for", "1h", "-o", "json"))
    id = asked["metadata"]["id"]
    assert "PendingApproval" in lep("node", "list-reservations", "local")
    leptonai("node", "approve", id)
    assert "Reserved" in lep("node", "list-reservations", "local")
    waits = submit(lep, "kept-out", "true", "-ng", "local")
    runs = submit(lep, "let-in", "true", "-ng", "local", "--with-reservation", id)
    lep.until("Completed", "job", "get", "-i", runs)
    assert "Queueing" in lep("job", "get", "-i", waits)
    leptonai("node", "unreserve", id)
    lep.until("Completed", "job", "get", "-i", waits)


# --- jobs ------------------------------------------------------------------------------------


def test_a_job_from_its_first_line_to_its_removal(lep: Lep) -> None:
    lep("secret", "create", "-n", "WORD", "-v", "a secret word")
    command = (
        "echo $WORD | tr a-z A-Z; echo rank $LEPTON_JOB_WORKER_INDEX of $LEPTON_JOB_TOTAL_WORKERS"
    )
    id = submit(lep, "hello", command, "-s", "WORD", "-e", "A=1")
    assert "End of log" in lep("job", "log", "-i", id)
    lep.until("Completed", "job", "get", "-i", id)
    assert "A SECRET WORD\nrank 0 of 1" in lep("job", "log", "-i", id)
    assert "rank 0 of 1" in lep("log", "get", "-j", id)
    assert "rank 0 of 1" in lep("log", "get", "-jn", "hello")
    assert lep.answer("job", "get", "-n", "hello")["metadata"]["id"] == id
    assert f"{id}-0-" in lep("job", "replicas", "-i", id)
    assert "local" in lep("job", "nodes", "-i", id)
    assert "Completed" in lep("job", "events", "-i", id)
    assert "No action taken" in lep("job", "stop", "-i", id)
    clone = lep("job", "clone", "-i", id)
    assert "hello-clone" in clone
    lep("job", "remove", "-i", id)
    assert "404" in lep("job", "get", "-i", id, code=1)


def test_a_gang_is_stopped_and_started_again(lep: Lep) -> None:
    command = "echo $LEPTON_JOB_WORKER_INDEX:$MASTER_ADDR:$WORLD_SIZE; sleep 600"
    options = (
        "-w",
        "2",
        "-ng",
        "local",
        "-qp",
        "high-8000",
        "-cbp",
        "--intra-job-communication",
        "true",
    )
    id = submit(lep, "gang", command, *options)
    lep.until("Running", "job", "get", "-i", id)
    job = lep.answer("job", "get", "-i", id)
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert job["spec"]["queue_config"]["can_be_preempted"] is True
    lep("job", "stop", "-i", id)
    lep.until("Stopped", "job", "get", "-i", id)
    assert "No action taken" in lep("job", "stop", "-i", id)
    lep("job", "start", "-i", id)
    lep.until("Running", "job", "get", "-i", id)
    history = lep.answer("job", "get", "-i", id)["status"]["job_history"]
    assert [each["state"] for each in history] == ["Stopped"]
    lep("job", "stop-all", "-u", "admin", "-n", "gang", stdin="1\n")
    lep.until("Stopped", "job", "get", "-i", id)
    lep("job", "remove-all", "-u", "admin", "-n", "gang", stdin="1\n")
    assert "No job found" in lep("job", "get", "-n", "gang", code=1)


def test_listing_jobs_with_every_filter(lep: Lep) -> None:
    submit(lep, "alpha", "true", "-ng", "local")
    failed = submit(lep, "beta", "exit 3")
    lep.until("Failed", "job", "get", "-i", failed)
    for options, seen in (
        ((), {"alpha", "beta"}),
        (("-s", "fail"), {"beta"}),
        (("-s", "fail", "-s", "comp"), {"alpha", "beta"}),
        (("-n", "LPH"), {"alpha"}),
        (("-u", "admin"), {"alpha", "beta"}),
        (("-u", "ADM"), {"alpha", "beta"}),
        (("-u", "nobody"), set()),
        (("-ng", "local"), {"alpha"}),
        (("-ng", "loc"), {"alpha"}),
        (("-l", "nothing"), set()),
        (("-l", "!nothing,team notin (vision, audio)"), {"alpha", "beta"}),
    ):
        listed = lep("job", "list", *options)
        assert {name for name in ("alpha", "beta") if name in listed} == seen, options


def test_a_finished_job_is_archived_when_its_time_is_over(lep: Lep) -> None:
    id = submit(lep, "brief", "true", "--ttl-seconds-after-finished", "1")
    lep.until("Archived", "job", "list", "-ia", "-n", "brief")
    assert "404" in lep("job", "get", "-i", id, code=1)
    lep("job", "remove", "-i", id, "-ia")


def test_a_scheduled_start_awaits(lep: Lep) -> None:
    id = submit(lep, "later", "true", "--start-at", "tomorrow 13:10")
    assert lep.answer("job", "get", "-i", id)["status"]["state"] == "Awaiting"
    lep("job", "remove", "-i", id)


def test_a_job_of_a_template(lep: Lep, leptonai) -> None:
    assert "torchrun" in lep("template", "list")
    assert "jupyterlab" in lep("template", "list", "--public", "-w", "pod")
    command = ("job", "create", "-n", "digits", "-t", "digits", "-rs", "cpu.small")
    id = id_in(lep(*command))
    lep.until("Completed", "job", "get", "-i", id)
    assert "accuracy on" in lep("job", "log", "-i", id)
    assert "run: is required" in lep(*command[:4], "-t", "torchrun", code=1)


def test_a_distributed_job_of_the_torchrun_template(lep: Lep, tmp_path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os\nprint('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])\n"
    )
    options = ("-t", "torchrun", "--run", str(script), "-rs", "cpu.small", "-w", "2")
    id = id_in(lep("job", "create", "-n", "torch", *options))
    lep.until("Completed", "job", "get", "-i", id)
    logged = lep("log", "get", "-j", id)
    assert "rank 0 of 2" in logged
    assert "rank 1 of 2" in logged


def test_bad_jobs_are_refused_with_a_sentence(lep: Lep) -> None:
    said = lep("job", "create", "-n", "x", "-rs", "gpu.h100", "--command", "true", code=1)
    assert "could never run here" in said
    said = lep(
        "job", "create", "-n", "x", "-rs", "cpu.small", "--command", "true", "-s", "NOPE", code=1
    )
    assert "NOPE" in said


def test_the_first_line_of_a_job_comes_as_soon_as_the_client_asks(lep: Lep) -> None:
    """Two commands of one to two seconds each; the platform adds next to nothing to them."""
    began = time.monotonic()
    lep("secret", "list")
    alone = time.monotonic() - began
    began = time.monotonic()
    id = submit(lep, "quick", "echo first line")
    assert "first line" in lep("job", "log", "-i", id)
    both = time.monotonic() - began
    print(f"job create and the whole log: {both:.1f} s; any command alone: {alone:.1f} s")
