"""When waiting gangs start, and what would start them now."""

from dataclasses import replace
from heapq import heapify, heappop, heappush
from random import Random

import pytest

from leptonai.core.scheduler import (
    DEFAULT,
    QUEUE_POLICIES,
    Change,
    Gang,
    Index,
    Quota,
    Running,
    Snapshot,
    advance,
    decide,
    schedule,
)
from leptonai.core.scheduler.alternatives import alternatives
from leptonai.core.scheduler.forecast import Ended, History, Start, forecast
from leptonai.core.scheduler.outlook import look_ahead
from leptonai.testing.builders import A_MOMENT_MS, a_gang, a_holding, a_node, a_snapshot

MINUTE_MS = 60_000
EXACT = History(accuracy=(1.0, 1.0, 1.0))


def in_minutes(at_ms: int | None) -> float | None:
    return None if at_ms is None else (at_ms - A_MOMENT_MS) / MINUTE_MS


def interval(start: Start) -> tuple[float | None, ...]:
    return tuple(map(in_minutes, (start.earliest_at_ms, start.expected_at_ms, start.latest_at_ms)))


def that_runs(minutes: float, gang: Gang) -> Gang:
    return replace(gang, remaining_ms=round(minutes * MINUTE_MS))


def holding(replica: str, minutes: float | None, *, ran: float = 0, **more) -> Running:
    """By estimate it runs so long in all."""
    held = a_holding(replica, ran_ms=round(ran * MINUTE_MS), **more)
    if minutes is None:
        return held
    return replace(held, gang=that_runs(minutes, held.gang))


# --- when it starts ------------------------------------------------------------------------------


def test_a_gang_starts_when_what_holds_its_room_ends():
    snapshot = a_snapshot(
        a_node(cpu=4), holding("a", 30, ran=10, cpu=2), holding("b", 60, cpu=2), a_gang(cpu=4)
    )
    start = forecast(snapshot, "train", DEFAULT, EXACT)
    assert interval(start) == (60, 60, 60)
    assert (start.by_estimate, start.by_history, start.unknown) == (2, 0, ())


def test_an_estimate_of_unknown_quality_may_be_off_by_a_factor_of_two():
    snapshot = a_snapshot(a_node(cpu=4), holding("a", 60, ran=10, cpu=4), a_gang(cpu=4))
    assert interval(forecast(snapshot, "train")) == (20, 50, 110)


def test_what_has_run_for_longer_than_its_estimate_goes_on_for_half_as_long_again():
    snapshot = a_snapshot(a_node(cpu=4), holding("a", 60, ran=100, cpu=4), a_gang(cpu=4))
    assert interval(forecast(snapshot, "train", DEFAULT, EXACT)) == (0, 50, 100)


def test_without_an_estimate_the_length_of_what_ran_before_tells():
    history = History.of(
        Ended(user="", gpus=1, ran_ms=minutes * MINUTE_MS) for minutes in range(10, 110, 10)
    )
    snapshot = a_snapshot(a_node(cpu=4), holding("a", None, ran=30, cpu=4), a_gang(cpu=4))
    start = forecast(snapshot, "train", DEFAULT, history)
    assert interval(start) == (10, 40, 70), "of those that ran for longer than 30 minutes"
    assert (start.by_estimate, start.by_history) == (0, 1)


def test_the_lengths_of_the_same_user_tell_more_than_those_of_others():
    history = History.of(
        Ended(user=user, gpus=1, ran_ms=minutes * MINUTE_MS)
        for user, minutes in (("ana", 5), ("ben", 500))
        for _ in range(5)
    )
    gang = a_gang()
    assert history.still_runs_ms(replace(gang, user="ana"), 0) == (5 * MINUTE_MS,) * 3
    assert history.still_runs_ms(replace(gang, user="ben"), 0) == (500 * MINUTE_MS,) * 3
    low, _, high = history.still_runs_ms(replace(gang, user="eve"), 0) or (0, 0, 0)
    assert (low, high) == (5 * MINUTE_MS, 500 * MINUTE_MS)
    assert history.still_runs_ms(replace(gang, user="eve"), 600 * MINUTE_MS) is None


def test_estimates_are_taken_as_they_have_proved():
    history = History.of(
        Ended(user="", gpus=1, ran_ms=10 * MINUTE_MS, estimated_ms=100 * MINUTE_MS)
        for _ in range(5)
    )
    snapshot = a_snapshot(a_node(cpu=4), holding("a", 60, cpu=4), a_gang(cpu=4))
    assert interval(forecast(snapshot, "train", DEFAULT, history)) == (6, 6, 6)


