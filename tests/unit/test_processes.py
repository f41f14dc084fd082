"""Processes are ended and awaited by who they are, not by a number that others get after them."""

import asyncio
import os
import subprocess
import sys

import pytest

from leptonai.processes import Process

DEAF = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def start():
    started = []

    def start_one(*command: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_pid_that_was_given_to_another_process_is_left_alone(start):
    other = start("sleep", "600")
    gone = Process(other.pid, "1")
    assert (gone.alive, gone.end(grace_s=0)) == (False, True)
    asyncio.run(gone.wait())
    assert other.poll() is None


def test_one_that_heeds_no_sigterm_is_killed_after_the_grace(start):
    deaf = start(sys.executable, "-c", DEAF)
    assert deaf.stdout.readline() == b"ready\n"
    process = Process.of(deaf.pid)
    assert process.alive
    assert process.end(grace_s=0.05)
    assert not process.alive


def test_a_zombie_has_ended(start):
    ended = start("sleep", "600")
    process = Process.of(ended.pid)
    ended.kill()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert not process.alive


def test_the_end_of_any_process_can_be_awaited(start):
    async def main():
        process = Process.of(start("sleep", "0.05").pid)
        await process.wait()
        assert not process.alive

    asyncio.run(main())
