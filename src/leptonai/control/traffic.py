"""What gateways told of the last minutes, in memory, for the loops that decide by it."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import takewhile

import msgspec

from leptonai.core.traffic import TrafficReport, TrafficWindow
from leptonai.ports.clock import Clock

KEPT_MS = 15 * 60_000  # what is older is forgotten
MAX_WINDOWS = 20_000  # of one endpoint: of several gateways and versions, each second one
GONE_MS = 5_000  # a gateway that held requests and is silent for so long holds them no more

EndpointName = tuple[str, str]  # workspace, name


class TrafficWatch:
    """One loop's view of which endpoints were told of since it last looked.

    Args:
        news: set with every report; give the event that the loop waits for anyway.
    """

    def __init__(self, news: asyncio.Event) -> None:
        self.news = news
        self._told: dict[EndpointName, deque[TrafficWindow]] = {}

    def note(self, window: TrafficWindow) -> None:
        endpoint = (window.workspace, window.endpoint)
        self._told.setdefault(endpoint, deque(maxlen=MAX_WINDOWS)).append(window)
        self.news.set()

    def take(self) -> dict[EndpointName, Sequence[TrafficWindow]]:
        """What was told since the last look, in the order it came; each window once."""
        told: dict[EndpointName, Sequence[TrafficWindow]] = {**self._told}
        self._told = {}
        return told


class Held(msgspec.Struct, frozen=True):
    """Requests that wait for a first replica of an endpoint."""

    requests: int = 0
    oldest_ms: int = 0  # for how long the first of them has waited


class TrafficLog:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # With the time at which each was told.
        self._windows: dict[EndpointName, deque[tuple[int, TrafficWindow]]] = {}
        # By endpoint and gateway: what it held, and when it said so.
        self._held: dict[EndpointName, dict[str, tuple[int, Held]]] = {}
        # By gateway: replicas that have left the table with requests under way.
        self._leaving: dict[str, tuple[int, frozenset[str]]] = {}
        self._waiting_for_leavers: list[asyncio.Event] = []
        # By gateway: the seq of the route table that it gives requests to replicas by.
        self._tables: dict[str, int] = {}
        self._tables_awaited = False
        self._watches: list[TrafficWatch] = []
        self._tidy_at_ms = 0

    def watch(self, news: asyncio.Event) -> TrafficWatch:
        """Wakes whenever traffic is told of; at once where a request is held at zero replicas."""
        watch = TrafficWatch(news)
        self._watches.append(watch)
        return watch

    def wake_when_idle(self, news: asyncio.Event) -> None:
        """Set it whenever a replica that has left the table has ended its last request, and when a
        gateway says that it has let go of one."""
        self._waiting_for_leavers.append(news)

    def take(self, report: TrafficReport) -> None:
        """Keep what a gateway tells."""
        now_ms = self._clock.now_ms()
        self._forget_the_quiet(now_ms)
        told: dict[EndpointName, Held] = {}
        for window in report.windows:
            endpoint = (window.workspace, window.endpoint)
            kept = self._windows.setdefault(endpoint, deque(maxlen=MAX_WINDOWS))
            kept.append((now_ms, window))
            while kept and kept[0][1].end_ms <= now_ms - KEPT_MS:
                kept.popleft()
            told.setdefault(endpoint, Held())
            if window.version == "" and not window.shadow:
                told[endpoint] = Held(window.held, window.oldest_held_ms)
            for watch in self._watches:
                watch.note(window)
        for endpoint, held in told.items():
            by_gateway = self._held.setdefault(endpoint, {})
            if held.requests:
                by_gateway[report.gateway] = (now_ms, held)
            else:
                by_gateway.pop(report.gateway, None)
        self._take_leaving(report, now_ms)

    def windows(self, endpoint: EndpointName, since_ms: int = 0) -> list[TrafficWindow]:
        """Those that end after `since_ms` and within the last minutes, as they were told."""
        oldest_ms = max(since_ms, self._clock.now_ms() - KEPT_MS)
        return [each for _, each in self._windows.get(endpoint, ()) if each.end_ms > oldest_ms]

    def told(self, endpoint: EndpointName, after_ms: int) -> list[TrafficWindow]:
        """Those that were told later than that: whoever remembers when it last looked counts each
        of them once, whatever the gateways' clocks say."""
        kept = self._windows.get(endpoint, ())
        newer = takewhile(lambda each: each[0] > after_ms, reversed(kept))
        return [window for _, window in newer][::-1]

    def held(self, endpoint: EndpointName) -> Held:
        """What waits now, as far as gateways have told."""
        now_ms = self._clock.now_ms()
        known = [
            held
            for told_ms, held in self._held.get(endpoint, {}).values()
            if told_ms > now_ms - GONE_MS
        ]
        return Held(
            sum(each.requests for each in known), max((each.oldest_ms for each in known), default=0)
        )

    def busy(self, replica: str) -> bool:
        """Whether a replica that has left the table still has requests, as far as is known."""
        now_ms = self._clock.now_ms()
        return any(
            replica in leaving
            for told_ms, leaving in self._leaving.values()
            if told_ms > now_ms - GONE_MS
        )

    @property
    def knows_gateways(self) -> bool:
        """Whether any has told by which route table it serves."""
        return bool(self._tables)

    def behind(self, table: int | None) -> list[str]:
        """Gateways that serve by an older route table than the one of this seq; None is a later
        one than any has yet."""
        found = [each for each, seq in self._tables.items() if table is None or seq < table]
        self._tables_awaited = self._tables_awaited or bool(found)
        return found

    def forget(self, gateways: Iterable[str]) -> None:
        """They are gone, or will say so if they are not."""
        for gateway in gateways:
            self._tables.pop(gateway, None)

    def _take_leaving(self, report: TrafficReport, now_ms: int) -> None:
        before = self._leaving.pop(report.gateway, (0, frozenset()))[1]
        leaving = frozenset(report.leaving)
        if leaving:
            self._leaving[report.gateway] = now_ms, leaving
        if report.table >= 0 and report.table != self._tables.get(report.gateway):
            self._tables[report.gateway] = report.table
            let_go, self._tables_awaited = self._tables_awaited, False
        else:
            let_go = False
        if let_go or before - leaving:
            for news in self._waiting_for_leavers:
                news.set()

    def _forget_the_quiet(self, now_ms: int) -> None:
        """Endpoints that nobody has called for so long that nothing of it is kept."""
        if now_ms < self._tidy_at_ms:
            return
        self._tidy_at_ms = now_ms + KEPT_MS
        for endpoint, kept in list(self._windows.items()):
            if not kept or kept[-1][1].end_ms <= now_ms - KEPT_MS:
                del self._windows[endpoint]
                self._held.pop(endpoint, None)
