"""Telling the control plane of the traffic, while there is some."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from leptonai.core.traffic import REPORT_MS, TrafficReport, TrafficWindow

from .control_plane import FAILURES, ControlPlane

if TYPE_CHECKING:
    from .tally import Tally

MAX_PAUSE_S = 5.0  # before a report that failed is tried again
MAX_WINDOWS_A_REPORT = 2_000


class Reporter:
    """A report that fails is not lost: what it held is in the next one."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._name = os.urandom(8).hex()
        self._active: dict[Tally, None] = {}
        self._some = asyncio.Event()  # there is an active endpoint
        self._urgent = asyncio.Event()

    def activate(self, tally: Tally) -> None:
        """Something happens at an endpoint where nothing did."""
        self._active[tally] = None
        self._some.set()

    def tell_at_once(self) -> None:
        """A request is held where none was: whoever scales from zero waits for this."""
        self._urgent.set()

    async def run(self, control_plane: ControlPlane) -> None:
        loop = asyncio.get_running_loop()
        pause_s = REPORT_MS / 1000
        reported_at = 0.0
        while True:
            await self._some.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(max(loop.time(), reported_at + pause_s)):
                    await self._urgent.wait()
            self._urgent.clear()
            reported_at = loop.time()
            pause_s = (
                REPORT_MS / 1000
                if await self._report(control_plane)
                else min(2 * pause_s, MAX_PAUSE_S)
            )

    async def _report(self, control_plane: ControlPlane) -> bool:
        """Whether all of it arrived."""
        waiting = list(self._active)
        while waiting:
            now_ms = time.time_ns() // 1_000_000
            windows: list[TrafficWindow] = []
            told: list[Tally] = []
            while waiting and len(windows) < MAX_WINDOWS_A_REPORT:
                tally = waiting.pop()
                new = tally.windows(now_ms)
                if not new:
                    del self._active[tally]
                    continue
                windows += new
                told.append(tally)
            if windows:
                report = TrafficReport(gateway=self._name, windows=tuple(windows))
                try:
                    await control_plane.post("/internal/traffic", msgspec.json.encode(report))
                except FAILURES:  # who follows routes says that the control plane is away
                    return False
            for tally in told:
                tally.arrived()
        if not self._active:
            self._some.clear()
        return True
