"""How the pod is, and what has happened in it: what whoever watches over it is told."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Literal

from leptonai.spec.pods import PodActivity, PodNote, PodReport

NOTES_KEPT = 50
Kind = Literal["sessions", "forwards"]


class Report:
    def __init__(self, *, user: str, home: str) -> None:
        self._version = 1
        self._changed = asyncio.Event()
        self._open: dict[Kind, int] = {"sessions": 0, "forwards": 0}
        self._notes: deque[PodNote] = deque(maxlen=NOTES_KEPT)
        self._noted = 0
        self._user, self._home = user, home
        self._used_at = time.monotonic()
        self._closing = False
        self.ssh_host_key = ""
        self.jupyter = ""

    @contextlib.contextmanager
    def during(self, kind: Kind) -> Iterator[None]:
        """Somebody is here."""
        self._open[kind] += 1
        self.use()
        self.change()
        try:
            yield
        finally:
            self._open[kind] -= 1
            self.use()
            self.change()

    def use(self, seconds_ago: float = 0.0) -> None:
        """Somebody was here so long ago."""
        self._used_at = max(self._used_at, time.monotonic() - seconds_ago)

    def note(
        self, reason: str, message: str, severity: Literal["Normal", "Warning"] = "Normal"
    ) -> None:
        self._noted += 1
        self._notes.append(
            PodNote(number=self._noted, reason=reason, message=message, severity=severity)
        )
        print(f"{reason}: {message}", flush=True)
        self.change()

    def change(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closing = True
        self.change()

    async def wait(self, after: int, timeout_s: float) -> None:
        """Until it is of another version than `after`, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._version == after and not self._closing:
                    await self._changed.wait()

    def told(self, *, ssh: int = 0, kernels: int = 0, cpu_millis: int = 0) -> PodReport:
        if ssh or kernels:
            self.use()
        return PodReport(
            version=self._version,
            activity=PodActivity(
                sessions=self._open["sessions"],
                forwards=self._open["forwards"],
                ssh=ssh,
                kernels=kernels,
                cpu_millis=cpu_millis,
                quiet_s=int(time.monotonic() - self._used_at),
            ),
            ssh_host_key=self.ssh_host_key,
            user=self._user,
            home=self._home,
            jupyter=self.jupyter,
            notes=list(self._notes),
        )
