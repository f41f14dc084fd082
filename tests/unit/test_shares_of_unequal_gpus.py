"""Shares of unequal GPUs, and the rounds that make them true."""

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.core.scheduler.optimize.shares import (
    Claim,
    Shares,
    cheapest,
    fair_share,
    fairest,
    most_progress,
    relative,
)
from leptonai.core.scheduler.rounds import STINT_ROUNDS, Ledger, next_round, settle
from leptonai.errors import InvalidRequest, TooLarge, Unsatisfiable

GPUS = {"k80": 2, "v100": 2}


def a_claim(id, *, gpus=1, k80=1.0, v100=1.0, weight=1.0):
    return Claim(id=id, gpus=gpus, rates={"k80": k80, "v100": v100}, weight=weight)


def rounded(shares):
    return {
        gang: {type_: round(share, 6) for type_, share in of.items()}
        for gang, of in shares.of.items()
    }


# --- the linear programs -------------------------------------------------------------------------


def test_the_new_gpus_go_to_whom_they_help_the_most():
    claims = [a_claim("little", v100=1.2), a_claim("much", v100=5.0)]
    shares = most_progress(claims, {"k80": 1, "v100": 1})
    assert (shares.value, shares.bound) == pytest.approx((6.0, 6.0))
    assert rounded(shares) == {"little": {"k80": 1.0}, "much": {"v100": 1.0}}


def test_the_most_progress_leaves_equals_running_rather_than_taking_turns():
    claims = [a_claim(name) for name in "abcde"]
    assert rounded(most_progress(claims, GPUS)) == {
        "a": {"k80": 1.0},
        "b": {"k80": 1.0},
        "c": {"v100": 1.0},
        "d": {"v100": 1.0},
        "e": {},
    }


def test_the_fairest_shares_give_equals_the_same_and_a_wide_gang_its_part_of_the_time():
    claims = [a_claim("a"), a_claim("b"), a_claim("wide", gpus=2)]
    shares = fairest(claims, {"v100": 2})
    assert rounded(shares) == {
        "a": {"v100": 0.666667},
        "b": {"v100": 0.666667},
        "wide": {"v100": 0.333333},
    }
    assert shares.value == pytest.approx(1.0)


def test_unequal_gpus_make_everybody_better_off_than_an_equal_split():
    claims = [a_claim("a", v100=2.0), a_claim("b", v100=4.0), a_claim("c", v100=9.0)]
    gpus = {"k80": 1, "v100": 1}
    shares = fairest(claims, gpus)
    progress = {claim.id: shares.progress(claim) for claim in claims}
    least = min(fair_share(claim, progress[claim.id], claims, gpus) for claim in claims)
    assert least == pytest.approx(shares.value)
    assert shares.value > 1.1


def test_twice_the_weight_is_due_twice_the_share():
    claims = [a_claim("a"), a_claim("b", weight=2.0)]
    shares = fairest(claims, {"v100": 1})
    assert rounded(shares) == {"a": {"v100": 0.333333}, "b": {"v100": 0.666667}}


def test_the_cheapest_shares_use_the_dear_gpus_only_for_what_the_others_cannot_give():
    claims = [a_claim("a", v100=4.0)]
    shares = cheapest(claims, GPUS, price={"k80": 1.0, "v100": 9.0}, at_least=0.5)
    assert rounded(shares) == {"a": {"k80": 0.916667, "v100": 0.083333}}
    assert shares.value == pytest.approx(0.916667 + 0.75, abs=1e-5)


def test_shares_that_cannot_be_say_how_much_could():
    with pytest.raises(Unsatisfiable) as said:
        cheapest([a_claim("a")], GPUS, price={"k80": 1, "v100": 1}, at_least=2.0)
    assert (said.value.message, said.value.hint) == (
        "no shares give every gang 2 of an equal share",
        "the most that all can have is 1",
    )