def test_of_what_nobody_knows_nothing_is_claimed():
    snapshot = a_snapshot(a_node(cpu=4), holding("a", None, cpu=4), a_gang(cpu=4))
    assert forecast(snapshot, "train") == Start(unknown=("a",))


def test_what_waits_for_a_server_waits_until_somebody_removes_it():
    snapshot = a_snapshot(a_node(cpu=4), a_holding("web", cpu=4, lasting=True), a_gang(cpu=4))
    assert forecast(snapshot, "train") == Start()


def test_a_server_that_waits_holds_its_room_for_ever_once_it_is_placed():
    server = replace(a_gang("web", cpu=4, waited_ms=9), lasting=True)
    snapshot = a_snapshot(a_node(cpu=4), holding("a", 5, cpu=4), server, a_gang(cpu=4))
    assert interval(forecast(snapshot, "web", DEFAULT, EXACT)) == (5, 5, 5)
    assert forecast(snapshot, "train", DEFAULT, EXACT) == Start()


def test_those_before_it_in_the_queue_run_first():
    snapshot = a_snapshot(
        a_node(cpu=4),
        holding("a", 10, cpu=4),
        that_runs(20, a_gang("b", cpu=4, waited_ms=9)),
        that_runs(40, a_gang("c", cpu=4, priority=9000)),
        a_gang(cpu=4),
    )
    policy = QUEUE_POLICIES["fifo"]
    assert interval(forecast(snapshot, "train", policy, EXACT)) == (70, 70, 70)


def test_who_has_to_yield_runs_on_for_what_is_left_of_it():
    victim = holding("low", 60, ran=30, cpu=4, priority=1000, preemptible=True)
    snapshot = a_snapshot(a_node(cpu=4), victim, that_runs(10, a_gang("urgent", cpu=4)))
    assert interval(forecast(snapshot, "urgent", DEFAULT, EXACT)) == (0, 0, 0)
    behind = replace(snapshot, queue=(*snapshot.queue, a_gang(cpu=4, priority=500)))
    # Nothing was saved: it starts all over, after the urgent one.
    assert interval(forecast(behind, "train", DEFAULT, EXACT)) == (70, 70, 70)


def test_many_before_it_are_concluded_from_the_pace_of_the_first():
    many = [that_runs(10, a_gang(f"w{at:03d}", cpu=4, waited_ms=1000 - at)) for at in range(300)]
    snapshot = a_snapshot(a_node(cpu=4), holding("a", 10, cpu=4), *many, a_gang(cpu=4))
    start = forecast(snapshot, "train", QUEUE_POLICIES["fifo"], EXACT)
    assert start.by_pace and start.latest_at_ms is None
    expected = in_minutes(start.expected_at_ms)
    assert expected == pytest.approx(3010, rel=0.1), "all of them, one after the other"


# --- against the truth ---------------------------------------------------------------------------

Made = tuple[int, int, int]  # submitted at, runs for, GPUs


def a_trace(seed: int, jobs: int = 24) -> list[Made]:
    random = Random(seed)
    at = 0
    trace = []
    for _ in range(jobs):
        at += random.choice((0, 1, 5, 20)) * MINUTE_MS
        trace.append((at, random.randint(1, 90) * MINUTE_MS, random.choice((1, 1, 2, 4, 8))))
    return trace


def first_come_first_served(trace: list[Made], gpus: int) -> list[int]:
    """When each job starts, on a pool of GPUs: a model of its own, without the scheduler."""
    free, now_ms, running, starts = gpus, 0, list[tuple[int, int]](), []
    heapify(running)
    for submitted_ms, runs_ms, needs in trace:
        now_ms = max(now_ms, submitted_ms)
        while running and (running[0][0] <= now_ms or free < needs):
            end_ms, given = heappop(running)
            now_ms, free = max(now_ms, end_ms), free + given
        heappush(running, (now_ms + runs_ms, needs))
        free -= needs
        starts.append(now_ms)
    return starts


@pytest.mark.parametrize("seed", range(4))
def test_with_exact_lengths_every_job_is_told_when_it_starts_as_it_is_submitted(seed):
    trace = a_trace(seed)
    true = first_come_first_served(trace, 8)
    policy = QUEUE_POLICIES["fifo"]
    for job, (now_ms, _, _) in enumerate(trace):
        snapshot = as_it_was(trace[: job + 1], true, now_ms)
        start = forecast(snapshot, f"job-{job:03d}", policy, EXACT)
        assert start.expected_at_ms == true[job], (seed, job)
        assert start.earliest_at_ms == true[job] == start.latest_at_ms


