"""Processes as the kernel tells of them: who is alive, and who belongs to an attempt.

A pid alone names nothing for long. Signals go through pidfds that were opened before the check of
who the process is, so that a pid which is given to somebody else in between is never hit.
"""

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ATTEMPT_VARIABLE = "LEPTON_ATTEMPT_ID"
KERNEL_THREAD = 0x00200000  # PF_KTHREAD of <linux/sched.h>


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that cannot be mistaken for another one."""

    pid: int
    started_ticks: int  # after the boot
    boot_id: str
    pid_namespace: int

    @property
    def alive(self) -> bool:
        """Whether it still runs. A zombie does not."""
        if (self.boot_id, self.pid_namespace) != (boot_id(), pid_namespace()):
            return False
        stat = read_stat(self.pid)
        return stat is not None and stat.started_ticks == self.started_ticks and not stat.ended


@dataclass(frozen=True, slots=True)
class Stat:
    state: str
    parent: int
    flags: int
    started_ticks: int
    environment_end: int  # address; 0 while there is none yet, or none any more

    @property
    def ended(self) -> bool:
        return self.state in "ZXx"

    @property
    def between_programs(self) -> bool:
        return not (self.environment_end or self.ended or self.flags & KERNEL_THREAD)


def read_stat(pid: int) -> Stat | None:
    """What /proc says of a process, None where there is none."""
    raw = _read(f"/proc/{pid}/stat")
    if not raw:
        return None
    # The second field is a name in parentheses that may hold anything, parentheses too.
    fields = raw[raw.rindex(b")") + 2 :].split()
    return Stat(
        state=fields[0].decode(),
        parent=int(fields[1]),
        flags=int(fields[6]),
        started_ticks=int(fields[19]),
        environment_end=int(fields[48]),
    )


@cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@cache
def pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


@contextmanager
def handle(pid: int) -> Iterator[int | None]:
    """A pidfd for a while; None where the process is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def send(fd: int, number: signal.Signals) -> None:
    """Signal the process of a pidfd; one that has ended, or is not ours, is left alone."""
    with suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(fd, number)


def find(attempts: Collection[str]) -> dict[str, list[int]]:
    """The processes of attempts, by the attempt's id in their environment. Costs a pass over /proc,
    about 15 µs a process: look for many attempts at once.

    A process in the middle of an exec shows no environment for some microseconds. It counts as one
    of every attempt, because nobody can say yet that it is not: look again.
    """
    wanted = {f"{ATTEMPT_VARIABLE}={attempt}".encode(): attempt for attempt in attempts}
    found: dict[str, list[int]] = {attempt: [] for attempt in attempts}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        environment = _read(f"/proc/{name}/environ")
        if environment:
            if ATTEMPT_VARIABLE.encode() in environment:
                for variable in environment.split(b"\0"):
                    if variable in wanted:
                        found[wanted[variable]].append(int(name))
        elif environment is not None:
            stat = read_stat(int(name))
            if stat is not None and stat.between_programs:
                for pids in found.values():
                    pids.append(int(name))
    return found


def children(parent: int) -> list[int]:
    """Those that it started itself. Costs a pass over /proc, as `find` does."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if (stat := read_stat(pid)) and stat.parent == parent]


def signal_attempt(attempt: str, pids: Collection[int], number: signal.Signals) -> None:
    """Signal those of `pids` that are the attempt's for certain."""
    mark = f"{ATTEMPT_VARIABLE}={attempt}".encode()
    for pid in pids:
        with handle(pid) as fd:
            if fd is not None and mark in (_read(f"/proc/{pid}/environ") or b"").split(b"\0"):
                send(fd, number)


def _read(path: str) -> bytes | None:
    """All of a file of /proc; None where it, or its process, is gone or not ours to read."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        chunks = []
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError:
        return None
    finally:
        os.close(fd)
