"""Jobs from the command line to their end, on a platform that runs."""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from leptonai.testing.platform import RunningPlatform, eventually

SECRET = "correct-horse-battery-staple-4711"
MIB = 1 << 20
LOG_BYTES = 64 * MIB  # that are kept of an attempt


TRAIN = """\
import os
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
value = torch.tensor([10.0 + dist.get_rank()])
dist.all_reduce(value)
print(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} has {value.item():g}", flush=True)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("jobs") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def client(platform):
    with platform.client() as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def begun(platform, tmp_path_factory):
    """Jobs that take their time, begun before all tests: their ids by what they are for."""
    failing = 'echo "try $LEPTON_JOB_FAILURE_COUNT of worker $RANK"; exit $((4 * RANK))'
    source = tmp_path_factory.mktemp("source")
    (source / "train.py").write_text(TRAIN)
    training = ("--num-workers", "2", "--priority", "high", "--workdir", str(source), "--")
    stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    return {
        "torchrun": created(platform, *training, program("torchrun"), "train.py"),
        "python": created(platform, *training, sys.executable, "train.py"),
        "short-lived": created(platform, "--ttl", "1s", "--", "echo", "kept for a while"),
        "stubborn": created(platform, "--", "sh", "-c", stubborn),
        "worker-retries": created(
            platform, "--max-failure-retry", "2", "--", "sh", "-c", failing.replace("RANK))", "1))")
        ),
        "job-retries": created(
            platform,
            "--max-job-failure-retry",
            "1",
            "--num-workers",
            "2",
            "--",
            "sh",
            "-c",
            failing,
        ),
    }


def created(platform, *arguments: str, name: str = "a-job") -> str:
    return platform.cli("job", "create", "-n", name, *arguments).stdout.strip()


def program(name: str) -> str:
    """One that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def log_of(platform, *arguments: str) -> list[str]:
    """What `create … --follow` prints of the job's log; the job must succeed."""
    return platform.cli("job", "create", "-n", "a-job", "--follow", *arguments).stdout.splitlines()


def two_lines(done: subprocess.CompletedProcess) -> tuple[str, str]:
    assert done.returncode == 1, done
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: "), done
    assert hint.startswith("hint: "), done
    return error.removeprefix("error: "), hint.removeprefix("hint: ")


def ended(client, id: str):
    return client.jobs.wait(id, timeout_s=90).status


# --- what arrives in the job ---------------------------------------------------------------------


def test_a_command_arrives_exactly_as_typed(platform):
    words = [
        "two  spaces",
        '"double"',
        "it's",
        "größe 日本 🙂",
        "$HOME",
        "a\\nb",
        "*",
        "",
        "-n",
        "--",
    ]
    script = "import json, sys; print(json.dumps(sys.argv[1:]))"
    (line,) = log_of(platform, "--", sys.executable, "-c", script, *words)
    assert json.loads(line) == words
    assert log_of(platform, "--", "echo", 'say "hi"  ü') == ['say "hi"  ü']


def test_a_working_directory_ships_what_its_gitignores_leave(platform, tmp_path):
    files = {
        ".gitignore": "*.log\nbuild/\n/only-here.txt\n",
        ".git/config": "never shipped",
        "train.py": "print('hello from the shipped file')",
        "debug.log": "ignored",
        "build/out.o": "ignored",
        "only-here.txt": "ignored",
        "sub/only-here.txt": "anchored to the top, so this one goes",
        "sub/.gitignore": "!keep.log\nlocal.txt\n",
        "sub/keep.log": "taken back in by the nested file",
        "sub/other.log": "ignored",
        "sub/local.txt": "ignored",
        "with space/ü.txt": "goes",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "run.sh").write_text(
        "#!/bin/sh\npython3 train.py; find . -type f | LC_ALL=C sort\n"
    )
    (tmp_path / "run.sh").chmod(0o755)
    assert log_of(platform, "--workdir", str(tmp_path), "--", "./run.sh") == [
        "hello from the shipped file",
        "./.gitignore",
        "./run.sh",
        "./sub/.gitignore",
        "./sub/keep.log",
        "./sub/only-here.txt",
        "./train.py",
        "./with space/ü.txt",
    ]


