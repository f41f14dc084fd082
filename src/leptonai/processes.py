"""Processes that may outlive whoever started them: told apart, awaited and ended."""

import contextlib
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

KILLED_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """Not any later process of the same pid."""

    pid: int
    started: str  # in which boot, and how many ticks into it

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The one that has this pid now."""
        return cls(pid, _started(pid))

    @property
    def alive(self) -> bool:
        """A zombie is not."""
        return self.started != "" and _started(self.pid) == self.started

    def end(self, *, grace_s: float) -> bool:
        """SIGTERM, and SIGKILL after the grace; says whether it is gone."""
        descriptor = self._open()
        if descriptor is None:
            return True
        try:
            for number, patience_s in (
                (signal.SIGTERM, grace_s),
                (signal.SIGKILL, KILLED_WITHIN_S),
            ):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
                if _readable(descriptor, patience_s):
                    self._reap()
                    return True
        finally:
            os.close(descriptor)
        return False

    async def wait(self) -> None:
        """Until it ends; also where it is not our child. Reaps it if it is."""
        descriptor = self._open()
        if descriptor is None:
            return
        import asyncio  # the command line, which only ends processes, starts sooner without

        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._reap()

    def _open(self) -> int | None:
        """A pidfd; None where it has ended."""
        if self.started == "":
            return None
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive:  # asked now, so that it is the one behind the descriptor
            return descriptor
        os.close(descriptor)
        self._reap()
        return None

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def _started(pid: int) -> str:
    """ "" where there is no such process, or a zombie."""
    if type(pid) is not int or pid <= 0:
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # before it stands a name that may hold anything
    return "" if fields[0] in "ZXx" else f"{boot}/{fields[19]}"


def _readable(descriptor: int, patience_s: float) -> bool:
    poll = select.poll()  # select.select() knows descriptors below 1,024 only
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * patience_s))
