"""The simulated queue: small cases worked out by hand, a plain model to compare with, and what a
policy may know."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_model import ends_ms

from leptonai.core.scheduler import DEFAULT, QUEUE_POLICIES
from leptonai.errors import InvalidRequest
from leptonai.testing.simulator import (
    EXACT,
    UNKNOWN,
    Cluster,
    Durations,
    Job,
    simulate_queue,
    with_uniform_deadlines,
)

POLICIES = [
    name
    for name, policy in QUEUE_POLICIES.items()
    if not (policy.promising or name.startswith("ours"))
]


def a_job(id, at, runs, gpus=1, **more):
    """Times in seconds."""
    return Job(
        id=id, submitted_ms=round(at * 1_000), duration_ms=round(runs * 1_000), gpus=gpus, **more
    )


def ends(jobs, policy, gpus=2, **options):
    outcome = simulate_queue(jobs, Cluster(gpus), QUEUE_POLICIES[policy], **options)
    return dict(zip([job.id for job in jobs], outcome.ended_s.tolist(), strict=True))


# Two GPUs: `a` and `c` want both.
FOUR = [
    a_job("a", 0, 10, gpus=2),
    a_job("b", 1, 5),
    a_job("c", 2, 1, gpus=2),
    a_job("d", 3, 1),
]


def test_first_come_first_served_lets_nobody_pass():
    assert ends(FOUR, "fifo") == {"a": 10, "b": 15, "c": 16, "d": 17}


def test_the_shortest_goes_first_but_takes_nothing_from_who_runs():
    # At 10 `c` goes before `d`, which is as short but later; then `d` and `b` fit together.
    assert ends(FOUR, "sjf") == {"a": 10, "b": 16, "c": 11, "d": 12}


def test_the_shortest_remaining_time_preempts():
    # `a` yields to `b` at 1, `b` to `c` at 2; `d` and `b` go on at 3, and `a` at 7 with 9 to do.
    outcome = simulate_queue(FOUR, Cluster(2), QUEUE_POLICIES["srtf"])
    assert outcome.ended_s.tolist() == [16, 7, 3, 4]
    assert outcome.started_s.tolist() == [0, 1, 2, 3]
    assert outcome.held_s.tolist() == [10, 5, 1, 1]
    assert outcome.preemptions.tolist() == [1, 1, 0, 0]


def test_who_was_preempted_holds_its_gpus_for_the_cost_before_it_works_on():
    # `b` is left with 4 + 2 at 3, and `a` with 9 + 2 at 9.
    outcome = simulate_queue(FOUR, Cluster(2), QUEUE_POLICIES["srtf"], preempt_cost_s=2)
    assert outcome.ended_s.tolist() == [20, 9, 3, 4]
    assert outcome.held_s.tolist() == [12, 7, 1, 1]


def test_who_is_preempted_before_it_works_on_has_done_nothing():
    # `a` is at work again only from 4 (back at 2, cost 2), but yields once more at 3.
    jobs = [a_job("a", 0, 10), a_job("b", 1, 1), a_job("c", 3, 1)]
    outcome = simulate_queue(jobs, Cluster(1), QUEUE_POLICIES["srtf"], preempt_cost_s=2)
    assert outcome.ended_s.tolist() == [15, 2, 4]
    assert outcome.held_s.tolist() == [13, 1, 1]
    assert outcome.preemptions.tolist() == [2, 0, 0]


def test_what_was_done_since_the_last_checkpoint_is_lost_to_who_yields():
    # `a` has done 10 s when it yields, and saved 8 of them.
    jobs = [a_job("a", 0, 20), a_job("b", 10, 1)]
    options = {"checkpoint_every_s": 4, "preempt_cost_s": 0.5}
    outcome = simulate_queue(jobs, Cluster(1), QUEUE_POLICIES["srtf"], **options)
    assert outcome.ended_s.tolist() == [11 + 0.5 + 12, 11]
    assert outcome.held_s.tolist() == [22.5, 1]


def test_an_elastic_job_works_slower_with_fewer_gpus():
    # It is done for a quarter when it gives half of its GPUs to `b`: what is left takes twice as
    # long, or half as long again if two GPUs are 4/6 as fast as four.
    for speedup, ends_s in (((), 5 + 15 * 2), ((2, 4, 5, 6), 5 + 15 * 6 / 4)):
        elastic = a_job("a", 0, 20, gpus=4, min_gpus=2, speedup=speedup)
        jobs = [elastic, a_job("b", 5, 100, gpus=2)]
        outcome = simulate_queue(jobs, Cluster(4), QUEUE_POLICIES["fifo"])
        assert outcome.ended_s.tolist() == [ends_s, 105]
        assert outcome.gpu_s.tolist() == [20 + 2 * (ends_s - 5), 200]
        assert outcome.preemptions.tolist() == [0, 0]


def test_the_measures_of_four_jobs():
    measures = simulate_queue(FOUR, Cluster(2), QUEUE_POLICIES["srtf"]).measures()
    del measures["decisions_per_s"]
    assert measures == {
        "avg_jct_s": 6,  # 16, 6, 1, 1
        "median_jct_s": 3.5,
        "p99_jct_s": pytest.approx(15.7),
        "makespan_s": 16,
        "max_delay_s": 6,
        "deadline_met_ratio": None,
        "admitted_ratio": 1,
        "admitted_met_ratio": None,
        "utilisation": 28 / 32,
        "preemptions": 2,
        "decisions": 7,  # at 0, 1, 2, 3, 4, 7 and 16
    }


def test_the_timeline_says_what_was_held_and_how_many_waited_after_each_event():
    outcome = simulate_queue(FOUR, Cluster(2), QUEUE_POLICIES["fifo"])
    assert outcome.times_s.tolist() == [0, 1, 2, 3, 10, 15, 16, 17]
    assert outcome.busy_gpus.tolist() == [2, 2, 2, 2, 1, 2, 1, 0]
    assert outcome.waiting_jobs.tolist() == [0, 1, 2, 3, 2, 1, 0, 0]


def test_deadlines_are_met_up_to_the_very_instant():
    jobs = [
        replace(job, deadline_ms=at * 1_000) if at else job
        for job, at in zip(FOUR, (10, 14, None, 17), strict=True)
    ]
    outcome = simulate_queue(jobs, Cluster(2), QUEUE_POLICIES["fifo"])
    assert outcome.deadline_met_ratio == 2 / 3
    assert ends(jobs, "edf") == {"a": 10, "b": 15, "c": 16, "d": 11}


def test_uniform_deadlines_are_drawn_for_each_job_in_order():
    factors = np.random.default_rng(7).uniform(1.2, 3, 4)
    expected = [
        job.submitted_ms + round(factor * job.duration_ms)
        for job, factor in zip(FOUR, factors, strict=True)
    ]
    drawn = with_uniform_deadlines(FOUR, 1.2, 3, seed=7)
    assert [job.deadline_ms for job in drawn] == expected


def test_a_job_may_take_no_time_at_all():
    assert ends([a_job("a", 0, 0), a_job("b", 0, 3, gpus=2)], "fifo") == {"a": 0, "b": 3}


def test_a_gang_may_span_nodes_of_any_size():
    outcome = simulate_queue([a_job("a", 0, 5, gpus=11)], Cluster(11, gpus_per_node=4))
    assert outcome.ended_s.tolist() == [5]


def test_a_job_that_no_cluster_of_this_size_can_run_is_an_error():
    with pytest.raises(InvalidRequest) as wrong:
        simulate_queue([a_job("a", 0, 5, gpus=9)], Cluster(8))
    assert wrong.value.message == "the job 'a' needs 9 GPUs, and the cluster has 8"


# --- compared with a plain model -----------------------------------------------------------------


def traces(max_jobs=14):
    """Few distinct values, so that ties and events at the same time are common; but no two jobs
    are submitted at once: who then runs already does not yield to the other, as in the plain model
    it would."""
    job = st.tuples(
        st.integers(0, 30),  # submitted
        st.integers(1, 25),  # duration
        st.integers(1, 6),  # GPUs
        st.integers(0, 60),  # slack
    )
    rows = st.lists(job, min_size=1, max_size=max_jobs, unique_by=lambda row: row[0])
    return rows.map(
        lambda rows: [
            a_job(str(i), at, runs, gpus, deadline_ms=(at + runs + slack) * 1_000)
            for i, (at, runs, gpus, slack) in enumerate(rows)
        ]
    )


@pytest.mark.parametrize("policy", POLICIES)
@given(jobs=traces())
@settings(max_examples=60, deadline=None)
def test_the_scheduler_does_what_the_plain_model_of_each_policy_does(policy, jobs):
    outcome = simulate_queue(jobs, Cluster(6, gpus_per_node=4), QUEUE_POLICIES[policy])
    assert (outcome.ended_s * 1_000).tolist() == ends_ms(jobs, 6, policy)


@pytest.mark.parametrize("policy", sorted({"las", "mlfq"} & set(POLICIES)))
@given(jobs=traces())
@settings(max_examples=60, deadline=None)
def test_levels_of_attained_service_are_crossed_at_their_instant(policy, jobs):
    long = [replace(job, duration_ms=job.duration_ms * 400_000) for job in jobs]
    outcome = simulate_queue(long, Cluster(6, gpus_per_node=4), QUEUE_POLICIES[policy])
    assert (outcome.ended_s * 1_000).round().tolist() == ends_ms(long, 6, policy)


# --- what a policy may know ----------------------------------------------------------------------

ALL = {"ours": DEFAULT, **QUEUE_POLICIES}
each_policy = pytest.mark.parametrize("policy", ALL)


@each_policy
@pytest.mark.parametrize("durations", [EXACT, UNKNOWN, Durations(sigma=1.0)], ids=str)
def test_equal_seeds_give_equal_outcomes(policy, durations):
    jobs = random_jobs(60)
    one, two = (
        simulate_queue(jobs, Cluster(12), ALL[policy], durations=durations, seed=3)
        for _ in range(2)
    )
    assert one.ended_s.tolist() == two.ended_s.tolist()
    assert one.preemptions.tolist() == two.preemptions.tolist()


IN_ANOTHER_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from test_simulator_queue import ALL, Cluster, random_jobs, simulate_queue
for policy in ALL.values():
    print(simulate_queue(random_jobs(60), Cluster(12), policy).ended_s.tolist())
"""


