"""When a checkpoint is written, which are kept, how the learning rate goes: decisions alone."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.errors import InvalidRequest
from leptonai.training.progress import Progress
from leptonai.training.saving import LONGEST_S, SHORTEST_S, Keep, interval_s, to_discard
from leptonai.training.schedules import Plateau, schedule_named


def test_the_interval_is_youngs_where_saving_costs_little():
    day_s = 24 * 3_600
    assert interval_s(2.0, failures=0, elapsed_s=0) == pytest.approx(
        math.sqrt(2 * 2.0 * day_s), rel=0.01
    )


def test_who_fails_often_saves_often():
    calm = interval_s(2.0, failures=0, elapsed_s=3_600)
    stormy = interval_s(2.0, failures=50, elapsed_s=3_600)
    assert stormy < calm / 5


@given(cost_s=st.floats(0, 1e6), failures=st.integers(0, 10**6), elapsed_s=st.floats(0, 1e9))
def test_the_interval_has_bounds(cost_s, failures, elapsed_s):
    found = interval_s(cost_s, failures=failures, elapsed_s=elapsed_s)
    between_s = (24 * 3_600 + elapsed_s) / (1 + failures)
    assert min(SHORTEST_S, between_s) <= found <= max(LONGEST_S, between_s)


@pytest.mark.parametrize(
    ("keep", "discarded"),
    [
        (Keep(last=2, best=0), [10, 20, 30]),
        (Keep(last=1, best=1), [10, 30, 40]),  # 20 is the best
        (Keep(last=1, best=2), [10, 40]),
        (Keep(last=1, best=0, every=20), [10, 30]),
        (Keep(last=0, best=0), [10, 20, 30, 40]),  # the newest always stays
    ],
)
def test_checkpoints_are_kept_by_age_by_score_and_as_milestones(keep, discarded):
    scores = {10: 0.9, 20: 0.1, 30: 0.2, 50: 0.3}
    assert to_discard([10, 20, 30, 40, 50], keep, scores) == discarded


@given(
    steps=st.lists(st.integers(0, 10_000), unique=True, min_size=1).map(sorted),
    last=st.integers(0, 4),
    best=st.integers(0, 4),
    every=st.integers(0, 100),
)
def test_the_newest_is_never_discarded(steps, last, best, every):
    scores = {step: float(step % 7) for step in steps}
    gone = to_discard(steps, Keep(last, best, every), scores)
    assert steps[-1] not in gone
    assert {*gone} <= {*steps}
    assert len(steps) - len(gone) >= min(len(steps), max(last, 1))


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "one cycle"])
@given(steps=st.integers(1, 500), warmup=st.integers(0, 100))
def test_every_schedule_warms_up_and_stays_between_0_and_1(name, steps, warmup):
    factor = schedule_named(name, steps=steps, warmup=warmup)
    found = [factor(step) for step in range(steps)]
    assert all(0 <= each <= 1 for each in found)
    if name != "one cycle":
        rising = found[: min(warmup, steps)]
        assert rising == sorted(rising)


def test_a_cosine_ends_near_nothing_and_is_half_in_the_middle():
    factor = schedule_named("cosine", steps=1_000, warmup=0)
    assert factor(0) == 1
    assert factor(500) == pytest.approx(0.5)
    assert factor(999) < 1e-5


def test_an_unknown_schedule_is_refused_with_those_there_are():
    with pytest.raises(InvalidRequest) as refused:
        schedule_named("staircase", steps=1, warmup=0)
    assert "one cycle" in refused.value.hint


def test_a_plateau_cuts_after_its_patience():
    plateau = Plateau(cut=0.5, patience=1)
    for loss in (1.0, 0.9, 0.95):
        plateau = plateau.after(loss)
    assert plateau.factor == 1
    assert plateau.after(0.9).factor == 0.5


@given(st.lists(st.floats(-1e3, 1e3), max_size=6), st.integers(1, 5))
def test_progress_is_the_same_after_it_was_written_down(losses, epochs):
    import json

    progress = Progress(step=7)
    for number in range(epochs):
        progress.add_losses(losses)
        progress.end_epoch({"loss": 1.0 / (number + 1), "accuracy": 0.5})
    progress.add_losses(losses)
    assert Progress.from_facts(json.loads(json.dumps(progress.to_facts()))) == progress