def test_variables_arrive_and_reserved_names_are_refused(platform):
    variables = ("-e", "GREETING=a = b, ü", "-e", "EMPTY=")
    script = 'echo "$GREETING|${EMPTY-unset}|$LEPTON_JOB_NAME|$LEPTON_WORKSPACE_ID"'
    (line,) = log_of(platform, *variables, "--", "sh", "-c", script)
    assert re.fullmatch(r"a = b, ü\|\|a-job-[a-z0-9]{4}\|default", line), line

    error, _ = two_lines(
        platform.cli(
            *("job", "create", "-n", "x", "-e", "LEPTON_JOB_NAME=me", "--", "true"), check=False
        )
    )
    assert error == "the variable LEPTON_JOB_NAME is set by the platform"
    spec = {
        "container": {"command": ["true"]},
        "envs": [{"name": "LEPTON_WORKSPACE_ID", "value": "mine"}],
    }
    status, problem = post(platform, "/jobs", {"metadata": {"id": "x"}, "spec": spec})
    assert status == 400
    assert "LEPTON_WORKSPACE_ID is set by the platform" in problem["message"]


def post(platform, path: str, body: object) -> tuple[int, dict]:
    """Past the client, which would refuse it already."""
    request = urllib.request.Request(
        f"{platform.state.url}/api/v2/workspaces/default{path}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {platform.token}"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


# --- secrets -------------------------------------------------------------------------------------


def test_a_secret_reaches_the_job_and_is_shown_nowhere_else(platform, client):
    platform.cli("secret", "create", "API_KEY", stdin=f"{SECRET}\n")
    asked = ("-s", "API_KEY", "-s", "OTHER_NAME=API_KEY", "--")
    script = 'echo "${#API_KEY} ${#OTHER_NAME}"; [ "$API_KEY" = "$OTHER_NAME" ]'
    assert log_of(platform, *asked, "sh", "-c", script) == [f"{len(SECRET)} {len(SECRET)}"]
    id = platform.answer("job", "list", "-o", "json", "--limit", "1")[0]["metadata"]["id"]

    for shown in ("get", "events", "why", "log"):
        assert SECRET not in platform.cli("job", shown, id, "-o", "json").stdout
    assert platform.answer("secret", "list", "-o", "json") == [
        {"name": "API_KEY", "visibility": "private", "owner": "admin"}
    ]
    assert platform.files_that_hold(SECRET) == []

    talking = created(platform, "-s", "API_KEY", "--", "sh", "-c", 'echo "$API_KEY"')
    assert ended(client, talking).state == "Completed"
    (log,) = platform.files_that_hold(SECRET)
    assert re.fullmatch(rf"attempts/\w+/{talking}-0-\w+\.0/log", log), "what it prints itself"
    platform.cli("job", "remove", talking)
    eventually(lambda: platform.files_that_hold(SECRET), lambda found: found == [])


def test_the_token_of_the_workspace_lies_in_its_file_alone(platform):
    assert platform.files_that_hold(platform.token) == ["token"]


def test_a_job_that_asks_for_a_secret_that_is_not_there_is_refused_or_says_so(platform, client):
    error, hint = two_lines(
        platform.cli("job", "create", "-n", "x", "-s", "NOT_THERE", "--", "true", check=False)
    )
    assert "NOT_THERE" in error
    assert "leptonai secret create NOT_THERE" in hint

    platform.cli("secret", "create", "SOON_GONE", stdin="x")
    again = created(platform, "-s", "SOON_GONE", "--", "sleep", "600")
    platform.cli("job", "stop", again)
    assert ended(client, again).state == "Stopped"
    platform.cli("secret", "remove", "SOON_GONE")
    platform.cli("job", "start", again)
    assert ended(client, again).state == "Failed"
    why = platform.answer("job", "why", again, "-o", "json")
    assert why["because"] == (
        "worker 0 could not be started: secret 'SOON_GONE', which it needs as SOON_GONE, "
        "does not exist"
    )


# --- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "state", "exit_code", "message"),
    [
        ("exit 0", "Completed", 0, ""),
        ("exit 3", "Failed", 3, "worker 0 exited with code 3"),
        ("kill -9 $$", "Failed", 137, "worker 0 was killed by signal 9"),
    ],
)
def test_an_exit_code_is_told_as_it_was(platform, script, state, exit_code, message):
    done = platform.cli(
        *("job", "create", "-n", "ends", "--wait", "-o", "json", "--", "sh", "-c", script),
        check=False,
    )
    status = json.loads(done.stdout)["status"]
    assert (status["state"], status["exit_code"], status["message"]) == (state, exit_code, message)
    assert done.returncode == (0 if state == "Completed" else 1)
    if message:
        error, hint = two_lines(done)
        assert error.endswith(f" is Failed: {message}")
        assert "leptonai job why" in hint