def test_every_process_gives_the_same_outcome():
    """Nothing goes by the order of a set, which is another one in every process."""
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(Path(__file__).parent)]
    said = {
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


@each_policy
def test_no_policy_knows_what_will_arrive(policy):
    jobs = random_jobs(60)
    later = [a_job(f"later {i}", 500 + i, 5, gpus=12) for i in range(20)]
    assert starts_before(500, jobs, policy) == starts_before(500, [*jobs, *later], policy)


@each_policy
@pytest.mark.parametrize("told", ["unknown", "estimate:1"])
def test_no_policy_knows_how_long_a_job_runs_unless_it_is_told(policy, told, monkeypatch):
    """Jobs that go on after 500 s may go on for twice as long: nothing before is different."""
    jobs = random_jobs(60)
    estimates = Durations.of(told).told_ms(jobs, 42)
    monkeypatch.setattr(Durations, "told_ms", lambda *_: estimates)
    outcome = simulate_queue(jobs, Cluster(12), ALL[policy])
    longer = [
        replace(job, duration_ms=2 * job.duration_ms) if end_s > 500 else job
        for job, end_s in zip(jobs, outcome.ended_s, strict=True)
    ]
    assert longer != jobs
    assert starts_before(500, jobs, policy) == starts_before(500, longer, policy)


def test_estimates_are_drawn_once_for_each_job_by_seed():
    jobs = random_jobs(5_000)
    told = np.array(Durations(sigma=0.5).told_ms(jobs, 1))
    logs = np.log(told / [job.duration_ms for job in jobs])
    assert abs(logs.mean()) < 0.03
    assert abs(logs.std() - 0.5) < 0.03
    assert Durations(sigma=0.5).told_ms(jobs, 1) == told.tolist()
    assert Durations(sigma=0.5).told_ms(jobs, 2) != told.tolist()


def test_a_job_that_runs_for_longer_than_was_said_does_not_become_the_most_urgent(monkeypatch):
    """`a` was said to take 2 s, and has had 4 when `b` comes, which takes 1: it may take 2 more."""
    monkeypatch.setattr(Durations, "told_ms", lambda *_: [2_000, 1_000, 1_000])
    jobs = [a_job("a", 0, 9), a_job("b", 4, 1), a_job("c", 4.5, 1)]
    assert ends(jobs, "srtf", gpus=1) == {"a": 11, "b": 5, "c": 6}


@pytest.mark.parametrize("text", ["exact", "unknown", "estimate:0.5"])
def test_knowledge_of_durations_is_written_as_it_is_read(text):
    assert str(Durations.of(text)) == text


def test_the_example_of_the_handbook_prints_what_it_says(capsys):
    page = Path(__file__).parents[2] / "docs" / "howto" / "simulate.md"
    program, printed = re.findall(r"^```(?:python|text)\n(.*?)^```", page.read_text(), re.M | re.S)
    exec(program, {})
    assert capsys.readouterr().out == printed


def random_jobs(count):
    random = np.random.default_rng(11)
    return [
        a_job(str(i), at, runs, gpus)
        for i, (at, runs, gpus) in enumerate(
            zip(
                random.integers(0, 1_000, count).tolist(),
                random.integers(1, 300, count).tolist(),
                random.choice([1, 2, 4, 8], count).tolist(),
                strict=True,
            )
        )
    ]


def starts_before(second, jobs, policy):
    outcome = simulate_queue(jobs, Cluster(12), ALL[policy])
    return {
        job.id: start
        for job, start in zip(jobs, outcome.started_s.tolist(), strict=True)
        if job.submitted_ms < second * 1_000 and start < second
    }
