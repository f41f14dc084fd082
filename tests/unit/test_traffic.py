import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from leptonai.control.traffic import GONE_MS, KEPT_MS, Held, TrafficLog
from leptonai.core.traffic import (
    SERVICE_BOUNDS_MS,
    TrafficReport,
    TrafficWindow,
    merge,
    quantile_ms,
)


class AClock:
    at_ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.at_ms


ENDPOINT = ("ws", "a")
BUCKETS = len(SERVICE_BOUNDS_MS) + 1


def a_window(**fields: object) -> TrafficWindow:
    given = {"workspace": "ws", "endpoint": "a", "start_ms": 0, "end_ms": 1_000, **fields}
    return TrafficWindow(**given)  # type: ignore[arg-type]


def in_bucket(*buckets: int) -> tuple[int, ...]:
    return tuple(buckets.count(bucket) for bucket in range(BUCKETS))


def test_windows_of_several_gateways_add_up() -> None:
    one = a_window(version="1", arrivals=2, ended={2: 1, 5: 1}, service_ms=in_bucket(0, 3))
    two = a_window(version="2", start_ms=500, end_ms=1_500, arrivals=1, ended={2: 1}, held=3)
    assert merge([one, two]) == a_window(
        end_ms=1_500, arrivals=3, ended={2: 2, 5: 1}, service_ms=in_bucket(0, 3), held=3
    )
    assert merge([one, one]).version == "1"


@pytest.mark.parametrize(
    "windows", [[], [a_window(), a_window(endpoint="b")], [a_window(), a_window(shadow=True)]]
)
def test_only_windows_of_one_endpoint_are_merged(windows: list[TrafficWindow]) -> None:
    with pytest.raises(ValueError, match="one endpoint"):
        merge(windows)


@given(st.lists(st.integers(0, BUCKETS - 1), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_grow_with_their_share(buckets: list[int], one: float, other: float) -> None:
    low, high = sorted((one, other))
    counts = in_bucket(*buckets)
    smaller, larger = quantile_ms(counts, low), quantile_ms(counts, high)
    assert smaller is not None and larger is not None
    assert 0 <= smaller <= larger <= SERVICE_BOUNDS_MS[-1]


def test_half_of_the_requests_of_one_bucket_lie_in_its_lower_half() -> None:
    assert quantile_ms(in_bucket(4, 4), 0.5) == (SERVICE_BOUNDS_MS[3] + SERVICE_BOUNDS_MS[4]) / 2
    assert quantile_ms((), 0.5) is None


def a_log() -> tuple[TrafficLog, AClock]:
    clock = AClock()
    return TrafficLog(clock), clock


def tell(
    log: TrafficLog,
    *windows: TrafficWindow,
    gateway: str = "g",
    leaving: dict[str, int] | None = None,
) -> None:
    log.take(TrafficReport(gateway=gateway, windows=windows, leaving=leaving or {}))


def test_a_report_wakes_those_who_watch() -> None:
    log, clock = a_log()
    news = asyncio.Event()
    watch = log.watch(news)
    first, second = (a_window(held=held, end_ms=clock.now_ms()) for held in (1, 0))
    tell(log, first)
    assert news.is_set()
    tell(log, second)
    assert {key: list(told) for key, told in watch.take().items()} == {ENDPOINT: [first, second]}
    assert watch.take() == {}


def test_what_is_held_is_held_by_all_gateways_together_until_they_say_otherwise() -> None:
    log, clock = a_log()
    tell(log, a_window(held=1, oldest_held_ms=10))
    tell(log, a_window(held=2, oldest_held_ms=5), gateway="other")
    assert log.held(ENDPOINT) == Held(3, 10)
    tell(log, a_window(version="1", arrivals=1))
    assert log.held(ENDPOINT) == Held(2, 5)
    clock.at_ms += GONE_MS
    assert log.held(ENDPOINT) == Held()


def test_only_the_last_minutes_are_kept() -> None:
    log, clock = a_log()
    old = a_window(start_ms=clock.now_ms(), end_ms=clock.now_ms() + 1_000)
    tell(log, old)
    assert log.windows(ENDPOINT) == [old]
    assert log.windows(ENDPOINT, since_ms=old.end_ms) == []
    clock.at_ms += KEPT_MS + 1_000
    assert log.windows(ENDPOINT) == []
    tell(log, a_window(endpoint="b", end_ms=clock.now_ms()))
    assert not log._windows.keys() & {ENDPOINT}


def test_a_replica_that_leaves_is_busy_until_every_gateway_says_that_it_is_not() -> None:
    log, clock = a_log()
    news = asyncio.Event()
    log.wake_when_idle(news)
    tell(log, leaving={"r": 2})
    tell(log, leaving={"r": 1, "s": 1}, gateway="other")
    assert not news.is_set()
    tell(log)
    assert news.is_set()
    assert (log.busy("r"), log.busy("s"), log.busy("t")) == (True, True, False)
    tell(log, leaving={"s": 1}, gateway="other")
    assert (log.busy("r"), log.busy("s")) == (False, True)
    clock.at_ms += GONE_MS
    assert not log.busy("s"), "its gateway is gone, and its requests with it"


def test_whoever_remembers_when_it_last_looked_counts_each_window_once() -> None:
    log, clock = a_log()
    one, late = a_window(version="1", arrivals=1), a_window(version="2", arrivals=1)
    one, late = (replace(each, end_ms=clock.now_ms()) for each in (one, late))
    tell(log, one)
    looked_ms = clock.at_ms
    assert log.told(ENDPOINT, 0) == [one]
    clock.at_ms += 1
    tell(log, late, gateway="whose clock is behind")
    assert log.told(ENDPOINT, looked_ms) == [late]
    assert log.told(ENDPOINT, clock.at_ms) == []
    assert log.told(ENDPOINT, 0) == [one, late]
