"""What is learnt of each endpoint's traffic: its counts are kept, and a forecast is fitted to them.

Nothing is done when a request comes: every few minutes what gateways told meanwhile is added to the
day's column, and once a day the endpoint's history is fitted, apart from the loops. What a control
plane that is killed had not kept yet is a gap in the history, and gaps teach nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from msgspec import Struct

from leptonai.control.mirror import Key, Mirror, Watch
from leptonai.control.traffic import TrafficLog
from leptonai.core import counts
from leptonai.core.autoscaling import lead_s, policy_kept
from leptonai.core.elasticity import Concurrency, Forecast, NoForecast, Policy, Throughput, fit
from leptonai.core.elasticity.forecast import LEAST_DAYS
from leptonai.core.elasticity.values import DAY_S
from leptonai.core.records import Endpoint
from leptonai.core.traffic import TrafficWindow
from leptonai.errors import TryLater
from leptonai.ports.clock import Clock
from leptonai.ports.counts import CountStore

KEEP_EVERY_MS = 5 * 60_000
BEGIN_AFTER_MS = 30_000  # not while everything starts
FORGET_EVERY_MS = 3_600_000
LIVELY_S = DAY_S  # an endpoint that nobody called for longer is not learnt from afresh
OTHER_LEAD = 1.5  # a start that takes so many times as long, or as short, wants another forecast

log = logging.getLogger("leptonai.control")

Learnt = Forecast | NoForecast
Apart = Callable[[Callable[[], Learnt]], Awaitable[Learnt]]  # does it where no loop waits for it


async def here(work: Callable[[], Learnt]) -> Learnt:
    return work()


class Asked(Struct, frozen=True):
    """What a forecast is of: with another day, or starts that take much longer, it is due again."""

    day: int
    lead_s: float
    policy: Policy

    def still_holds(self, now: "Asked") -> bool:
        ratio = now.lead_s / self.lead_s
        same = self.day == now.day and self.policy == now.policy
        return same and 1 / OTHER_LEAD <= ratio <= OTHER_LEAD


class ForecastsLoop:
    name = "forecasts"

    def __init__(
        self,
        mirror: Mirror,
        store: CountStore,
        traffic: TrafficLog,
        clock: Clock,
        *,
        apart: Apart = here,
        changed: Callable[[Key], None] = lambda key: None,
    ) -> None:
        """
        Args:
            apart: how half a second of arithmetic is done.
            changed: called with each endpoint of which something else is known now.
        """
        self.watch: Watch = mirror.watch()  # nothing hurries it
        self._mirror = mirror
        self._store = store
        self._clock = clock
        self._apart = apart
        self._changed = changed
        self._next_ms = clock.now_ms() + BEGIN_AFTER_MS
        self._forget_ms = self._next_ms
        self._started_bin = counts.bin_of(clock.now_ms()) + 1
        self._told = traffic.watch(asyncio.Event())  # nobody waits for it
        self._known: dict[Key, int] = {}  # up to which bin it is known that nothing else came
        self._asked: dict[Key, Asked] = {}
        self._learnt: dict[Key, Learnt] = {}

    def of(self, key: Key) -> Learnt | None:
        """What is known of an endpoint's traffic; None: nobody looked as yet."""
        return self._learnt.get(key)

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        if now_ms < self._next_ms:
            return self._next_ms
        self._forget_the_gone()
        scaled = [
            (key, endpoint, policy)
            for key, endpoint in self._mirror.endpoints.items()
            if (policy := policy_kept(endpoint.spec)) is not None and policy.target is not None
        ]
        told = self._told.take()
        for key, endpoint, policy in scaled:
            windows = told.get((endpoint.workspace, endpoint.name), ())
            await self._keep(key, endpoint, policy, windows)
        for each in scaled:
            await self._learn(*each)
        if now_ms >= self._forget_ms:
            self._forget_ms = now_ms + FORGET_EVERY_MS
            await self._store.forget_before(counts.first_kept_day(now_ms))
        self._next_ms = now_ms + KEEP_EVERY_MS
        return self._next_ms

    async def _keep(
        self, key: Key, endpoint: Endpoint, policy: Policy, windows: Sequence[TrafficWindow]
    ) -> None:
        """Write down what was told since the last time. In a window without requests none came,
        which is written down with the next that did."""
        now_ms = self._clock.now_ms()
        some = isinstance(policy.target, Throughput) and policy.target.some
        bins = counts.counted(windows, matching=some)
        if not bins:
            return
        begins = max(self._started_bin, counts.bin_of(endpoint.created_at_ms) + 1)
        known_from = max(
            self._known.get(key, begins), counts.first_kept_day(now_ms) * counts.BINS_A_DAY
        )
        known_to = counts.bin_of(now_ms)
        for day, more in counts.by_day(bins, known_from, known_to):
            to = partial(counts.with_more, more=more)
            try:
                await self._store.change(endpoint.workspace, endpoint.id, day, to)
            except TryLater as error:  # a gap in the history, and no more
                log.warning("the requests to %s cannot be kept: %s", endpoint.name, error)
        self._known[key] = max(known_from, known_to)

    async def _learn(self, key: Key, endpoint: Endpoint, policy: Policy) -> None:
        autoscaling = endpoint.autoscaling
        now_ms = self._clock.now_ms()
        if autoscaling is None or autoscaling.state.traffic_s is None:
            return
        if now_ms / 1000 - autoscaling.state.traffic_s > LIVELY_S:
            return
        asked = Asked(now_ms // 1000 // DAY_S, lead_s(autoscaling), policy)
        before = self._asked.get(key)
        if before is not None and before.still_holds(asked):
            return
        self._asked[key] = asked
        days = await self._store.read(
            endpoint.workspace, endpoint.id, counts.first_kept_day(now_ms)
        )
        if len(days) < LEAST_DAYS:  # without loading what fits
            learnt: Learnt = NoForecast(f"{_days(len(days))} of history, of at least {LEAST_DAYS}")
        else:
            service_s = autoscaling.state.service_s
            if not isinstance(policy.target, Concurrency):
                service_s = None
            learnt = await self._apart(
                partial(_fit, days, asked.lead_s, policy.certainty, service_s)
            )
        if learnt != self._learnt.get(key):
            self._learnt[key] = learnt
            self._changed(key)

    def _forget_the_gone(self) -> None:
        for known in (self._known, self._asked, self._learnt):
            for key in [key for key in known if key not in self._mirror.endpoints]:
                del known[key]


def _fit(
    days: Mapping[int, bytes], lead_s: float, certainty: float, service_s: float | None
) -> Learnt:
    begins_s, numbers = counts.history(days)
    return fit(numbers, begins_s=begins_s, lead_s=lead_s, certainty=certainty, service_s=service_s)


def _days(number: int) -> str:
    return f"{number} day{'s' * (number != 1)}"
