"""The clusters of Gavel and Shockwave, as the benchmarks have them: small ones made up, and the
published ones where they are there."""

import pytest
from benchmarks import heterogeneity, shockwave
from benchmarks.shockwave import Job, Outcome, draining, shortest_first, simulate
from benchmarks.traces import NoTraces, trace_folder

from leptonai.core.scheduler.optimize import Claim, fairest

SPEEDS = {(f"LM (batch size {batch})", gpus): 10.0 for batch in (40, 80) for gpus in (1, 32)}


def a_job(id, *, steps=2_400, gpus=1, mode="static", arrives_s=0.0, batch=80):
    return Job(
        id=id, model="LM", batch=batch, gpus=gpus, mode=mode, steps=steps, arrives_s=arrives_s
    )


def makespan_s(*jobs, policy=shortest_first):
    return simulate(jobs, SPEEDS, policy).makespan_s


def published(name):
    try:
        return trace_folder(name)
    except NoTraces as missing:
        pytest.skip(str(missing))


def test_a_job_that_comes_later_starts_with_a_round_and_pays_for_its_start():
    # It comes at 100 s, starts at 120 s, and has 240 s of work: rounds of 100, 120 and 20 s.
    assert simulate([a_job(0), a_job(1, arrives_s=100.0)], SPEEDS, shortest_first) == Outcome(
        makespan_s=380.0,
        average_jct_s=(240 + 280) / 2,
        utilisation=480 / (380 * 32),
        preemptions=0,
    )


def test_a_shorter_job_stops_a_longer_one_which_pays_to_start_again():
    jobs = [a_job(0, steps=6_000), a_job(1, arrives_s=100.0, gpus=32)]
    outcome = simulate(jobs, SPEEDS, shortest_first)
    assert (outcome.makespan_s, outcome.preemptions) == (600 + 240 + 20 + 20, 1)


def test_a_larger_batch_ends_a_job_earlier_and_from_the_same_epoch_on():
    steps = 30 * 1_492  # epochs of 59,675 samples in batches of 40
    assert makespan_s(a_job(0, steps=steps, batch=40)) == 4_476
    doubled = makespan_s(a_job(0, steps=steps, batch=40, mode="gns"))
    assert doubled == makespan_s(a_job(0, steps=steps, batch=40, mode="accordion"))
    assert doubled == pytest.approx(10 * 149.2 + 20 * 74.6, rel=0.01)


def test_draining_keeps_the_long_job_running_beside_the_short_ones():
    jobs = [a_job(0, steps=12_000), *(a_job(number) for number in range(1, 64))]
    assert makespan_s(*jobs) == 240 + 20 + 1_200
    assert makespan_s(*jobs, policy=draining()) == 1_200


def test_ours_ends_the_published_jobs_earlier_and_sooner_on_average_than_was_published():
    folder = published("shockwave_nsdi23")
    jobs = shockwave.read_jobs(folder / "tacc_32gpus_120jobs.trace")
    speeds = shockwave.read_speeds(folder / "tacc_throughputs.json")
    ours = simulate(jobs, speeds, draining())
    assert ours.makespan_s <= 24_700
    assert ours.average_jct_s <= 10_500


def test_the_published_policies_come_out_as_published():
    published("shockwave_nsdi23")
    again = [row["measured"] for row in shockwave.rows() if row["goal"] == "0.94 to 1.06"]
    assert len(again) == 4
    assert all(0.94 <= ratio <= 1.06 for ratio in again), again


def test_drawn_gangs_fit_and_load_the_cluster():
    speeds = {("a", 1): {"k80": 1.0}, ("b", 8): {"k80": 2.0}, ("c", 2): {"k80": 3.0}}
    claims = heterogeneity.draw(list(speeds), speeds, gpus={"k80": 4}, load=2.0, seed=1)
    assert {claim.gpus for claim in claims} == {1, 2}
    assert 8 <= sum(claim.gpus for claim in claims) <= 9


def test_realised_progress_counts_what_a_start_costs():
    claims = [Claim(id="a", rates={"k80": 2.0})]
    shares = fairest(claims, {"k80": 1})
    steps = heterogeneity.realise(claims, {"k80": 1}, shares, rounds=10, start_cost=0.5)
    assert steps == {"a": pytest.approx(2.0 * 9.5 / 10)}


@pytest.mark.parametrize("cluster", heterogeneity.CLUSTERS)
def test_rounds_reach_the_linear_programs_with_measured_speeds(cluster):
    folder = published("gavel_osdi20")
    speeds = heterogeneity.read_speeds(folder / "simulation_throughputs.json")
    kinds = heterogeneity.read_kinds(folder / "msr_seed0_ee9e8c.trace")
    single = [(model, 1) for model, _ in kinds]
    gpus = dict(zip(heterogeneity.TYPES, cluster, strict=True))
    claims = heterogeneity.draw(single, speeds, gpus=gpus, load=1.5, seed=7)
    assert heterogeneity.realised_sum(claims, gpus, rounds=200) >= 0.97
    assert heterogeneity.realised_least(claims, gpus, rounds=400) >= 0.95
