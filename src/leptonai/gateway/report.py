"""Telling the control plane of the traffic, while there is some."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import msgspec

from leptonai.core.traffic import REPORT_MS, TrafficReport, TrafficWindow

from .control_plane import FAILURES, ControlPlane

if TYPE_CHECKING:
    from leptonai.core.routing import Upstream

    from .tally import Tally

MAX_PAUSE_S = 5.0  # before a report that failed is tried again
LAST_REPORT_S = 1.0  # for the report of a gateway that ends
MAX_WINDOWS_A_REPORT = 2_000
UNKNOWN = -1  # of a table's seq


class Leaver(Protocol):
    """A replica that has left the table, with requests under way."""

    upstream: Upstream
    outstanding: int


class Reporter:
    """A report that fails is not lost: what it held is in the next one."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._name = os.urandom(8).hex()
        self._active: dict[Tally, None] = {}
        self._leaving: dict[Leaver, None] = {}  # out of the table, with requests under way
        self._leaving_told = False  # the control plane knows of some
        self._table = UNKNOWN  # the seq of the route table that is served by
        self._table_told = UNKNOWN
        self._some = asyncio.Event()  # there is something to tell
        self._urgent = asyncio.Event()

    def activate(self, tally: Tally) -> None:
        """Something happens at an endpoint where nothing did."""
        self._active[tally] = None
        self._some.set()

    def tell_at_once(self) -> None:
        """A request is held where none was: whoever scales from zero waits for this."""
        self._urgent.set()

    def leaves(self, target: Leaver) -> None:
        """A replica left the table: who stops it waits until its requests have ended."""
        self._leaving[target] = None
        self._some.set()
        self._urgent.set()

    def left(self, target: Leaver) -> None:
        """It has ended the last of them."""
        self._leaving.pop(target, None)
        self._urgent.set()

    def serves_by(self, table: int) -> None:
        """Replicas that are not in this table get no request any more."""
        self._table = table
        self._some.set()
        self._urgent.set()

    def unheard(self) -> None:
        """The control plane was away, and may know nothing."""
        self._table_told = UNKNOWN

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

    async def tell_the_rest(self, control_plane: ControlPlane) -> None:
        """Before the gateway ends; not for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_REPORT_S):
                await self._report(control_plane)

    async def _report(self, control_plane: ControlPlane) -> bool:
        """Whether all of it arrived."""
        waiting = list(self._active)
        while waiting or self._more_to_tell:
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
            leaving = {each.upstream.replica: each.outstanding for each in self._leaving}
            table = self._table
            if windows or self._more_to_tell:
                report = TrafficReport(
                    gateway=self._name, windows=tuple(windows), leaving=leaving, table=table
                )
                try:
                    await control_plane.post("/internal/traffic", msgspec.json.encode(report))
                except FAILURES:  # who follows routes says that the control plane is away
                    return False
                self._leaving_told = bool(leaving)
                self._table_told = table
            for tally in told:
                tally.arrived()
            if not waiting:
                break
        if not (self._active or self._more_to_tell):
            self._some.clear()
        return True

    @property
    def _more_to_tell(self) -> bool:
        """Than windows."""
        return bool(self._leaving) or self._leaving_told or self._table != self._table_told