@pytest.mark.parametrize(
    ("claims", "error", "message"),
    [
        ([], InvalidRequest, "there is no gang to share between"),
        ([a_claim("a"), a_claim("a")], InvalidRequest, "gang 'a' is there twice"),
        ([a_claim("a", v100=float("nan"))], InvalidRequest, "gang 'a' has v100 nan"),
        ([a_claim("a", weight=0)], InvalidRequest, "gang 'a' has 1 GPUs and weight 0"),
        ([a_claim("a", gpus=3)], Unsatisfiable, "gang 'a' can run on no type of GPU"),
        ([Claim(id="a", rates={})], Unsatisfiable, "gang 'a' can run on no type of GPU"),
    ],
)
def test_claims_that_make_no_sense_say_where(claims, error, message):
    with pytest.raises(error) as said:
        fairest(claims, GPUS)
    assert said.value.message == message


def test_shares_that_take_too_long_are_refused_with_what_makes_it_quicker(monkeypatch):
    monkeypatch.setattr("leptonai.core.scheduler.optimize.shares.TIME_LIMIT_S", 1e-6)
    with pytest.raises(TooLarge) as said:
        fairest([a_claim(f"g{n:03}", v100=1 + n / 300) for n in range(300)], {"k80": 9, "v100": 9})
    assert (said.value.message, said.value.hint) == (
        "the shares of 300 kinds of gangs were not found in 1e-06 s",
        "give gangs that are alike the same rates",
    )


def test_a_price_that_is_missing_is_named():
    with pytest.raises(InvalidRequest, match="there is no price of 'k80'"):
        cheapest([a_claim("a")], GPUS, price={"v100": 1}, at_least=0.1)


@st.composite
def crowds(draw):
    rate = st.sampled_from([0.0, 0.5, 1.0, 3.0])
    gpus = {"k80": draw(st.integers(1, 8)), "v100": draw(st.integers(1, 8))}
    widest = max(gpus.values())
    claims = [
        Claim(
            id=f"g{number}",
            gpus=draw(st.sampled_from([1, 1, 2, 4])),
            rates={"k80": draw(rate), "v100": draw(rate)},
        )
        for number in range(draw(st.integers(1, 9)))
    ]
    able = [
        claim
        for claim in claims
        if any(rate and gpus[type_] >= claim.gpus for type_, rate in claim.rates.items())
    ]
    return (able or [Claim(id="g", gpus=widest, rates={"k80": 1.0, "v100": 1.0})]), gpus


@given(crowds())
def test_shares_ask_for_no_more_than_there_is_and_nothing_realised_beats_their_bound(crowd):
    claims, gpus = crowd
    for shares in (fairest(claims, gpus), most_progress(relative(claims), gpus)):
        for type_, many in gpus.items():
            asked = sum(c.gpus * shares.of[c.id].get(type_, 0.0) for c in claims)
            assert asked <= many * (1 + 1e-6)
        assert all(sum(of.values()) <= 1 + 1e-6 for of in shares.of.values())


# --- rounds --------------------------------------------------------------------------------------


def played(claims, shares, gpus, rounds, start_cost=0.0):
    """Who ran where, round by round."""
    ledger, seen = Ledger(), []
    for _ in range(rounds):
        seen.append(next_round(claims, shares, gpus, ledger))
        ledger = settle(ledger, shares, seen[-1], start_cost=start_cost)
    return seen


@given(crowds())
def test_a_round_gives_whole_gangs_whole_gpus_and_leaves_none_that_somebody_could_use(crowd):
    claims, gpus = crowd
    shares = fairest(claims, gpus)
    for placed in played(claims, shares, gpus, rounds=6):
        left = dict(gpus)
        for claim in claims:
            if claim.id in placed:
                assert claim.rates[placed[claim.id]] > 0
                left[placed[claim.id]] -= claim.gpus
        assert min(left.values()) >= 0
        assert not [
            claim.id
            for claim in claims
            if claim.id not in placed
            for type_, rate in claim.rates.items()
            if rate > 0 and left[type_] >= claim.gpus
        ]


@given(crowds())
def test_equal_ledgers_give_equal_rounds_in_whatever_order_gangs_are_told(crowd):
    claims, gpus = crowd
    shares = fairest(claims, gpus)
    assert played(claims, shares, gpus, 4) == played(claims[::-1], shares, gpus, 4)