def test_a_command_that_is_not_there_fails_as_in_a_shell_and_says_so_in_its_log(platform):
    done = platform.cli(
        *("job", "create", "-n", "typo", "--follow", "--", "pyhton", "train.py"), check=False
    )
    error, _ = two_lines(done)
    assert "worker 0 exited with code 127" in error
    assert "pyhton" in done.stdout


def test_a_job_over_its_memory_is_killed_and_says_so(platform, client):
    if platform.answer("node", "list", "-o", "json")[0]["spec"]["limits"] == "none":
        pytest.skip("nothing limits memory on this machine, and `leptonai doctor` says so")
    greedy = "x = bytearray(b'x') * (300 << 20); print(len(x))"
    id = created(platform, "--memory", "64MiB", "--", sys.executable, "-c", greedy)
    status = ended(client, id)
    assert (status.state, status.exit_code) == ("Failed", 137)
    assert "used more memory than it asked for" in status.message
    assert "used more memory" in platform.cli("job", "why", id).stdout


def test_each_worker_is_tried_again_as_often_as_asked(platform, client, begun):
    id = begun["worker-retries"]
    status = ended(client, id)
    assert (status.state, status.exit_code) == ("Failed", 4)
    assert log_lines(platform, id) == [f"try {n} of worker 0" for n in range(3)]
    assert reasons(platform, id).count("WorkerRestarted") == 2


def test_the_whole_job_is_tried_again_as_often_as_asked(platform, client, begun):
    id = begun["job-retries"]
    status = ended(client, id)
    assert (status.state, status.exit_code) == ("Failed", 4)
    assert [past.exit_code for past in status.job_history] == [4]
    assert reasons(platform, id).count("JobRestarted") == 1
    lines = {text for _, text in client.jobs.history(id, 0, time.time_ns())}
    assert (
        {f"try {n} of worker 1" for n in (0, 1)}
        <= lines
        <= {f"try {n} of worker {worker}" for n in (0, 1) for worker in (0, 1)}
    )


def log_lines(platform, id: str) -> list[str]:
    return platform.cli("job", "log", id).stdout.splitlines()


def reasons(platform, id: str) -> list[str]:
    return [event["reason"] for event in platform.answer("job", "events", id, "-o", "json")]


# --- stop, start, remove, later, never -----------------------------------------------------------


def test_a_job_that_ignores_sigterm_is_killed_after_the_grace(platform, client, begun):
    id = begun["stubborn"]
    eventually(lambda: log_lines(platform, id), lambda lines: lines == ["ready"])
    asked_at = time.monotonic()
    platform.cli("job", "stop", id)
    assert client.jobs.get(id).status.state == "Stopping"
    assert ended(client, id).state == "Stopped"
    assert time.monotonic() - asked_at >= 9, "it had its grace of 10 s"
    (replica,) = client.jobs.replicas(id)
    assert replica.status.exit_code == 137


