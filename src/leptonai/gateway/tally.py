"""The traffic of one endpoint, by version: what is scraped, and what is told the control plane."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from leptonai.core.traffic import TrafficWindow

from .metrics import Traffic
from .windows import Totals

if TYPE_CHECKING:
    from .exchange import Exchange
    from .report import Reporter

MAX_VERSIONS = 20  # that counters are kept of; the oldest that no replica serves goes first
Key = tuple[str, bool]  # version, and whether it is shadows


class Tally:
    def __init__(self, workspace: str, name: str, reporter: Reporter) -> None:
        self.workspace = workspace
        self.name = name
        self.versions: dict[str, Traffic] = {"": Traffic()}
        self.unserved = self.versions[""]  # what no replica had
        self.shadows: dict[str, Traffic] = {}
        self.denied: dict[int, int] = {}  # requests that were not let in, by code
        self.held: dict[Exchange, None] = {}  # requests that wait for a replica, in their order
        self.in_flight = 0  # requests that are let in and have not ended, held ones too
        self.arrivals = 0
        self.active = False  # windows are being counted
        self._reporter = reporter
        self._since_ms = 0
        self._before: dict[Key, Totals] = {}
        self._after: dict[Key, Totals] = {}
        self._after_ms = 0

    def arrive(self) -> None:
        if not self.active:
            self._activate()
        self.in_flight += 1
        self.arrivals += 1

    def match(self) -> None:
        """The request that is about to arrive is one that the scaling target counts."""
        if not self.active:
            self._activate()
        self.unserved.matching += 1

    def hold(self, exchange: Exchange) -> None:
        if not self.held:
            self._reporter.tell_at_once()
        self.held[exchange] = None

    def deny(self, code: int) -> None:
        self.denied[code] = self.denied.get(code, 0) + 1

    def of(self, version: str) -> Traffic:
        return self.versions.setdefault(version, Traffic())

    def of_shadows(self, version: str) -> Traffic:
        return self.shadows.setdefault(version, Traffic())

    def keep_only(self, serving: set[str]) -> None:
        """Forget the oldest versions, if there are too many."""
        for counted in (self.versions, self.shadows):
            for version in list(counted):
                if len(counted) <= MAX_VERSIONS:
                    break
                if version and version not in serving and not counted[version].in_flight:
                    del counted[version]

    def windows(self, now_ms: int) -> list[TrafficWindow]:
        """What happened since the last that `arrived`. None of it: no longer active."""
        now = self._reporter.now()
        first = next(iter(self.held), None)
        waited_ms = 0 if first is None else int(1000 * (now - first.started_at))
        self._after = {key: Totals(traffic, now) for key, traffic in self._all()}
        self._after_ms = now_ms
        nothing = Totals(Traffic(), now)
        windows = []
        for (version, shadow), totals in self._after.items():
            here = version == "" and not shadow
            window = totals.since(
                self._before.get((version, shadow), nothing),
                workspace=self.workspace,
                endpoint=self.name,
                version=version,
                shadow=shadow,
                start_ms=self._since_ms,
                end_ms=max(now_ms, self._since_ms),
                held=len(self.held) if here else 0,
                oldest_held_ms=waited_ms if here else 0,
            )
            if window is not None:
                windows.append(window)
        self.active = bool(windows)
        return windows

    def arrived(self) -> None:
        """The control plane has the last windows."""
        self._before, self._since_ms = self._after, self._after_ms

    def _activate(self) -> None:
        self.active = True
        self._since_ms = time.time_ns() // 1_000_000
        self._before = {key: Totals(traffic, 0.0) for key, traffic in self._all()}
        self._reporter.activate(self)

    def _all(self) -> Iterator[tuple[Key, Traffic]]:
        for version, traffic in self.versions.items():
            yield (version, False), traffic
        for version, traffic in self.shadows.items():
            yield (version, True), traffic
