"""A home has one platform at most, and says of it only what is still true."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from leptonai.errors import Locked
from leptonai.home import Home, PlatformState, Settled
from leptonai.main.opening import settle
from leptonai.main.options import Options
from leptonai.processes import Process

# Takes the lock, starts a child that lives on, and waits to be killed.
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from leptonai.home import Home
with Home(Path(sys.argv[1])).locked():
    child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def home(tmp_path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


def a_state(pid: int, started: str) -> PlatformState:
    return PlatformState(
        url="http://here:1",
        gateway_url="http://here:2",
        workspace="default",
        pid=pid,
        version="1",
        token_file="token",
        started=started,
    )


def test_what_a_running_platform_says_of_itself_is_read_back(home):
    state = a_state(os.getpid(), Process.of(os.getpid()).started)
    home.write_state(state)
    assert home.state() == state


def test_a_platform_whose_pid_was_given_to_another_process_does_not_run(home):
    home.write_state(a_state(os.getpid(), "1"))
    assert home.state() is None


def test_what_a_copy_says_of_processes_is_of_the_original(home, tmp_path):
    home.write_state(a_state(os.getpid(), Process.of(os.getpid()).started))
    with home.locked(as_platform=True):
        shutil.copytree(home.path, tmp_path / "copy")
        copy = Home(tmp_path / "copy")
        assert (home.holder(), copy.holder()) == (Process.of(os.getpid()), None)
        assert copy.state() is None
        home.path.rename(tmp_path / "moved")
        moved = Home(tmp_path / "moved")
        assert moved.holder() == Process.of(os.getpid())
        assert moved.state() is not None


def test_a_second_platform_is_refused_and_told_of_the_first(home):
    with home.locked():
        with pytest.raises(Locked, match="starting or stopping"), home.locked():
            pass
        home.write_state(a_state(os.getpid(), Process.of(os.getpid()).started))
        told = rf"already runs in .* \(pid {os.getpid()}\)"
        with pytest.raises(Locked, match=told), home.locked():
            pass
    assert not home.is_locked


def test_what_a_killed_platform_started_does_not_keep_its_lock(home):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home.path)], stdout=subprocess.PIPE
    )
    child = int(holder.stdout.readline())
    try:
        assert home.is_locked
        holder.kill()
        holder.wait()
        assert Process.of(child).alive
        assert not home.is_locked
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


@pytest.mark.parametrize(
    ("before", "database", "is_new", "sole"),
    [
        (Settled(), "", True, True),
        (Settled(), "postgresql://a", True, True),
        (Settled(), "", False, False),  # its settings were lost, or are of a version before
        (Settled(database="a", sole_database=True), "", False, True),
        (Settled(database="a", sole_database=True), "a", False, True),
        (Settled(database="a", sole_database=True), "b", False, False),
        (Settled(database="b", sole_database=False), "b", False, False),
    ],
)
def test_a_home_knows_whether_another_database_was_ever_used(home, before, database, is_new, sole):
    settled = settle(before, Options(database=database), is_new=is_new)
    assert settled.sole_database is sole
    home.write_config(settled)
    assert home.config() == settled