def test_a_job_is_stopped_and_started_and_removed(platform, client, tmp_path):
    script = 'echo run >> "$0/runs"; until [ -e "$0/go" ]; do sleep 0.05; done'
    id = created(platform, "--", "sh", "-c", script, str(tmp_path), name="thrice")
    eventually((tmp_path / "runs").exists)
    assert platform.answer("job", "stop", id, "-o", "json")[0]["action"] == "stopping"
    assert ended(client, id).state == "Stopped"
    assert platform.answer("job", "stop", id, "-o", "json")[0]["action"] == "none"

    (tmp_path / "go").touch()
    platform.cli("job", "start", "thrice")  # by its name
    assert eventually(lambda: client.jobs.get(id).status, is_over).state == "Completed"
    assert (tmp_path / "runs").read_text().split() == ["run", "run"]
    error, _ = two_lines(platform.cli("job", "start", id, check=False))
    assert "only stopped jobs start again" in error

    platform.cli("job", "remove", id)
    error, _ = two_lines(platform.cli("job", "get", id, check=False))
    assert error == f"no job has the name or the id '{id}'"
    folders = platform.home.path / "attempts"
    eventually(lambda: list(folders.glob(f"*/{id}*")), lambda left: left == [])


def is_over(status) -> bool:
    return status.state in ("Completed", "Failed", "Stopped")


def test_a_scheduled_job_waits_for_its_time_and_says_so(platform, client):
    id = created(platform, "--start-at", "+3s", "--", "true")
    status = ended(client, id)
    assert status.state == "Completed"
    assert status.completion_time - status.creation_time >= 1_000

    never = created(platform, "--start-at", "+1h", "--", "true")
    why = platform.answer("job", "why", never, "-o", "json")
    assert (why["state"], why["code"]) == ("Awaiting", "scheduled")
    assert re.fullmatch(r"it is to start in \d\d min", why["because"])
    platform.cli("job", "stop", never)
    assert ended(client, never).state == "Stopped"


def test_what_no_machine_could_ever_do_is_refused(platform):
    for option, amount in (("--cpu", "5000"), ("--memory", "900TiB"), ("--gpu", "900")):
        error, hint = two_lines(
            platform.cli("job", "create", "-n", "huge", option, amount, "--", "true", check=False)
        )
        assert error.startswith("this could never run here: needs ")
        assert "leptonai node list" in hint
    assert "huge" not in platform.cli("job", "list", "--all").stdout


# --- logs ----------------------------------------------------------------------------------------


