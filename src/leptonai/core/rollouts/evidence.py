"""From traffic windows to a verdict on a new revision.

Three shares of the requests are compared with those of the stable revision at the same time: those
that failed, those that were refused, and those that took longer than nearly all requests to the
stable revision do (than the bound of the bucket that its 95th percentile lies in). Of failures any
difference that is proven counts; a few more slow ones do not: the more of the requests a replica
gets, the longer they take.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import log

from msgspec.structs import replace

from leptonai.core.rollouts.betting import Block, bet_on_no_worse, bet_on_worse, log_wealth
from leptonai.core.rollouts.values import Bets, Differences, Evidence, Seen
from leptonai.core.traffic import SERVICE_BOUNDS_MS, TrafficWindow

# The most likely error, over a whole roll-out and however often one looks: that a revision which
# is no worse is rolled back, …
FALSE_ROLLBACK = 0.01
FALSE_PROMOTION = 0.05  # … and that one which is worse by the margin or more is promoted.
FAILED, REFUSED, SLOW = "failed", "refused", "slow"
MEASURES = (FAILED, REFUSED, SLOW)
PROVEN = (FAILED, SLOW)  # that a promotion waits for: shown not to be worse
SLOW_SHARE = 0.05  # of the requests to the stable revision, at most
NEVER_SLOW_MS = 5.0  # what takes no longer: there, machines differ more than programs do
ENOUGH_TO_KNOW_SLOW = 100  # requests to the stable revision
UNKNOWN_RATE, UNKNOWN_REQUESTS = 0.01, 50  # what is bet on before anything was seen


@dataclass(frozen=True, slots=True)
class Worse:
    """The new revision is worse."""

    because: str  # for people


@dataclass(frozen=True, slots=True)
class Undecided:
    lacks: str  # what would decide it, for people


@dataclass(frozen=True, slots=True)
class NoWorse:
    """The new revision is not worse by a margin."""


Verdict = Worse | Undecided | NoWorse


def evidence_of_step(before: Seen) -> Evidence:
    """None yet, given what is known of the stable revision."""
    return Evidence(before=before, slow_above_ms=slow_above_ms(before.service_ms))


def seen_of(windows: Iterable[TrafficWindow], version: str, *, shadow: bool = False) -> Seen:
    total = Seen()
    for window in windows:
        if window.version == version and window.shadow is shadow:
            total = added(total, _seen_in(window))
    return total


def added(one: Seen, other: Seen) -> Seen:
    return Seen(
        requests=one.requests + other.requests,
        failed=one.failed + other.failed,
        refused=one.refused + other.refused,
        service_ms=tuple(map(sum, zip(one.service_ms, other.service_ms, strict=True)))
        if one.service_ms and other.service_ms
        else one.service_ms or other.service_ms,
    )


def counted(evidence: Evidence, stable: Seen, new: Seen, *, warm: bool) -> Evidence:
    """With the requests of one more block.

    Args:
        warm: the new revision has had time to warm up, so how long it takes may be judged.
    """
    known = added(evidence.before, evidence.stable)
    above_ms = evidence.slow_above_ms
    bets = dict(evidence.bets)
    for measure in MEASURES:
        if measure == SLOW and (above_ms is None or not warm):
            continue
        stable_of, stable_shown = shown(stable, measure, above_ms)
        new_of, new_shown = shown(new, measure, above_ms)
        block = Block(stable_of, stable_shown, new_of, new_shown)
        if not (block.stable or block.new):
            continue
        laid = bets.get(measure, Bets())
        rate = _expected(*shown(known, measure, above_ms))
        bets[measure] = Bets(
            worse=bet_on_worse(laid.worse, block, rate, by_margin=measure == SLOW),
            no_worse=bet_on_no_worse(laid.no_worse, block, rate),
        )
    known = added(known, stable)
    return replace(
        evidence,
        stable=added(evidence.stable, stable),
        new=added(evidence.new, new),
        bets=bets,
        slow_above_ms=slow_above_ms(known.service_ms) if above_ms is None else above_ms,
    )


def compared(evidence: Evidence, windows: Iterable[TrafficWindow]) -> Evidence:
    """With what copies of requests came to."""
    differences = evidence.differences
    for window in windows:
        if window.shadow:
            differences = Differences(
                compared=differences.compared + window.compared,
                status=differences.status + window.status_differs,
                body=differences.body + window.body_differs,
            )
    return replace(evidence, differences=differences)


def verdict(evidence: Evidence, steps: int, stable_revision: int) -> Verdict:
    """
    Args:
        steps: of the roll-out: each gets its part of the risk of an error.
    """
    needed = log(len(MEASURES) * steps / FALSE_ROLLBACK)
    for measure in MEASURES:
        laid = evidence.bets.get(measure, Bets())
        if log_wealth(laid.worse) >= needed:
            return Worse(_in_words(evidence, measure, stable_revision))
    needed = log(1 / FALSE_PROMOTION)
    for measure in PROVEN:
        laid = evidence.bets.get(measure, Bets())
        if log_wealth(laid.no_worse) < needed:
            if not evidence.new.requests:
                return Undecided("it has had no requests yet")
            if not evidence.stable.requests:
                return Undecided("there are no requests to the old revision to compare with")
            what = "how many fail" if measure == FAILED else "how long they take"
            return Undecided(f"more requests are needed to tell {what}")
    return NoWorse()


def shown(seen: Seen, measure: str, above_ms: float | None) -> tuple[int, int]:
    """How many requests there were, and how many of them show what is measured."""
    if measure == FAILED:
        return seen.requests, seen.failed
    if measure == REFUSED:
        return seen.requests, seen.refused
    assert above_ms is not None
    first = SERVICE_BOUNDS_MS.index(above_ms) + 1
    return sum(seen.service_ms), sum(seen.service_ms[first:])


def slow_above_ms(service_ms: tuple[int, ...]) -> float | None:
    """The smallest bound that matters and at most SLOW_SHARE of the requests exceeded."""
    total = sum(service_ms)
    if total < ENOUGH_TO_KNOW_SLOW:
        return None
    above = total
    for count, bound_ms in zip(service_ms, SERVICE_BOUNDS_MS, strict=False):
        above -= count
        if above <= SLOW_SHARE * total and bound_ms >= NEVER_SLOW_MS:
            return bound_ms
    return SERVICE_BOUNDS_MS[-1]


def percent_text(share: float) -> str:
    """ "0.1 %"; "under 0.1 %" of what is not nothing."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{round(100 * share, 1):g} %"