def as_it_was(trace: list[Made], starts: list[int], now_ms: int) -> Snapshot:
    running, queue = [], []
    for job, ((submitted_ms, runs_ms, gpus), start_ms) in enumerate(
        zip(trace, starts, strict=False)
    ):
        gang = replace(
            a_gang(f"job-{job:03d}", cpu=0, gpus=gpus),
            queued_at_ms=submitted_ms,
            remaining_ms=runs_ms,
        )
        if start_ms >= now_ms:
            queue.append(gang)
        elif start_ms + runs_ms > now_ms:
            running.append((gang, start_ms))
    # Which devices they hold: as the scheduler itself would give them.
    nodes = (a_node(gpus=8),)
    placed = schedule(
        Snapshot(now_ms=0, nodes=nodes, queue=tuple(gang for gang, _ in running)),
        QUEUE_POLICIES["fifo"],
    )
    by_gang = {place.gang: place for place in placed.places}
    return Snapshot(
        now_ms=now_ms,
        nodes=nodes,
        running=tuple(
            Running(
                gang=gang,
                held=tuple(zip(gang.workers, by_gang[gang.id].assignments, strict=True)),
                started_at_ms=start_ms,
            )
            for gang, start_ms in running
        ),
        queue=tuple(queue),
    )


@pytest.mark.parametrize("name", ["ours", "easy", "sjf", "srtf", "mlfq"])
@pytest.mark.parametrize("seed", range(2))
def test_the_interval_holds_the_true_start_where_nothing_new_is_submitted(name, seed):
    policy = DEFAULT if name == "ours" else QUEUE_POLICIES[name]
    random = Random(seed)
    queue = tuple(
        that_runs(random.randint(1, 90), a_gang(f"job-{at:02d}", cpu=0, gpus=random.choice(SIZES)))
        for at in range(14)
    )
    snapshot = Snapshot(now_ms=A_MOMENT_MS, nodes=(a_node(gpus=8),), queue=queue)
    true = played_out(snapshot, policy)
    for gang in queue:
        start = forecast(snapshot, gang.id, policy)
        assert start.earliest_at_ms <= true[gang.id] <= start.latest_at_ms, gang
        exact = forecast(snapshot, gang.id, policy, EXACT)
        assert exact.earliest_at_ms <= true[gang.id] <= exact.latest_at_ms, gang


SIZES = (1, 1, 2, 4, 8)


def played_out(snapshot: Snapshot, policy) -> dict[str, int]:
    """When each gang first starts, where every one runs exactly as long as it says."""
    index, now_ms = Index.of(snapshot, policy), snapshot.now_ms
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    while index.waiting or index.running:
        plan = decide(index, now_ms)
        queued, running = {}, []
        for preempt in plan.preempts:
            gone = index.running[preempt.gang]
            left_ms = max(0, ends.pop(preempt.gang) - now_ms) + preempt.lost_ms
            ran_ms = now_ms - (gone.started_at_ms or 0)
            gang = replace(gone.gang, remaining_ms=left_ms)
            queued[gang.id] = replace(gang, attained_ms=gang.attained_ms + ran_ms)
        for place in plan.places:
            gang = queued.pop(place.gang, None) or index.waiting[place.gang]
            held = tuple(zip(gang.workers, place.assignments, strict=True))
            running.append(Running(gang=gang, held=held, started_at_ms=now_ms))
            starts.setdefault(gang.id, now_ms)
            ends[gang.id] = now_ms + (gang.remaining_ms or 0)
        index = advance(index, Change(queued=tuple(queued.values()), running=tuple(running)))
        times = [*ends.values(), *([plan.revisit_at_ms] if plan.revisit_at_ms else [])]
        if times:
            now_ms = min(times)
        over = tuple(id for id, at_ms in ends.items() if at_ms <= now_ms)
        for id in over:
            del ends[id]
        index = advance(index, Change(gone=over))
    return starts


# --- what would start it now ---------------------------------------------------------------------


