"""The wrapper by itself, under every shell of this machine that may be its /bin/sh."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from leptonai.supervisor.folder import Claimed, Folder
from leptonai.supervisor.launch import WRAPPER

PATIENCE_S = 60.0  # a busy machine is slow, never wrong
SHELLS = [
    [path, *options]
    for name, *options in (["dash"], ["bash", "--posix"], ["busybox", "sh"], ["ksh"])
    if (path := shutil.which(name))
]


@pytest.fixture(params=SHELLS, ids=lambda shell: Path(shell[0]).name)
def start(request, tmp_path):
    folder = Folder(tmp_path / "a folder")

    def start(*command: str, **environment: str) -> subprocess.Popen[bytes]:
        folder.prepare()
        log = folder.open_log()
        try:
            return subprocess.Popen(
                [
                    *request.param,
                    str(WRAPPER),
                    str(shutil.which("mv")),
                    folder.identity(()),
                    folder.at("work"),
                    "--",
                    *command,
                ],
                cwd=folder.path,
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(log)

    start.folder = folder
    return start


def ended_as(start) -> list[str]:
    names = [path.name for path in start.folder.path.iterdir()]
    return [name for name in names if name.startswith(("exited", "failed"))]


@pytest.mark.parametrize("code", [0, 3, 127, 255])
def test_the_exit_code_becomes_a_file_name(start, code):
    start("sh", "-c", f"exit {code}").wait()
    assert ended_as(start) == [f"exited.{code}"]


def test_a_second_start_runs_nothing(start):
    start("sh", "-c", "echo ran").wait()
    assert start("sh", "-c", "echo ran").wait() == 75
    assert Path(start.folder.log).read_text() == "ran\n"


def test_of_many_starts_at_once_one_runs(start):
    for process in [start("sh", "-c", "echo ran") for _ in range(8)]:
        process.wait()
    assert Path(start.folder.log).read_text() == "ran\n"


def test_it_survives_signals_and_its_command_does_not_inherit_that(start):
    process = start("sh", "-c", "trap > traps; echo x > ready; sleep 0.2; exit 4")
    ready = Path(start.folder.at("work")) / "ready"
    while not (ready.exists() and ready.read_text()):
        time.sleep(0.01)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        process.send_signal(number)
    process.wait()
    assert ended_as(start) == ["exited.4"]
    assert (Path(start.folder.at("work")) / "traps").read_text() == ""


def test_a_command_that_dies_of_a_signal_is_recorded(start):
    start("sh", "-c", "kill -9 $$").wait()
    assert ended_as(start) == ["exited.137"]
    assert Path(start.folder.log).read_text() == ""  # not even a word of the shell's own


def test_after_a_stop_the_command_is_not_run(start):
    start.folder.prepare()
    start.folder.want_stop()
    start("sh", "-c", "echo ran").wait()
    assert ended_as(start) == ["exited.143"]
    assert Path(start.folder.log).read_text() == ""


def test_arguments_arrive_as_they_are(start):
    words = ["-x", "a b", "*", "$HOME", "'\"", "", "ä\n"]
    start("printf", "<%s>", *words).wait()
    assert Path(start.folder.log).read_text() == "".join(f"<{word}>" for word in words)


def test_the_claim_tells_who_runs_it(start):
    process = start("sleep", "600")
    while not isinstance(state := start.folder.read(), Claimed) or state.wrapper is None:
        time.sleep(0.01)
    assert state.wrapper.pid == process.pid
    assert state.wrapper.alive
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not state.wrapper.alive


def test_a_path_without_programs_loses_no_status(start):
    start("/bin/sh", "-c", "exit 5", PATH="/nowhere").wait()
    assert ended_as(start) == ["exited.5"]


def test_what_the_command_left_under_the_name_of_the_record_does_not_hold_it_up(start):
    start("sh", "-c", "mkfifo ../exited.6; exit 6").wait(timeout=PATIENCE_S)
    assert ended_as(start) == ["exited.6"]
    assert Path(start.folder.at("exited.6")).is_file()


def test_once_it_counts_as_lost_nothing_else_is_recorded(start):
    start("sh", "-c", "mv ../status ../lost; exit 6").wait(timeout=PATIENCE_S)
    assert ended_as(start) == []
