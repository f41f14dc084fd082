"""A new revision is judged by its requests, at any time, and seldom wrongly."""

import random
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from leptonai.core.rollouts.betting import (
    MARGIN,
    START_NO_WORSE,
    START_WORSE,
    Block,
    bet_on_no_worse,
    bet_on_worse,
    log_wealth,
    margin_of,
)
from leptonai.core.rollouts.evidence import (
    NoWorse,
    Undecided,
    Verdict,
    Worse,
    counted,
    evidence_of_step,
    percent_text,
    seen_of,
    slow_above_ms,
    verdict,
)
from leptonai.core.rollouts.values import Evidence, Seen
from leptonai.core.traffic import SERVICE_BOUNDS_MS, TrafficWindow

FAST, SLOW = 4, 8  # buckets
WORLDS = 200
LOOKS = 100


def times(fast: int, slow: int = 0) -> tuple[int, ...]:
    counts = [0] * (len(SERVICE_BOUNDS_MS) + 1)
    counts[FAST], counts[SLOW] = fast, slow
    return tuple(counts)


def drawn(world: random.Random, requests: int, fails: float, slow: float = 0.02) -> Seen:
    """What became of so many requests."""
    failed = sum(world.random() < fails for _ in range(requests))
    late = sum(world.random() < slow for _ in range(requests))
    return Seen(requests=requests, failed=failed, service_ms=times(requests - late, late))


def judged(
    seed: int, *, fails: float = 0.001, new_fails: float = 0.001, new_slow: float = 0.02
) -> tuple[Verdict, Evidence]:
    """What a canary with a tenth of about 100 requests a second comes to."""
    world = random.Random(seed)
    evidence = evidence_of_step(drawn(world, 1_000, fails))
    found: Verdict = Undecided("")
    for _ in range(1_000):
        new = sum(world.random() < 0.1 for _ in range(100))
        evidence = counted(
            evidence,
            drawn(world, 100 - new, fails),
            drawn(world, new, new_fails, new_slow),
            warm=True,
        )
        found = verdict(evidence, steps=2, stable_revision=1)
        if not isinstance(found, Undecided):
            break
    return found, evidence


# --- how often it errs ---------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.1, 0.5])
@pytest.mark.parametrize(
    "rates",
    [[0.0], [0.01], [0.3], [0.001, 0.5, 0.001]],
    ids=["nothing fails", "some fail", "many fail", "both suffer for a while"],
)
def test_however_often_one_looks_no_difference_is_seldom_taken_for_one(weight, rates):
    """In at most a tenth of the worlds, where a tenth is the risk taken; five deviations more are
    granted to chance."""
    alarms = 0
    for seed in range(WORLDS):
        world = random.Random(seed)
        wealth: tuple[float, ...] = START_WORSE
        stable_seen = stable_shown = 0
        for look in range(LOOKS):
            rate = rates[look * len(rates) // LOOKS]
            requests = world.randrange(40)
            new = sum(world.random() < weight for _ in range(requests))
            block = Block(
                requests - new,
                sum(world.random() < rate for _ in range(requests - new)),
                new,
                sum(world.random() < rate for _ in range(new)),
            )
            wealth = bet_on_worse(wealth, block, (stable_shown + 0.5) / (stable_seen + 50))
            stable_seen += block.stable
            stable_shown += block.stable_shown
            if log_wealth(wealth) >= log(1 / 0.1):
                alarms += 1
                break
    assert alarms <= 0.1 * WORLDS + 5 * (0.1 * 0.9 * WORLDS) ** 0.5


def test_one_that_is_worse_by_the_margin_is_seldom_taken_for_good():
    promotions = 0
    for seed in range(WORLDS):
        world = random.Random(seed)
        wealth: tuple[float, ...] = START_NO_WORSE
        rate = 0.02
        for _ in range(LOOKS):
            block = Block(
                90,
                sum(world.random() < rate for _ in range(90)),
                10,
                sum(world.random() < rate + margin_of(rate) for _ in range(10)),
            )
            wealth = bet_on_no_worse(wealth, block, rate)
            if log_wealth(wealth) >= log(1 / 0.1):
                promotions += 1
                break
    assert promotions <= 0.1 * WORLDS + 5 * (0.1 * 0.9 * WORLDS) ** 0.5


COUNTS = st.integers(0, 50)


@given(
    COUNTS, COUNTS, st.floats(0, 1), st.floats(1e-4, 0.9), st.lists(st.floats(-30, 30), min_size=7,
    max_size=7), st.booleans()
)  # fmt: skip
def test_in_expectation_no_bet_on_worse_grows_where_nothing_is(
    stable, new, rate, guess, wealth, by_margin
):
    """Exactly: over all outcomes of a block, each weighed with its probability."""
    before = log_wealth(wealth)
    new_rate = min(1.0, rate + margin_of(guess)) if by_margin else rate
    total = 0.0
    for stable_shown in range(stable + 1):
        for new_shown in range(new + 1):
            chance = _binomial(stable, stable_shown, rate) * _binomial(new, new_shown, new_rate)
            if chance > 0:
                block = Block(stable, stable_shown, new, new_shown)
                after = bet_on_worse(wealth, block, guess, by_margin=by_margin)
                total += chance * 2.718281828459045 ** (log_wealth(after) - before)
    assert total <= 1 + 1e-6


def _binomial(count: int, shown: int, rate: float) -> float:
    from math import comb

    return comb(count, shown) * rate**shown * (1 - rate) ** (count - shown)


# --- what it finds -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "world",
    [{"new_fails": 0.3}, {"new_fails": 0.02}, {"new_slow": 0.3}, {"fails": 0.1, "new_fails": 0.2}],
    ids=["a third fails", "a fiftieth fails", "a third is slow", "twice as many fail"],
)
def test_what_is_worse_is_found(world):
    assert [type(judged(seed, **world)[0]) for seed in range(10)] == [Worse] * 10


