"""The platform comes and goes, and leaves what it should, and nothing else."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from leptonai import __version__
from leptonai.testing.platform import RunningPlatform, eventually

SOCKETS = {"handover.sock"}  # shutil copies none

# Notes its pid in `$1/pid`, and ends with $2 once there is a file `$1/go`.
UNTIL_TOLD = """
echo $$ > "$1/pid.new" && mv "$1/pid.new" "$1/pid"
until [ -e "$1/go" ]; do sleep 0.1; done
exit $2
"""


@pytest.fixture(scope="module")
def the_platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("up-and-down") / "home") as running:
        yield running


@pytest.fixture
def platform(the_platform):
    """One for all tests that need one; it runs when a test begins, whatever the last one did."""
    if the_platform.home.state() is None:
        the_platform.up()
    return the_platform


def a_waiting_job(platform, folder: Path, *, ends_with: int = 0) -> str:
    """A job that runs until `folder/go` is there; returns its id when it runs."""
    folder.mkdir()
    command = ("sh", "-c", UNTIL_TOLD, "sh", str(folder), str(ends_with))
    id = platform.cli("job", "create", "-n", folder.name, "--", *command).stdout.strip()
    eventually((folder / "pid").exists)
    eventually(lambda: platform.client().jobs.get(id).status.state, lambda it: it == "Running")
    return id


def pid_in(folder: Path) -> int:
    return int((folder / "pid").read_text())


def runs(pid: int) -> bool:
    """A zombie has ended, whoever has not looked after it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes_of(home: Path) -> dict[int, str]:
    """The daemons whose command line names the home."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if str(home) in words and "--home" in words and runs(int(entry.name)):
                found[int(entry.name)] = " ".join(words)
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- up ------------------------------------------------------------------------------------------


def test_up_returns_when_ready_and_its_daemons_hold_nothing_of_the_callers(tmp_path):
    platform = RunningPlatform(tmp_path / "home")
    inherited, ours = os.pipe()
    try:
        command = [sys.executable, "-m", "leptonai.cli", "up", "-d", "-o", "json"]
        up = subprocess.Popen(
            [*command, "--port", "0", "--gateway-port", "0"],
            env=platform.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[ours],
        )
        os.close(ours)
        # Reads to the end of both streams: it comes when the last who could write is gone.
        out, err = up.communicate(timeout=60)
        assert (up.returncode, err) == (0, b"")
        assert os.read(inherited, 1) == b"", "nobody holds the other end"
        with urllib.request.urlopen(json.loads(out)["url"] + "/healthz") as answer:
            assert answer.status == 200
    finally:
        os.close(inherited)
        platform.cli("down", check=False)


def test_the_first_up_makes_a_home_for_its_owner_alone_and_status_tells_where(platform):
    status = platform.answer("status", "-o", "json")
    assert status == {
        "url": platform.state.url,
        "gateway_url": platform.state.gateway_url,
        "workspace": "default",
        "pid": platform.state.pid,
        "version": __version__,
        "token_file": str(platform.home.token_file),
        "blobs": str(platform.home.blobs),
        "blobs_encrypted": False,
    }
    assert mode(platform.home.path) == 0o700
    secret_files = (platform.home.token_file, platform.home.key_file, platform.home.database)
    assert {path.name: mode(path) for path in secret_files} == {
        "token": 0o600,
        "platform.key": 0o600,
        "lepton.db": 0o600,
    }
    assert platform.cli("token", "show").stdout == platform.home.token_file.read_text()
    assert platform.cli("workspace", "current").stdout == "default\n"


def test_who_listens_for_other_machines_is_told_that_nothing_is_encrypted(tmp_path):
    for host, told in (("0.0.0.0", True), ("127.0.0.1", False)):
        platform = RunningPlatform(tmp_path / host)
        up = ("up", "-d", "--port", "0", "--gateway-port", "0", "--host", host)
        try:
            assert ("tokens too: let HTTPS" in platform.cli(*up).stderr) is told
        finally:
            platform.cli("down", check=False)


def test_a_second_up_says_that_it_runs_already_and_succeeds(platform):
    before = platform.state
    again = platform.cli("up", "-d")
    assert again.stdout.startswith(f"Lepton {__version__} is already running.\n")
    assert platform.answer("up", "-d", "-o", "json")["pid"] == before.pid
    assert platform.state == before
    # One control plane and one gateway; what either of them starts looks like it for a moment.
    eventually(lambda: processes_of(platform.home.path), lambda found: len(found) == 2)


def test_a_second_up_is_refused_if_it_names_another_database(platform, tmp_path):
    before = platform.state
    done = platform.cli("up", "-d", "--database", f"sqlite:///{tmp_path}/other.db", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    what, hint = done.stderr.splitlines()
    assert what == f"error: the platform that runs in {platform.home.path} uses another database"
    assert "leptonai down" in hint
    own = platform.cli("up", "-d", "--database", f"sqlite:///{platform.home.database}")
    assert own.stdout.startswith(f"Lepton {__version__} is already running.\n")
    assert platform.state == before


def refused(home: Path, *options: str) -> list[str]:
    """The two lines of an `up` that fails; it must leave no process behind."""
    platform = RunningPlatform(home)
    done = platform.cli("up", "-d", *options, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done
    lines = done.stderr.splitlines()
    assert len(lines) == 2, lines
    assert lines[0].startswith("error: "), lines
    assert lines[1].startswith("hint: "), lines
    assert platform.home.state() is None
    eventually(lambda: processes_of(home), lambda left: left == {})
    return lines


FREE = ("--port", "0", "--gateway-port", "0")


@pytest.mark.parametrize("option", ["--port", "--gateway-port"])
def test_a_port_that_is_taken_is_told_in_two_lines(tmp_path, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        error, hint = refused(tmp_path / "home", *FREE, option, port)
    assert error == f"error: port {port} of 127.0.0.1 cannot be used: Address already in use"
    assert option in hint


def test_a_home_that_cannot_be_written_is_told_in_two_lines(tmp_path):
    (tmp_path / "file").write_text("in the way")
    error, hint = refused(tmp_path / "file" / "home", *FREE)
    assert error == f"error: cannot write to {tmp_path}/file/home: Not a directory"
    assert "LEPTON_HOME" in hint
    if os.geteuid() != 0:  # root may write everywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        error, _ = refused(tmp_path / "closed" / "home", *FREE)
        assert error == f"error: cannot write to {tmp_path}/closed/home: Permission denied"


@pytest.mark.parametrize("command", [("status",), ("job", "list")])
def test_a_home_that_may_not_be_read_is_not_told_to_run_nothing(tmp_path, command):
    home = tmp_path / "home"
    home.mkdir(mode=0)
    # Root is held by modes like anybody else where it may not override them.
    like_anybody = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    told = subprocess.run(
        [
            *(like_anybody if os.geteuid() == 0 else []),
            *(sys.executable, "-m", "leptonai.cli", *command),
        ],
        env=RunningPlatform(home).environment,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 1
    assert f"error: {home} may not be read by this user\n" in told.stderr


def test_an_illegal_workspace_name_is_told_in_two_lines(tmp_path):
    error, hint = refused(tmp_path / "home", *FREE, "--workspace", "My_Team")
    assert "'My_Team' is not allowed" in error
    assert hint == "hint: for example my-team"


def test_a_database_of_a_newer_version_is_told_in_two_lines_and_left_alone(tmp_path):
    home = tmp_path / "home"
    with RunningPlatform(home) as platform:
        database = platform.home.database
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = database.read_bytes()
    error, hint = refused(home, *FREE)
    assert "made by a newer Lepton" in error
    assert "install" in hint
    assert database.read_bytes() == before


def test_a_database_that_could_not_be_opened_is_not_remembered(tmp_path):
    home = tmp_path / "home"
    nobody_there = "postgresql://nobody@127.0.0.1:1/nothing"
    error, _ = refused(home, *FREE, "--database", nobody_there)
    assert "does not answer" in error
    with RunningPlatform(home) as platform:
        assert platform.answer("job", "list", "-o", "json") == []


# --- down, and what survives ---------------------------------------------------------------------


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_what_runs_outlives_the_platform_and_the_next_up_adopts_it(platform, tmp_path, how):
    going_on = a_waiting_job(platform, tmp_path / "going-on", ends_with=0)
    ended_meanwhile = a_waiting_job(platform, tmp_path / "ended-meanwhile", ends_with=7)
    ended_pid = pid_in(tmp_path / "ended-meanwhile")
    gateway = platform.state.gateway_url
    getattr(platform, how)()
    (tmp_path / "ended-meanwhile" / "go").touch()
    eventually(lambda: runs(ended_pid), lambda it: not it)
    assert runs(pid_in(tmp_path / "going-on"))

    assert platform.up().gateway_url == gateway
    client = platform.client()
    failed = client.jobs.wait(ended_meanwhile, timeout_s=60).status
    assert (failed.state, failed.exit_code) == ("Failed", 7)
    assert client.jobs.get(going_on).status.state == "Running"
    (tmp_path / "going-on" / "go").touch()
    completed = client.jobs.wait(going_on, timeout_s=60).status
    assert (completed.state, completed.exit_code) == ("Completed", 0)
    assert [each.status.attempt for each in client.jobs.replicas(going_on)] == [0]


def test_down_ends_what_runs_and_the_next_up_has_it_ready_to_be_started(platform, tmp_path):
    job = a_waiting_job(platform, tmp_path / "a-job")
    server = "exec python3 -m http.server --bind 127.0.0.1 $PORT"
    platform.cli("endpoint", "create", "-n", "files", "--command", server, "--wait")
    pid = pid_in(tmp_path / "a-job")
    daemons = processes_of(platform.home.path)

    told = platform.answer("down", "-o", "json")
    assert told == {"stopped": True, "workloads_ended": 2, "kept": False}
    assert not runs(pid)
    assert processes_of(platform.home.path) == {}
    assert [daemon for daemon in daemons if runs(daemon)] == []
    assert platform.cli("status", check=False).returncode == 1

    platform.up()
    client = platform.client()
    status = eventually(lambda: client.jobs.get(job).status, lambda it: it.state == "Stopped")
    assert status.message == "stopped on request"
    assert client.endpoints.wait_ready("files", 60).status.ready_replicas == 1
    (tmp_path / "a-job" / "go").touch()
    platform.cli("job", "start", job)
    assert client.jobs.wait(job, timeout_s=60).status.state == "Completed"
    client.endpoints.remove("files")
    eventually(lambda: client.nodes.nodes("local")[0].status.workloads, lambda it: it == [])


def test_down_keep_leaves_running_what_runs(platform, tmp_path):
    job = a_waiting_job(platform, tmp_path / "a-job")
    told = platform.answer("down", "--keep", "-o", "json")
    assert told == {"stopped": True, "workloads_ended": 0, "kept": True}
    assert processes_of(platform.home.path) == {}
    assert runs(pid_in(tmp_path / "a-job"))
    platform.up()
    (tmp_path / "a-job" / "go").touch()
    assert platform.client().jobs.wait(job, timeout_s=60).status.state == "Completed"


def test_a_copy_of_a_home_leaves_alone_what_the_original_runs(platform, tmp_path):
    id = a_waiting_job(platform, tmp_path / "copied", ends_with=5)
    pid, before = pid_in(tmp_path / "copied"), platform.state
    shutil.copytree(
        platform.home.path,
        tmp_path / "home",
        symlinks=True,
        ignore=lambda _, names: SOCKETS & {*names},
    )
    copy = RunningPlatform(tmp_path / "home")
    assert copy.cli("status", check=False).returncode == 1
    with copy:
        assert copy.state.pid != before.pid
        # Lost to the copy, as on a machine that went down; and it may not be tried again.
        eventually(lambda: copy.client().jobs.get(id).status.state, lambda it: it == "Failed")
        assert copy.cli("down").stdout.startswith("stopped; ")
    assert platform.state == before
    assert runs(pid)
    (tmp_path / "copied" / "go").touch()
    eventually(lambda: platform.client().jobs.get(id).status.state, lambda it: it == "Failed")
    assert "exited with code 5" in platform.cli("job", "list").stdout


def test_down_ends_what_a_platform_that_crashed_has_left(platform, tmp_path):
    job = a_waiting_job(platform, tmp_path / "a-job")
    platform.kill()
    told = platform.answer("down", "-o", "json")
    assert told == {"stopped": False, "workloads_ended": 1, "kept": False}
    assert not runs(pid_in(tmp_path / "a-job"))
    assert processes_of(platform.home.path) == {}
    again = platform.answer("down", "-o", "json")
    assert again == {"stopped": False, "workloads_ended": 0, "kept": False}
    platform.up()
    assert platform.client().jobs.wait(job, timeout_s=60).status.state == "Stopped"


def test_the_platform_in_the_foreground_ends_with_ctrl_c(tmp_path):
    platform = RunningPlatform(tmp_path / "home")
    with subprocess.Popen(
        [sys.executable, "-m", "leptonai.cli", "up", *FREE],
        env=platform.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stdout.readline() == f"Lepton {__version__} is ready.\n"
        up.send_signal(signal.SIGINT)
        _, err = up.communicate(timeout=60)
    assert up.returncode == 0, err
    assert platform.home.state() is None
    platform.cli("down")
    assert processes_of(platform.home.path) == {}
