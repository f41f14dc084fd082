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

MARK_VARIABLE = "LEPTON_ATTEMPT_MARK"  # in the environment of all that an attempt starts
KERNEL_THREAD = 0x00200000  # PF_KTHREAD of <linux/sched.h>
MAX_LISTINGS = 50  # of /proc, until one shows nobody new
MAX_LOOKS = 20  # at one process, while it changes its program
READ_BYTES, MAX_FILE_BYTES = 1 << 16, 8 << 20  # of /proc; an environment has at most 6 MiB


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
    threads: int
    # Addresses, 0 while there is none; an exec sets that of the code last.
    code_start: int
    environment_start: int
    environment_end: int

    @property
    def ended(self) -> bool:
        return self.state in "ZXx" and self.threads <= 1

    @property
    def has_no_environment(self) -> bool:
        """For certain, and not only for the moment."""
        empty = self.code_start != 0 and self.environment_start == self.environment_end
        return empty or self.state in "ZXx" or bool(self.flags & KERNEL_THREAD)


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
        threads=int(fields[17]),
        code_start=int(fields[23]),
        environment_start=int(fields[47]),
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


def find(marks: Collection[str]) -> dict[str, list[int]]:
    """The processes of attempts, by the mark in their environment. Costs a pass over /proc, about
    15 µs a process: look for many attempts at once.

    None found means that none is there. Where nobody can say yet, in the middle of an exec say, the
    process counts as one of every attempt: look again.
    """
    wanted = {_variable(mark): mark for mark in marks}
    found: dict[str, list[int]] = {mark: [] for mark in marks}
    seen: set[str] = set()
    for _ in range(MAX_LISTINGS):
        # One that is listed may fork and end before its turn comes, and its child is in no list. So
        # list again until there is nobody new: then all that were there have been looked at.
        fresh = [name for name in os.listdir("/proc") if name.isdigit() and name not in seen]
        if not fresh:
            return found
        seen.update(fresh)
        for pid in map(int, fresh):
            environment = environment_of(pid)
            if environment is None:
                for pids in found.values():
                    pids.append(pid)
            elif MARK_VARIABLE.encode() in environment:
                for variable in environment.split(b"\0"):
                    if variable in wanted:
                        found[wanted[variable]].append(pid)
    # They fork faster than we look.
    for name in os.listdir("/proc"):
        if name.isdigit() and name not in seen:
            for pids in found.values():
                pids.append(int(name))
    return found


def children(parent: int) -> list[int]:
    """Those that it started itself. Costs a pass over /proc, as `find` does."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if (stat := read_stat(pid)) and stat.parent == parent]


def descendants(ancestor: int) -> list[int]:
    """Those whose line of living parents leads to it. Costs a pass over /proc."""
    children_of: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := read_stat(int(name))):
            children_of.setdefault(stat.parent, []).append(int(name))
    found = list(children_of.get(ancestor, ()))
    for pid in found:  # grows while it is walked
        found.extend(children_of.get(pid, ()))
    return found


def environment_of(pid: int) -> bytes | None:
    """Its environment, empty where it has none or has ended; None while it changes its program."""
    for _ in range(MAX_LOOKS):
        environment = _read(f"/proc/{pid}/environ")
        if environment:
            return environment
        if environment is None:
            return _environment_of_threads(pid)
        stat = read_stat(pid)
        if stat is None or stat.has_no_environment:
            return _environment_of_threads(pid)
        # The file is that of the program which was there when it was opened: there is another one
        # now, or will be in some microseconds.
    return None


def belongs(pid: int, mark: str) -> bool:
    """Whether it is a process of the attempt for certain."""
    return _variable(mark) in (environment_of(pid) or b"").split(b"\0")


def signal_attempt(mark: str, pids: Collection[int], number: signal.Signals) -> set[int]:
    """Signal those of `pids` that are the attempt's for certain, and say which."""
    signalled = set()
    for pid in pids:
        with handle(pid) as fd:
            if fd is not None and belongs(pid, mark):
                send(fd, number)
                signalled.add(pid)
    return signalled


def _variable(mark: str) -> bytes:
    return f"{MARK_VARIABLE}={mark}".encode()


def _environment_of_threads(pid: int) -> bytes:
    """Threads share one, and keep it when the main thread has ended."""
    with suppress(OSError):
        tasks = f"/proc/{pid}/task"
        if os.stat(tasks).st_nlink > 3:  # a link for each thread, and two of any directory
            for thread in os.listdir(tasks):
                if environment := _read(f"{tasks}/{thread}/environ"):
                    return environment
    return b""


def _read(path: str) -> bytes | None:
    """All of a file of /proc; None where it, or its process, is gone or not ours to read."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        content = os.read(fd, READ_BYTES)
        if len(content) == READ_BYTES:
            # At one go: between two reads the process might change its program.
            content = os.pread(fd, MAX_FILE_BYTES, 0)
        return content
    except OSError:
        return None
    finally:
        os.close(fd)
