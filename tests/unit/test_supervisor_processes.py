"""Looking for an attempt's processes while they do their best not to be seen."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from leptonai.supervisor import processes

MARK = f"hidden.{os.getpid()}"  # the tests may run twice on one machine at once
LOOKS = 200
EXIT_OF_A_THREAD = {"x86_64": 60}.get(platform.machine(), 93)  # the system call
SHOWS_ITSELF = "import os, sys, threading, ctypes, select; print(flush=True); "


@contextmanager
def an_attempt(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has said something, and is ended with all that came of it."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, processes.MARK_VARIABLE: MARK},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"\n"
        yield process
    finally:
        process.stdin.close()
        while pids := processes.find([MARK])[MARK]:
            processes.signal_attempt(MARK, pids, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def found() -> list[int]:
    """Those that have the mark for certain: whoever is in the middle of an exec may have it."""
    return [pid for pid in processes.find([MARK])[MARK] if processes.belongs(pid, MARK)]


def times_missed() -> int:
    return sum(not processes.find([MARK])[MARK] for _ in range(LOOKS))


def test_one_that_changes_its_program_all_the_time_is_always_found():
    # Each shell becomes the next one, with the same two arguments.
    start = """os.execvp("sh", ["sh", "-c", *2 * ['exec sh -c "$0" "$0"']])"""
    with an_attempt(SHOWS_ITSELF + start):
        assert times_missed() == 0


def test_one_that_forks_and_ends_all_the_time_is_always_found():
    relay = "\nwhile not select.select([0], [], [], 0)[0]:\n    if os.fork(): os._exit(0)"
    with an_attempt(SHOWS_ITSELF + relay):
        assert times_missed() == 0


def test_one_whose_main_thread_has_ended_is_found_and_has_not_ended():
    leave = "threading.Thread(target=sys.stdin.read).start(); ctypes.CDLL(None).syscall(EXIT, 0)"
    with an_attempt(SHOWS_ITSELF + leave.replace("EXIT", str(EXIT_OF_A_THREAD))) as process:
        while (stat := processes.read_stat(process.pid)) is not None and stat.state != "Z":
            time.sleep(0.01)
        assert stat is not None
        assert not stat.ended
        assert found() == [process.pid]


def test_one_that_has_ended_and_that_nobody_has_reaped_is_not_found():
    with an_attempt(SHOWS_ITSELF) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert found() == []