def test_a_followed_log_shows_lines_as_they_come_and_ends_with_the_job(platform, tmp_path):
    script = 'echo first; until [ -e "$0" ]; do sleep 0.05; done; printf "last, no newline"'
    id = created(platform, "--", "sh", "-c", script, str(tmp_path / "go"))
    command = [sys.executable, "-m", "leptonai.cli", "job", "log", "-f", id]
    with subprocess.Popen(
        command, env=platform.environment, stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout.readline() == "first\n"
        (tmp_path / "go").touch()
        assert follower.communicate(timeout=60)[0] == "last, no newline\n"
    assert follower.returncode == 0


def test_the_lines_of_several_workers_begin_with_their_number(platform, client):
    script = 'echo "I am $RANK of $WORLD_SIZE"'
    id = created(platform, "--num-workers", "3", "--", "sh", "-c", script)
    assert ended(client, id).state == "Completed"
    assert log_lines(platform, id) == [f"[{n}] I am {n} of 3" for n in range(3)]
    assert platform.cli("job", "log", id, "--worker", "1").stdout == "I am 1 of 3\n"
    lines = platform.answer("job", "log", id, "-o", "json")
    assert [(each["worker"], each["line"]) for each in lines] == [
        (n, f"I am {n} of 3") for n in range(3)
    ]


def test_the_lines_of_the_past_are_found_by_time_and_by_text(platform, client):
    before = time.time_ns()
    id = created(platform, "--", "sh", "-c", "for n in 1 2 3; do echo line $n; done")
    assert ended(client, id).state == "Completed"
    after = time.time_ns() + 1_000_000_000
    found = list(client.jobs.history(id, before, after))
    assert [text for _, text in found] == ["line 1", "line 2", "line 3"]
    assert all(before <= int(at) < after for at, _ in found)
    assert [text for _, text in client.jobs.history(id, before, after, q="2")] == ["line 2"]
    assert list(client.jobs.history(id, after, after + 1)) == []


def test_a_log_is_capped_and_its_end_can_still_be_read(platform, client):
    flood = "yes $(printf %01000d 0) | head -c 80000000; echo; echo the end"
    id = created(platform, "--", "sh", "-c", flood)
    assert ended(client, id).state == "Completed"
    (log,) = (platform.home.path / "attempts").glob(f"*/{id}*/log")
    assert log.stat().st_size >= 80_000_000, "it was written in full"
    eventually(lambda: kept(log), lambda held: held <= LOG_BYTES + MIB)
    assert platform.cli("job", "log", id).stdout.endswith("\nthe end\n")


def kept(log: Path) -> int:
    return log.stat().st_blocks * 512 + sum(
        old.stat().st_blocks * 512 for old in log.parent.glob("log.old.*")
    )


# --- distributed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("launcher", ["torchrun", "python"])
def test_an_unmodified_training_script_finds_its_peers(platform, client, begun, launcher):
    id = begun[launcher]
    assert client.jobs.wait(id, timeout_s=180).status.state == "Completed"
    heard = sorted(line for line in log_lines(platform, id) if "rank" in line)
    assert heard == ["[0] rank 0 of 2 has 21", "[1] rank 1 of 2 has 21"]


# --- in the end ----------------------------------------------------------------------------------


def test_a_job_is_archived_when_its_time_to_live_is_over(platform, client, begun):
    id = begun["short-lived"]
    eventually(lambda: client.jobs.get(id).status.state, lambda state: state == "Archived")
    assert id not in [job.metadata.id for job in client.jobs.list()]
    assert id in [job.metadata.id for job in client.jobs.list(mode="archive_only")]
    assert log_lines(platform, id) == ["kept for a while"]


def test_the_events_of_a_job_tell_its_life(platform, client):
    id = created(platform, "--", "true")
    assert ended(client, id).state == "Completed"
    assert reasons(platform, id) == ["Queued", "Running", "Completed"]
    assert platform.cli("job", "events", id).stdout.split()[:4] == [
        *("AGE", "TYPE", "REASON", "MESSAGE")
    ]


def test_a_log_is_searched_by_text_and_time_and_read_from_its_end(platform, client):
    id = created(
        platform, "--", "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.05; done"
    )
    client.jobs.wait(id)
    assert searched(platform, id, "--tail", "2") == ["line 4", "line 5"]
    assert searched(platform, id, "--grep", "3") == ["line 3"]
    stamped = searched(platform, id, "-t", "--since", "1h")
    assert [line.partition(" ")[2] for line in stamped] == [f"line {i}" for i in range(1, 6)]
    times = [line.partition(" ")[0] for line in stamped]
    assert times == sorted(set(times))
    assert searched(platform, id, "--since", times[2][:-4], "--grep", "line")[-2:] == [
        "line 4",
        "line 5",
    ]
    assert searched(platform, id, "--until", "1h") == []
    assert searched(platform, id, "-f", "--tail", "1", "--grep", "line") == ["line 5"]
    refused = platform.cli("job", "log", "-f", "--since", "1h", id, check=False)
    assert refused.returncode == 2
    platform.kill()
    platform.up()
    assert searched(platform, id, "-t", "--since", "1h") == stamped, "dated once, dated for ever"


def searched(platform, id: str, *options: str) -> list[str]:
    return platform.cli("job", "log", id, *options).stdout.splitlines()
