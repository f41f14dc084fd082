"""A job's life, told one step at a time; and whatever happens, it never gets stuck."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from leptonai.core.lifecycle.job import advance, give_way, new_job, status_of
from leptonai.core.lifecycle.replica import SeenEnded, SeenRunning, ended, observed
from leptonai.core.records import EndReason, Goal, Job, Phase, Replica, Termination
from leptonai.spec.containers import Container, QueueConfig
from leptonai.spec.jobs import JobSpec, JobState, TimeSchedule

NOW = 1_000_000


def a_job(*, now_ms: int = NOW, **spec) -> Job:
    return new_job(
        workspace="default",
        id="train-ab12",
        name="train",
        spec=JobSpec(container=Container(command=["python", "train.py"]), **spec),
        owner="ada",
        labels={},
        visibility="",
        now_ms=now_ms,
    )


class Life:
    """A job and its replicas, moved by what happens to them."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.replicas: dict[str, Replica] = {}
        self.now_ms = NOW
        self.reasons: list[str] = []
        self.advance()

    def advance(self) -> None:
        for _ in range(10):
            step = advance(self.job, self.replicas.values(), self.now_ms)
            self.reasons += [event.reason for event in step.events]
            changed = step.owner != self.job or step.replicas
            self.job = step.owner
            self.replicas |= {r.id: r for r in step.replicas}
            if not changed:
                return
        raise AssertionError("the lifecycle does not come to rest")

    @property
    def gang(self) -> list[Replica]:
        return sorted(
            (r for r in self.replicas.values() if r.round == self.job.round), key=lambda r: r.index
        )

    def place(self) -> None:
        for r in self.gang:
            if r.phase is Phase.WAITING:
                self._set(replace(r, phase=Phase.PLACED, node="n1"))
        self.advance()

    def run(self) -> None:
        for r in self.gang:
            self._set(observed(r, SeenRunning(self.now_ms), self.now_ms))
        self.advance()

    def end(self, index: int, exit_code: int = 0, reason: EndReason = EndReason.EXITED) -> None:
        how = Termination(
            reason=reason,
            exit_code=exit_code,
            started_at_ms=self.now_ms,
            finished_at_ms=self.now_ms + 5,
        )
        self._set(observed(self.gang[index], SeenEnded(how), self.now_ms))
        self.advance()

    def give_way(self, *keeps: str) -> None:
        step = give_way(self.job, self.replicas.values(), self.now_ms, why="gives way", keeps=keeps)
        self.reasons += [event.reason for event in step.events]
        self.job = step.owner
        self.replicas |= {r.id: r for r in step.replicas}
        self.advance()

    def ask(self, *, stopped: bool) -> None:
        self.job = replace(self.job, spec=replace(self.job.spec, stopped=stopped))
        self.advance()

    def wait(self, ms: int) -> None:
        self.now_ms += ms
        self.advance()

    def _set(self, replica: Replica) -> None:
        self.replicas[replica.id] = replica


def test_a_job_queues_starts_runs_and_completes_when_all_its_workers_succeeded():
    life = Life(a_job(completions=2))
    states = [life.job.state]
    life.place()
    states.append(life.job.state)
    life.run()
    states.append(life.job.state)
    life.end(0)
    states.append(life.job.state)
    life.end(1)
    states.append(life.job.state)
    assert states == [
        JobState.QUEUEING,
        JobState.STARTING,
        JobState.RUNNING,
        JobState.RUNNING,
        JobState.COMPLETED,
    ]
    assert life.reasons == ["Queued", "Running", "Completed"]
    assert [r.phase for r in life.gang] == [Phase.DONE, Phase.DONE]
    assert (life.job.exit_code, life.job.succeeded, life.job.finished_at_ms) == (0, 2, NOW + 5)
    assert status_of(life.job).completion_time == NOW + 6


def test_a_worker_that_succeeded_gives_its_place_away_while_the_others_go_on():
    life = Life(a_job(completions=2))
    life.place()
    life.run()
    life.end(0)
    assert [r.holds_capacity for r in life.gang] == [False, True]