def test_one_that_is_slower_by_a_little_is_no_worse():
    found = [type(judged(seed, new_slow=0.03)[0]) for seed in range(10)]
    assert Worse not in found
    assert NoWorse in found


def test_the_worse_it_is_the_fewer_suffer():
    suffered = [
        max(judged(seed, new_fails=fails)[1].new.requests for seed in range(10))
        for fails in (0.02, 0.1, 0.5)
    ]
    assert suffered == sorted(suffered, reverse=True)
    assert suffered[-1] < 40


@pytest.mark.parametrize("fails", [0.0, 0.001, 0.05, 0.3])
def test_what_is_no_worse_is_found_too(fails):
    found = [type(judged(seed, fails=fails, new_fails=fails)[0]) for seed in range(10)]
    assert found == [NoWorse] * 10


def test_one_that_goes_wrong_late_is_found_soon():
    world = random.Random(1)
    evidence = evidence_of_step(drawn(world, 1_000, 0.001))
    for _ in range(300):
        evidence = counted(evidence, drawn(world, 90, 0.001), drawn(world, 10, 0.001), warm=True)
    suffered = 0
    while not isinstance(verdict(evidence, steps=2, stable_revision=1), Worse):
        evidence = counted(evidence, drawn(world, 90, 0.001), drawn(world, 10, 0.2), warm=True)
        suffered += 10
    assert suffered <= 200


def test_it_says_what_was_found_and_against_what():
    stable = Seen(requests=3_000, failed=3, service_ms=times(3_000))
    found = verdict(
        counted(
            evidence_of_step(replace(stable, failed=1)),
            stable,
            Seen(requests=412, failed=13, service_ms=times(412)),
            warm=True,
        ),
        steps=2,
        stable_revision=4,
    )
    assert found == Worse("13 of 412 requests failed, against 0.1 % of those to revision 4")


def test_refused_requests_are_judged_too():
    stable = Seen(requests=3_000, refused=30, service_ms=times(3_000))
    new = Seen(requests=300, refused=290, service_ms=times(300))
    found = verdict(counted(evidence_of_step(stable), stable, new, warm=True), 2, 1)
    assert found == Worse(
        "290 of 300 requests were refused (4xx), against 1 % of those to revision 1"
    )


@pytest.mark.parametrize(
    ("stable", "new", "lacks"),
    [
        (Seen(), Seen(), "it has had no requests yet"),
        (Seen(), drawn(random.Random(1), 50, 0), "there are no requests to the old revision"),
        (drawn(random.Random(1), 50, 0), drawn(random.Random(1), 5, 0), "to tell how many fail"),
    ],
)
def test_it_says_what_it_lacks(stable, new, lacks):
    found = verdict(counted(evidence_of_step(Seen()), stable, new, warm=True), 2, 1)
    assert isinstance(found, Undecided)
    assert lacks in found.lacks


def test_how_long_it_takes_is_not_judged_while_it_warms_up():
    stable, cold = drawn(random.Random(1), 900, 0), Seen(requests=100, service_ms=times(0, 100))
    cool, warm = (
        verdict(counted(evidence_of_step(stable), stable, cold, warm=warm), 2, 1)
        for warm in (False, True)
    )
    assert isinstance(cool, Undecided)
    assert isinstance(warm, Worse)


def test_a_margin_never_leaves_the_rates_there_are():
    assert margin_of(0.0) == MARGIN
    assert all(rate + margin_of(rate) < 1 for rate in (0.5, 0.9, 0.999))


# --- what is counted -----------------------------------------------------------------------------


def a_window(**fields: object) -> TrafficWindow:
    given = {"workspace": "ws", "endpoint": "a", "start_ms": 0, "end_ms": 1_000, **fields}
    return TrafficWindow(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("window", "seen"),
    [
        (a_window(ended={2: 8, 4: 1, 5: 1}, service_ms=times(10)), (10, 1, 1)),
        (a_window(ended={2: 8, 5: 2}, service_ms=times(9), lost_attempts=1), (10, 2, 0)),
        (a_window(ended={2: 8}, service_ms=times(8), lost_attempts=2), (10, 2, 0)),
    ],
    ids=["what it answered", "broken off without a retry", "broken off and answered by another"],
)
def test_a_request_that_a_replica_breaks_off_failed_also_where_another_answered(window, seen):
    counts = seen_of([replace(window, version="2"), a_window(version="1", ended={2: 5})], "2")
    assert (counts.requests, counts.failed, counts.refused) == seen


def test_copies_are_not_counted_as_requests():
    copies = a_window(version="2", shadow=True, ended={5: 3}, service_ms=times(3))
    assert seen_of([copies], "2") == Seen()
    assert seen_of([copies], "2", shadow=True).failed == 3


@pytest.mark.parametrize(
    ("service_ms", "bound_ms"),
    [
        (times(99), None),
        (times(95, 5), SERVICE_BOUNDS_MS[FAST]),
        (times(94, 6), SERVICE_BOUNDS_MS[SLOW]),
    ],
    ids=["too few to know", "one in twenty above", "more above"],
)
def test_slow_is_what_one_request_in_twenty_exceeds(service_ms, bound_ms):
    assert slow_above_ms(service_ms) == bound_ms


def test_small_shares_are_not_told_as_nothing():
    assert [percent_text(share) for share in (0, 0.0002, 0.001, 0.0714)] == [
        "0 %",
        "under 0.1 %",
        "0.1 %",
        "7.1 %",
    ]