def test_shares_come_true_within_a_stint():
    claims = [a_claim(name) for name in "abc"]
    wanted = {"a": 0.5, "b": 0.3, "c": 0.2}
    shares = Shares(of={name: {"v100": x} for name, x in wanted.items()}, value=1, bound=1)
    rounds = 400
    seen = [gang for placed in played(claims, shares, {"v100": 1}, rounds) for gang in placed]
    behind = {name: wanted[name] * rounds - seen.count(name) for name in wanted}
    assert all(abs(rounds_) <= STINT_ROUNDS for rounds_ in behind.values()), behind


def test_a_gang_that_runs_goes_on_for_a_while():
    claims = [a_claim("a"), a_claim("b")]
    half = Shares(of={name: {"v100": 0.5} for name in "ab"}, value=1, bound=1)
    turns = [next(iter(placed)) for placed in played(claims, half, {"v100": 1}, 100)]
    changes = sum(one != other for one, other in pairwise(turns))
    assert changes <= 100 / STINT_ROUNDS


def test_a_wide_gang_is_not_passed_for_ever_by_narrow_ones():
    claims = [a_claim("wide", gpus=4), *(a_claim(f"n{number}") for number in range(8))]
    shares = fairest(claims, {"v100": 4})
    seen = [placed for placed in played(claims, shares, {"v100": 4}, 200) if "wide" in placed]
    assert len(seen) / 200 == pytest.approx(shares.of["wide"]["v100"], rel=0.1)


def test_a_start_that_cost_time_is_owed_again():
    ledger = Ledger(running={"a": "v100"})
    half = Shares(of={name: {"v100": 0.5} for name in "ab"}, value=1, bound=1)
    after = settle(ledger, half, {"a": "v100", "b": "v100"}, start_cost=0.25)
    assert after.tags == {("a", "v100"): 2.0, ("b", "v100"): 1.5}
    assert after.running == {"a": "v100", "b": "v100"}


def test_who_is_new_owes_nothing_and_is_owed_nothing():
    claims = [a_claim("old"), a_claim("older")]
    shares = Shares(of={"old": {"v100": 0.5}, "older": {"v100": 0.5}}, value=1, bound=1)
    ledger = Ledger(tags={("old", "v100"): 40.0, ("older", "v100"): 30.0, ("gone", "v100"): 2.0})
    changed = Shares(of={**shares.of, "new": {"v100": 0.25}}, value=1, bound=1)
    after = settle(ledger, changed, {})
    assert after.tags == {("old", "v100"): 40.0, ("older", "v100"): 30.0, ("new", "v100"): 30.0}
    assert next_round([*claims, a_claim("new")], changed, {"v100": 1}, after) == {"new": "v100"}


def test_narrow_gangs_make_room_for_a_wide_one_rather_than_leave_a_gap():
    claims = [a_claim("wide", gpus=4), a_claim("pair", gpus=2), a_claim("one")]
    shares = Shares(
        of={"wide": {"v100": 0.5}, "pair": {"v100": 0.5}, "one": {"v100": 0.5}}, value=1, bound=1
    )
    ledger = Ledger(tags={("wide", "v100"): 3.0, ("pair", "v100"): 2.0, ("one", "v100"): 2.0})
    assert next_round(claims, shares, {"v100": 4}, ledger) == {"wide": "v100"}


def test_rounds_are_dealt_without_the_solver():
    code = """
import sys
from leptonai.core.scheduler.rounds import Ledger, next_round
from leptonai.core.scheduler.optimize import Claim, Shares
wide, narrow = Claim(id="w", gpus=4, rates={"v100": 1.0}), Claim(id="n", rates={"v100": 1.0})
shares = Shares(of={"n": {"v100": 0.6}, "w": {"v100": 0.5}}, value=1, bound=1)
assert next_round([wide, narrow], shares, {"v100": 4}, Ledger(tags={("w", "v100"): 1.0}))
sys.exit("scipy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
