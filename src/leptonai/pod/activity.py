"""What goes on in the pod that nobody tells it: looked at when somebody asks."""

import asyncio
import os
import time

from leptonai.pod.jupyter import Jupyter
from leptonai.pod.report import Report
from leptonai.pod.ssh import SshServer
from leptonai.spec.pods import PodReport
from leptonai.supervisor import processes

CPU_OVER_S = 10.0  # at least, between two looks at it


class Activity:
    def __init__(self, ssh: SshServer, jupyter: Jupyter) -> None:
        self._ssh = ssh
        self._jupyter = jupyter
        self._mark = os.environ.get(processes.MARK_VARIABLE, "")
        self._looked_at = 0.0
        self._cpu_s: dict[int, float] = {}  # by pid, at the last look
        self._cpu_millis = 0

    async def told(self, report: Report, *, watch_cpu: bool) -> PodReport:
        kernels = await self._jupyter.kernels(report) if watch_cpu else 0
        if watch_cpu and time.monotonic() - self._looked_at >= CPU_OVER_S:
            await asyncio.to_thread(self._look_at_cpu)
        ssh = self._ssh.connections() if watch_cpu else 0
        last = self._ssh.last_session_age_s()
        if last is not None:
            report.use(last)
        return report.told(ssh=ssh, kernels=kernels, cpu_millis=self._cpu_millis)

    def _look_at_cpu(self) -> None:
        """How many thousandths of a core its programs used since the last look."""
        now = time.monotonic()
        pids = processes.find((self._mark,))[self._mark] if self._mark else []
        fresh = {pid: seconds for pid in pids if (seconds := _cpu_s(pid)) is not None}
        own = os.getpid()  # which works because it is asked
        used = sum(s - self._cpu_s.get(pid, 0.0) for pid, s in fresh.items() if pid != own)
        if self._looked_at:
            self._cpu_millis = max(0, round(1000 * used / (now - self._looked_at)))
        self._cpu_s, self._looked_at = fresh, now


def _cpu_s(pid: int) -> float | None:
    """Of a process and its children that have ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