def test_a_failed_worker_takes_the_gang_down_and_the_job_says_which_and_why():
    life = Life(a_job(completions=2))
    life.place()
    life.run()
    life.end(1, exit_code=3)
    assert life.job.state is JobState.RUNNING
    assert [r.goal for r in life.gang] == [Goal.STOP, Goal.RUN]
    assert life.job.message == "worker 1 exited with code 3; stopping the other workers"
    life.end(0, exit_code=143, reason=EndReason.STOPPED)
    assert life.job.state is JobState.FAILED
    assert (life.job.message, life.job.exit_code) == ("worker 1 exited with code 3", 3)


def test_a_worker_is_restarted_in_its_place_as_often_as_the_job_allows():
    life = Life(a_job(max_failure_retry=1))
    life.place()
    life.run()
    life.end(0, exit_code=1)
    worker = life.gang[0]
    assert (worker.phase, worker.attempt, worker.node) == (Phase.PLACED, 1, "n1")
    life.run()
    life.end(0, exit_code=1)
    assert life.job.state is JobState.FAILED
    assert life.reasons == ["Queued", "Running", "WorkerRestarted", "Failed"]


def test_a_job_is_restarted_as_a_whole_with_new_replicas_after_a_wait():
    life = Life(a_job(completions=2, max_job_failure_retry=1))
    first = [r.id for r in life.gang]
    life.place()
    life.run()
    life.end(0, exit_code=9)
    life.end(1, exit_code=143, reason=EndReason.STOPPED)
    assert life.job.state is JobState.PENDING_RETRY
    life.wait(1_000)
    assert (life.job.state, life.job.round, life.job.failures) == (JobState.QUEUEING, 1, 1)
    assert not set(first) & {r.id for r in life.gang}
    assert [past.state for past in life.job.history] == [JobState.FAILED]


def test_a_worker_that_says_that_another_try_would_end_the_same_is_not_tried_again():
    retried = {"max_failure_retry": 2, "max_job_failure_retry": 2}
    for final, exit_code, state in (
        ([78, 65], 65, JobState.FAILED),
        ([78], 65, JobState.RUNNING),
        (None, 78, JobState.RUNNING),
    ):
        life = Life(a_job(final_exit_codes=final, **retried))
        life.place()
        life.run()
        life.end(0, exit_code=exit_code)
        assert life.job.state is state, (final, exit_code)


@pytest.mark.parametrize("reason", [EndReason.EXITED, EndReason.STOPPED])
def test_it_is_heard_also_when_another_worker_was_seen_to_fail_before(reason):
    life = Life(a_job(completions=2, max_job_failure_retry=2, final_exit_codes=[78]))
    life.place()
    life.run()
    life.end(0, exit_code=1)  # its peer has gone
    assert life.job.state is JobState.RUNNING
    life.end(1, exit_code=78, reason=reason)
    assert (life.job.state, life.job.exit_code) == (JobState.FAILED, 78)
    assert "worker 1" in life.job.message
    assert "another try would end the same" in life.job.message


def test_a_lost_worker_is_retried_only_where_the_policy_allows():
    for policy, state in ({}, JobState.FAILED), ({"max_failure_retry": 1}, JobState.RUNNING):
        life = Life(a_job(**policy))
        life.place()
        life.run()
        life.end(0, reason=EndReason.LOST)
        assert life.job.state is state, policy


def test_stop_ends_the_workers_and_start_runs_them_again_as_a_new_round():
    life = Life(a_job(completions=2))
    life.place()
    life.run()
    life.ask(stopped=True)
    assert life.job.state is JobState.STOPPING
    life.end(0, exit_code=143, reason=EndReason.STOPPED)
    life.end(1, exit_code=137, reason=EndReason.STOPPED)
    assert life.job.state is JobState.STOPPED
    life.ask(stopped=False)
    assert (life.job.state, life.job.round) == (JobState.QUEUEING, 1)
    assert [past.state for past in life.job.history] == [JobState.STOPPED]


