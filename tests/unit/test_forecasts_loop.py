"""The platform keeps what it counts, learns from it, and says so; in virtual time."""

import asyncio
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.scaling_world import World, in_world, scaled_by

from leptonai.cli.scaling import requests_chart
from leptonai.control.loops.forecasts import BEGIN_AFTER_MS, KEEP_EVERY_MS
from leptonai.core import counts
from leptonai.core.traffic import TrafficWindow
from leptonai.spec.endpoints import RequestHistory, TargetThroughput

DAY_S = 86_400
KEPT_S = (KEEP_EVERY_MS + BEGIN_AFTER_MS) / 1000 + 1


def a_window(start_ms: int, end_ms: int, arrivals: int, **more: int) -> TrafficWindow:
    return TrafficWindow(
        workspace="w", endpoint="e", start_ms=start_ms, end_ms=end_ms, arrivals=arrivals, **more
    )


@given(st.lists(st.one_of(st.just(math.nan), st.integers(0, 1 << 33)), max_size=40))
def test_a_day_is_packed_and_read_again(some):
    day = [*map(float, some), *[math.nan] * (counts.BINS_A_DAY - len(some))]
    largest = [number if number != number else min(number, 0xFFFF_FFFE) for number in day]
    assert _same(counts.unpack(counts.pack(day)), largest)


@pytest.mark.parametrize("spoilt", [b"", b"?", b"B", b"Hnonsense", counts.pack([0.0] * 5)])
def test_a_day_that_cannot_be_read_was_not_counted(spoilt):
    assert all(map(math.isnan, counts.unpack(spoilt)))


def test_a_busy_endpoint_costs_a_few_kilobytes_a_day_and_a_quiet_one_next_to_nothing():
    busy = [float(90 + at * 7919 % 21) for at in range(counts.BINS_A_DAY)]
    assert len(counts.pack(busy)) < 7_000
    assert len(counts.pack([0.0] * counts.BINS_A_DAY)) < 50


@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 5 * 60_000), st.integers(0, 10**6)),
        max_size=10,
    )
)
def test_every_request_is_counted_in_one_bin_of_its_window(windows):
    told = [a_window(start, start + length, n) for start, length, n in windows]
    bins = counts.counted(told)
    assert sum(bins.values()) == sum(n for _, _, n in windows)
    spans = [(start // 10_000, (start + length) // 10_000) for start, length, _ in windows]
    assert all(any(first <= one <= last for first, last in spans) for one in bins)


def test_what_a_gateway_could_not_tell_for_long_is_no_history():
    assert counts.counted([a_window(0, 11 * 60_000, 1000)]) == {}
    assert counts.counted([a_window(0, 1000, 5, matching=2)], matching=True) == {0: 2}


def test_what_was_counted_twice_over_a_day_adds_up_and_silence_is_zero():
    day = counts.with_more(b"", {0: 3, 1: 0})
    day = counts.with_more(day, {1: 4, 5: 1})
    begins_s, numbers = counts.history({20_000: day})
    assert begins_s == 20_000 * DAY_S
    assert _same(numbers, [3, 4, math.nan, math.nan, math.nan, 1])
    assert counts.rates(numbers, 20) == [0.35, None, 0.1]


def _same(found, wanted):
    return [-1 if n != n else n for n in found] == [-1 if n != n else n for n in wanted]


# --- the loop ------------------------------------------------------------------------------------


def test_what_gateways_tell_is_kept_and_outlives_the_control_plane():
    async def story(world: World) -> None:
        await world.serve(scaled_by(1, 10, target_throughput=TargetThroughput(qpm=600)))
        await world.calls(2, seconds=60)
        await asyncio.sleep(KEPT_S)
        assert await kept(world) == 120
        await world.plane.close()
        world.start()
        await world.plane.start()
        await world.calls(2, seconds=60)
        await asyncio.sleep(KEPT_S)
        assert await kept(world) == 240
        assert "0 days of history" not in (await world.endpoint()).autoscaling.forecast
        assert "of history, of at least 3" in (await world.endpoint()).autoscaling.forecast

    in_world(story)


async def kept(world: World) -> float:
    endpoint = await world.endpoint()
    days = await world.store.counts.read("default", endpoint.id, 0)
    return sum(number for day in days.values() for number in counts.unpack(day) if number == number)


def rate_at(at_s: float) -> float:
    """Requests/s of an endpoint that people use by day: from 2 at night to 20, within ten minutes
    of 9:00, and back at 18:00."""
    hour = at_s % DAY_S / 3600
    up = min(1.0, max(0.0, (hour - 9) * 6))
    down = min(1.0, max(0.0, (hour - 18) * 6))
    return 2 + 18 * (up - down)


@dataclass
class Tally:
    replica_s: float = 0.0
    short_s: float = 0.0  # in which there was less than one replica for each request/s
    because: set[str] = field(default_factory=set)


async def a_morning(world: World, *, history_days: int) -> Tally:
    """From 8:30 to 9:30, after so many days of the same."""
    spec = scaled_by(1, 60, target_throughput=TargetThroughput(qpm=60))
    world.slow_s = 120  # to start a replica
    await world.serve(spec)
    now_s = world.clock.now_ms() / 1000
    await asyncio.sleep((8 * 3600 + 30 * 60 - now_s) % DAY_S)
    today = world.clock.now_ms() // 1000 // DAY_S
    endpoint = await world.endpoint()
    for day in range(today - history_days, today):
        column = [float(round(10 * rate_at(at * 10))) for at in range(counts.BINS_A_DAY)]
        packed = counts.pack(column)
        await world.store.counts.change("default", endpoint.id, day, lambda _, made=packed: made)
    await world.plane.close()  # the next one reads what is known
    world.start()
    await world.plane.start()
    tally = Tally()
    for _ in range(60 * 60 // 10):
        rate = rate_at(world.clock.now_ms() / 1000)
        await world.calls(round(rate), seconds=10)
        seen = await world.endpoint()
        ready = seen.ready_replicas
        tally.replica_s += 10 * ready
        tally.short_s += 10 * (ready < math.floor(rate))
        tally.because.add(seen.autoscaling.forecast)
    return tally


def test_with_days_of_history_it_has_replicas_before_the_morning_needs_them():
    tallies = {}
    for days in (0, 5):

        async def story(world: World, days: int = days) -> None:
            tallies[days] = await a_morning(world, history_days=days)

        in_world(story)
    assert tallies[5].short_s < tallies[0].short_s / 4
    assert tallies[5].replica_s < 1.5 * tallies[0].replica_s
    assert any("by a forecast 12" in words for words in tallies[5].because)
    assert not any("by a forecast" in words for words in tallies[0].because)


def test_the_chart_shows_the_last_day_beside_those_before():
    hour = [None if at < 5 else float(at) for at in range(288)]
    history = RequestHistory(
        begins_at=20_000 * DAY_S, step_seconds=300, requests_per_second=[*hour, *hour]
    )
    text = "\n".join(requests_chart(history, width=80, coloured=False))
    assert "requests/s by hour" in text
    assert "the days before, on average" in text
    one_day = RequestHistory(begins_at=0, step_seconds=300, requests_per_second=[*hour])
    assert "the days before" not in "\n".join(requests_chart(one_day, width=80, coloured=False))