def proposals(snapshot: Snapshot, gang: str = "train", policy=DEFAULT) -> list[str]:
    index = Index.of(snapshot, policy)
    before = (dict(index.waiting), dict(index.running))
    found = alternatives(index, index.waiting[gang], snapshot.now_ms)
    assert (index.waiting, index.running) == before, "the index is as it was"
    for each in found:
        others = tuple(other for other in snapshot.queue if other.id != gang)
        tried = replace(snapshot, queue=(*others, each.gang))
        if each.quota is not None:
            tried = replace(tried, quotas=(each.quota,))
        assert each.place in schedule(tried, policy).places, "the scheduler says so itself"
    return [each.kind.value for each in found]


def test_a_share_of_the_cpu_that_is_free_is_proposed():
    snapshot = a_snapshot(a_node(cpu=4), a_holding(cpu=1.5), a_gang(cpu=4))
    index = Index.of(snapshot)
    (found,) = alternatives(index, snapshot.queue[0], A_MOMENT_MS)
    assert (found.kind, found.gang.workers[0].needs.cpu_millis) == ("size", 2_500)


def test_another_type_of_gpu_and_fewer_workers_are_proposed_the_cheaper_first():
    snapshot = a_snapshot(
        a_node("a", gpus=4, gpu_type="A100"),
        a_node("h", gpus=4, gpu_type="H100"),
        a_holding(node="a", gpus=2, devices=(0, 1)),
        a_gang(cpu=0, gpus=1, gpu_type="A100", workers=4),
    )
    assert proposals(snapshot) == ["gpu_type", "workers", "gpus"]


def test_fewer_gpus_are_proposed_where_some_are_free():
    snapshot = a_snapshot(
        a_node(gpus=8), a_holding(gpus=3, devices=(0, 1, 2)), a_gang(cpu=0, gpus=8)
    )
    index = Index.of(snapshot)
    (found,) = alternatives(index, snapshot.queue[0], A_MOMENT_MS)
    assert (found.kind, found.gang.workers[0].needs.gpus) == ("gpus", 5)


def test_another_node_group_is_proposed_before_all_nodes_are():
    snapshot = a_snapshot(
        a_node("a", group="a"), a_node("b", group="b"), a_holding(node="a", cpu=4),
        a_gang(cpu=4, groups=["a"]),
    )  # fmt: skip
    index = Index.of(snapshot)
    (found,) = alternatives(index, snapshot.queue[0], A_MOMENT_MS)
    assert (found.kind, found.gang.allowed_groups) == ("affinity", frozenset({"b"}))


def test_the_least_priority_that_preempts_is_proposed_with_whom_it_preempts():
    snapshot = a_snapshot(
        a_node(cpu=4),
        a_holding("low", cpu=4, priority=6000, preemptible=True, ran_ms=5 * MINUTE_MS),
        a_gang(cpu=4),
    )
    index = Index.of(snapshot)
    (found,) = alternatives(index, snapshot.queue[0], A_MOMENT_MS)
    assert (found.kind, found.gang.priority) == ("priority", 7000)
    assert [(each.gang, each.lost_ms) for each in found.preempts] == [("low", 5 * MINUTE_MS)]


def test_what_is_over_its_quota_may_borrow_or_have_the_quota_raised():
    gang = replace(a_gang(cpu=0, gpus=4), user="ana")
    held = a_holding(gpus=2, devices=(0, 1))
    held = replace(held, gang=replace(held.gang, user="ana"))
    snapshot = replace(a_snapshot(a_node(gpus=8), held, gang), quotas=(Quota(user="ana", gpus=4),))
    assert proposals(snapshot) == ["gpus", "preemptible", "quota"]
    index = Index.of(snapshot)
    quota = alternatives(index, gang, A_MOMENT_MS)[-1].quota
    assert quota == Quota(user="ana", gpus=6)


def test_nothing_is_proposed_that_room_kept_for_another_forbids():
    overdue = a_gang("first", cpu=4, waited_ms=DEFAULT.overdue_after_ms + 1)
    snapshot = a_snapshot(a_node(cpu=4), a_holding(cpu=2), overdue, a_gang(cpu=3))
    assert proposals(snapshot) == [], "a smaller share would fit, but is not free for it"


def test_an_outlook_says_where_or_why_not_and_never_both():
    here = look_ahead(a_snapshot(a_node(), a_gang()), "train")
    assert here.place is not None and (here.reason, here.start, here.alternatives) == (
        None,
        None,
        (),
    )
    full = look_ahead(a_snapshot(a_node(cpu=4), a_holding(cpu=4), a_gang()), "train")
    assert full.place is None and full.reason is not None and full.start is not None
    assert [holder.gang for holder in full.reason.held_by] == ["server-0"]