def test_a_start_during_a_stop_waits_for_the_stop():
    life = Life(a_job())
    life.place()
    life.run()
    life.ask(stopped=True)
    life.ask(stopped=False)
    assert life.job.state is JobState.STOPPING
    life.end(0, exit_code=143, reason=EndReason.STOPPED)
    assert (life.job.state, life.job.round) == (JobState.QUEUEING, 1)


def test_workers_that_succeeded_before_a_stop_are_counted_after_it():
    life = Life(a_job(completions=2))
    life.place()
    life.run()
    life.end(0)
    life.ask(stopped=True)
    # The loops know of none that is done.
    life.replicas = {id: r for id, r in life.replicas.items() if r.live}
    life.end(-1, exit_code=143, reason=EndReason.STOPPED)
    assert (life.job.state, life.job.succeeded) == (JobState.STOPPED, 1)


def test_a_job_stopped_in_the_queue_never_starts():
    life = Life(a_job(completions=3))
    life.ask(stopped=True)
    assert life.job.state is JobState.STOPPED
    assert [r.phase for r in life.gang] == [Phase.DONE] * 3


def test_a_scheduled_job_queues_at_its_time_and_has_no_replicas_before():
    life = Life(a_job(time_schedule=TimeSchedule(start_at=NOW // 1000 + 60)))
    assert (life.job.state, life.gang) == (JobState.AWAITING, [])
    life.wait(60_000)
    assert life.job.state is JobState.QUEUEING


def test_priority_comes_from_the_queue_config():
    life = Life(a_job(queue_config=QueueConfig(priority_class="high-8000")))
    assert [r.priority for r in life.gang] == [8000]


def test_a_job_that_gives_way_keeps_its_turn_and_queues_again_with_what_it_ran_counted():
    life = Life(a_job(completions=2))
    life.place()
    life.run()
    life.wait(60_000)
    life.give_way()
    during = (life.job.state, life.job.message, [r.goal for r in life.gang])
    assert during == (JobState.STOPPING, "gives way", [Goal.STOP, Goal.STOP])
    started = life.now_ms - 60_000
    for index in (0, 1):
        how = Termination(
            reason=EndReason.STOPPED, started_at_ms=started, finished_at_ms=life.now_ms + 700
        )
        life._set(observed(life.gang[index], SeenEnded(how), life.now_ms))
    assert [r.holds_capacity for r in life.gang] == [False, False]
    life.advance()
    job = life.job
    assert (job.state, job.round, job.queued_at_ms, job.attained_ms, job.failures) == (
        JobState.QUEUEING,
        1,
        NOW,
        60_700,
        0,
    )
    assert [(past.state, past.message) for past in job.history] == [(JobState.STOPPED, "gives way")]
    assert [r.phase for r in life.gang] == [Phase.WAITING, Phase.WAITING]
    assert life.reasons == ["Queued", "Running", "Preempted", "Queued"]


def test_a_job_that_has_done_its_work_when_it_should_give_way_is_not_run_again():
    life = Life(a_job())
    life.place()
    life.run()
    life.give_way()
    life.end(0)
    assert (life.job.state, life.job.giving_way) == (JobState.COMPLETED, "")


def test_a_person_who_stops_a_job_that_gives_way_has_it_stay_stopped():
    life = Life(a_job())
    life.place()
    life.run()
    life.give_way()
    life.ask(stopped=True)
    life.end(0, 143, EndReason.STOPPED)
    assert (life.job.state, life.job.giving_way) == (JobState.STOPPED, "")


def test_a_job_that_shrinks_goes_on_in_the_places_that_it_keeps():
    life = Life(a_job(completions=3, min_workers=1))
    life.place()
    life.run()
    first, second, _ = life.gang
    life.give_way(first.id, second.id)
    assert [r.leaving for r in life.gang] == [False, False, True]
    for index in range(2):
        life.end(index, 143, EndReason.STOPPED)
    assert [r.holds_capacity for r in life.gang] == [True, True, True]
    life.end(2, 143, EndReason.STOPPED)
    assert [(r.phase, r.node, r.gang_size, r.round) for r in life.gang] == [
        (Phase.PLACED, "n1", 2, 1),
        (Phase.PLACED, "n1", 2, 1),
    ]
    assert life.job.state is JobState.STARTING
    life.run()
    life.end(0)
    life.end(1)
    assert (life.job.state, life.job.succeeded) == (JobState.COMPLETED, 2)


def test_a_job_whose_node_was_lost_while_it_shrank_queues_for_room():
    life = Life(a_job(completions=2, min_workers=1))
    life.place()
    life.run()
    life.give_way(life.gang[0].id)
    life.end(0, reason=EndReason.NODE_LOST)
    life.end(1, 143, EndReason.STOPPED)
    assert life.job.state is JobState.QUEUEING
    assert [r.phase for r in life.gang] == [Phase.WAITING, Phase.WAITING]


def test_only_what_runs_gives_way_and_only_once():
    life = Life(a_job())
    life.give_way()
    life.place()
    life.run()
    life.give_way()
    life.give_way()
    assert life.reasons == ["Queued", "Running", "Preempted"]


happenings = st.lists(
    st.tuples(
        st.sampled_from(
            ["place", "run", "end", "fail", "lose", "stop", "start", "wait", "yield", "shrink"]
        ),
        st.integers(0, 2),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(
    workers=st.integers(1, 3),
    worker_retries=st.integers(0, 2),
    job_retries=st.integers(0, 2),
    final=st.sampled_from([None, [3], [78]]),
    happenings=happenings,
)
def test_whatever_happens_a_job_comes_to_an_end_once_its_workers_do(
    workers, worker_retries, job_retries, final, happenings
):
    life = Life(
        a_job(
            completions=workers,
            max_failure_retry=worker_retries,
            max_job_failure_retry=job_retries,
            final_exit_codes=final,
        )
    )
    for what, index in happenings:
        happen(life, what, index % workers)
        check(life)
    life.job = replace(life.job, spec=replace(life.job.spec, stopped=None))
    for _ in range(60):
        if life.job.finished and life.job.state is not JobState.STOPPED:
            break
        life.wait(120_000)
        life.place()
        life.run()
        for index in range(len(life.gang)):
            happen(life, "end", index)
    assert life.job.state in (JobState.COMPLETED, JobState.FAILED)
    assert all(r.phase is Phase.DONE for r in life.gang)


def happen(life: Life, what: str, index: int) -> None:
    match what:
        case "place":
            life.place()
        case "run":
            life.run()
        case "wait":
            life.wait(5_000)
        case "yield":
            life.give_way()
        case "shrink":
            life.give_way(*(r.id for r in life.gang[: index + 1]))
        case "stop" | "start":
            life.ask(stopped=what == "stop")
        case _ if life.gang:
            ends = {
                "end": (0, EndReason.EXITED),
                "fail": (3, EndReason.EXITED),
                "lose": (None, EndReason.LOST),
            }
            life.end(index % len(life.gang), *ends[what])


def check(life: Life) -> None:
    over = [r for r in life.replicas.values() if r.round != life.job.round]
    assert all(r.phase is Phase.DONE for r in over), "a gang is over before the next one forms"
    if life.job.finished:
        assert all(r.phase is Phase.DONE for r in life.gang)
        assert life.job.finished_at_ms is not None
    assert all(r.attempt <= (life.job.spec.max_failure_retry or 0) for r in life.gang)
    assert life.job.failures <= (life.job.spec.max_job_failure_retry or 0)


def test_a_replica_that_ended_is_not_ended_again():
    life = Life(a_job())
    life.place()
    replica = ended(life.gang[0], Termination(reason=EndReason.EXITED, exit_code=0))
    again = observed(replica, SeenEnded(Termination(reason=EndReason.LOST)), NOW)
    assert again is replica