def _seen_in(window: TrafficWindow) -> Seen:
    """One request that a replica refused or broke off is one that failed, also where a retry
    answered it: under the version that answered it counts as what became of it."""
    ended = sum(window.ended.values())
    retried = max(0, window.lost_attempts - (ended - window.served))
    return Seen(
        requests=ended + retried,
        failed=window.ended.get(5, 0) + retried,
        refused=window.ended.get(4, 0),
        service_ms=window.service_ms,
    )


def _expected(requests: int, seen: int) -> float:
    return (seen + UNKNOWN_RATE * UNKNOWN_REQUESTS) / (requests + UNKNOWN_REQUESTS)


def _in_words(evidence: Evidence, measure: str, stable_revision: int) -> str:
    """ "3 of 412 requests failed, against 0.1 % of those to revision 1"."""
    above_ms = evidence.slow_above_ms
    of, count = shown(evidence.new, measure, above_ms)
    stable_of, stable_count = shown(evidence.stable, measure, above_ms)
    words = {
        FAILED: "failed",
        REFUSED: "were refused (4xx)",
        SLOW: f"took longer than {above_ms or 0:g} ms",
    }[measure]
    against = percent_text(stable_count / stable_of) if stable_of else "none"
    return (
        f"{count} of {of} requests {words}, against {against} of those to "
        f"revision {stable_revision}"
    )
