"""A job: a gang of workers that runs to its end.

::

    Awaiting ─▶ Queueing ─▶ Starting ─▶ Running ─▶ Completed
                  ▲  ▲                     │
                  │  └──── PendingRetry ◀──┼─────▶ Failed
                  │                        │
                  ├──── start ── Stopped ◀─┴ Stopping
                  └──── it gave way ◀───────────┘

A job that gives way to another is asked to stop as by a person, so that it can save, and queues
again by itself: it keeps its place in the order of arrival, and no failure is counted. One that
shall go on with fewer workers stops likewise, and starts again in the room that it keeps.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from leptonai.core.lifecycle.backoff import backoff_ms
from leptonai.core.lifecycle.program import program_of_job, replica_suffix
from leptonai.core.lifecycle.replica import describe_end, done, new_replica, next_attempt, stop
from leptonai.core.lifecycle.step import Step, new_or_changed
from leptonai.core.records import (
    EndReason,
    Event,
    Goal,
    Job,
    Phase,
    Replica,
    Severity,
    Termination,
    event_of,
)
from leptonai.spec.jobs import JobSpec, JobState, JobStatus

MAX_HISTORY = 20  # earlier runs that a job remembers


@dataclass(frozen=True, slots=True)
class Seat:
    """What a worker may have of a node."""

    node: str
    gpus: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()


def new_job(
    *,
    workspace: str,
    id: str,
    name: str,
    spec: JobSpec,
    owner: str,
    labels: Mapping[str, str],
    visibility: str,
    now_ms: int,
    idempotency_key: str = "",
) -> Job:
    return Job(
        workspace=workspace,
        id=id,
        name=name,
        spec=spec,
        owner=owner,
        labels=dict(labels),
        visibility=visibility,
        created_at_ms=now_ms,
        modified_at_ms=now_ms,
        idempotency_key=idempotency_key,
        state=JobState.AWAITING if start_at_ms(spec) > now_ms else JobState.QUEUEING,
        queued_at_ms=now_ms,
    )


def start_at_ms(spec: JobSpec) -> int:
    schedule = spec.time_schedule
    return 1000 * schedule.start_at if schedule and schedule.start_at else 0


def advance(job: Job, replicas: Iterable[Replica], now_ms: int) -> Step[Job]:
    """The job's next step. Advancing what a step gave, without news, changes nothing more.

    Args:
        replicas: all of the job's; those of earlier rounds are over and left alone.
    """
    gang = sorted((r for r in replicas if r.round == job.round), key=lambda r: r.index)
    wants_stop = job.spec.stopped is True
    match job.state:
        case JobState.COMPLETED | JobState.FAILED | JobState.ARCHIVED:
            return Step(job)
        case JobState.STOPPED:
            return Step(job) if wants_stop else _start_again(job, now_ms)
        case JobState.AWAITING | JobState.PENDING_RETRY if wants_stop:
            return _settle(job, (), JobState.STOPPED, "stopped before it ran", now_ms)
        case JobState.AWAITING if start_at_ms(job.spec) > now_ms:
            return Step(job, wake_at_ms=start_at_ms(job.spec))
        case JobState.PENDING_RETRY if job.not_before_ms > now_ms:
            return Step(job, wake_at_ms=job.not_before_ms)
        case JobState.AWAITING | JobState.PENDING_RETRY:
            return _queue(job, now_ms)
    if not gang:
        if wants_stop:
            return _settle(job, (), JobState.STOPPED, "stopped before it ran", now_ms)
        return _form_gang(job, now_ms)
    if job.giving_way and not wants_stop:
        return _give_way(job, gang, now_ms)
    if wants_stop or job.state is JobState.STOPPING:  # a stop is seen through before a new start
        return _stop(job, gang, now_ms)
    return _supervise(job, gang, now_ms)


def give_way(
    job: Job,
    replicas: Iterable[Replica],
    now_ms: int,
    *,
    why: str,
    to: str = "",
    keeps: Collection[str] = (),
    adds: Sequence[Seat] = (),
) -> Step[Job]:
    """Have its workers end for now, because another needs their room or it can use more.

    Args:
        why: for people.
        to: "workspace/gang" of the other.
        keeps: ids of replicas in whose places it goes on; none: it queues for all of them again.
        adds: places that it goes on in, too.
    """
    gang = sorted((r for r in replicas if r.round == job.round), key=lambda r: r.index)
    running = job.state in (JobState.STARTING, JobState.RUNNING)
    if not gang or not running or job.giving_way or job.spec.stopped is True:
        return Step(job)
    staying = [replace(r, stays=True) if r.id in keeps else r for r in gang]
    seats = [_keeper(job, gang, index, seat) for index, seat in enumerate(adds, len(gang))]
    step = _give_way(replace(job, giving_way=why, gave_way_to=to), [*staying, *seats], now_ms)
    event = event_of(job, "Resized" if keeps else "Preempted", why, Severity.WARNING)
    changed = {r.id: r for r in (*seats, *step.replicas)}
    return Step(step.owner, tuple(changed.values()), (event, *step.events))


def _keeper(job: Job, gang: list[Replica], index: int, seat: Seat) -> Replica:
    """A worker that never runs: it holds a place until the next round starts in it."""
    # The worker of this index may have been there before, and an id is never given twice.
    suffix = replica_suffix(job.workspace, job.id, job.round, index, "keeper")
    return replace(
        gang[0],
        id=f"{job.id}-{index}-{suffix}",
        name=f"{job.name}-{index}",
        index=index,
        version=0,
        seq=0,
        phase=Phase.ENDED,
        goal=Goal.STOP,
        stays=True,
        attempt=0,
        terminations=(),
        started_at_ms=None,
        node=seat.node,
        gpus=seat.gpus,
        ports=seat.ports,
    )


def _give_way(job: Job, gang: list[Replica], now_ms: int) -> Step[Job]:
    after = [r if r.phase is Phase.ENDED else stop(r, now_ms) for r in gang]
    if any(r.phase in (Phase.PLACED, Phase.RUNNING) for r in after):
        stopping = replace(_counted(job, after), state=JobState.STOPPING, message=job.giving_way)
        return Step(stopping, new_or_changed(gang, after))
    over = [done(r) for r in after]
    ends = [r.last_end for r in over if r.last_end is not None]
    if ends and all(end.succeeded for end in ends):  # before the stop came
        return _settle(job, over, JobState.COMPLETED, "", now_ms, exit_code=0, before=gang)
    again = replace(
        _remember(_counted(job, over), JobState.STOPPED, job.giving_way, None),
        giving_way="",
        attained_ms=job.attained_ms + _ran_ms(over),
        round=job.round + 1,
        message=job.giving_way,
    )
    kept = [r for r in over if r.stays]
    if kept and not any(end.reason is EndReason.NODE_LOST for end in ends):
        step = _form_gang(replace(again, state=JobState.STARTING), now_ms, places=kept)
    else:
        step = _form_gang(replace(again, state=JobState.QUEUEING), now_ms)
    return Step(step.owner, (*new_or_changed(gang, over), *step.replicas), step.events)


def _ran_ms(gang: Iterable[Replica]) -> int:
    """How long a round ran, from its first start to its last end."""
    ends = [end for r in gang for end in r.terminations]
    starts = [end.started_at_ms for end in ends if end.started_at_ms is not None]
    if not starts:
        return 0
    return max(0, max(end.finished_at_ms for end in ends) - min(starts))


def _supervise(job: Job, gang: list[Replica], now_ms: int) -> Step[Job]:
    """Judge the workers that ended; the rest of the state follows from the gang."""
    failed = [r for r in gang if _failed(r)]
    fatal = [r for r in failed if not _may_restart(job, r)]
    if fatal:
        return _fail(job, gang, min(fatal, key=lambda r: _to_blame(job, r)), now_ms)
    after: list[Replica] = []
    events: list[Event] = []
    for replica in gang:
        end = replica.last_end
        if replica in failed and end is not None:
            wait_ms = backoff_ms(replica.attempt + 1) if replica.attempt else 0
            after.append(next_attempt(replica, now_ms + wait_ms, stay=True))
            events.append(
                event_of(
                    job,
                    "WorkerRestarted",
                    f"worker {replica.index} {describe_end(end)}; "
                    f"starting it again ({replica.attempt + 1} of {job.spec.max_failure_retry})",
                    Severity.WARNING,
                )
            )
        else:
            after.append(replica)
    if all(r.phase in (Phase.ENDED, Phase.DONE) for r in after):
        over = [done(r) for r in after]
        return _settle(job, over, JobState.COMPLETED, "", now_ms, exit_code=0, before=gang)
    return _progress(job, gang, after, events)


def _progress(
    job: Job, gang: list[Replica], after: list[Replica], events: list[Event]
) -> Step[Job]:
    """The state of a job whose workers are under way."""
    started = [r.started_at_ms for r in after if r.started_at_ms is not None]
    state = job.state
    if any(r.phase is Phase.RUNNING for r in after) or job.state is JobState.RUNNING:
        state = JobState.RUNNING
    elif any(r.phase is Phase.PLACED for r in after):
        state = JobState.STARTING
    message = job.message if state is job.state else ""
    changed = replace(
        _counted(job, after),
        state=state,
        message=message,
        gave_way_to="" if state is not job.state else job.gave_way_to,
        started_at_ms=job.started_at_ms or (min(started) if started else None),
    )
    if state is JobState.RUNNING and job.state is not JobState.RUNNING:
        where = ", ".join(sorted({r.node for r in after if r.node}))
        events = [*events, event_of(job, "Running", f"{_workers(len(after))} on {where}")]
    return Step(changed, new_or_changed(gang, after), tuple(events))


def _fail(job: Job, gang: list[Replica], culprit: Replica, now_ms: int) -> Step[Job]:
    """One worker failed for good: take the others down, then retry the gang or give up."""
    end = culprit.last_end
    assert end is not None, culprit
    because = f"worker {culprit.index} {describe_end(end)}"
    after = [r if r.phase is Phase.ENDED else stop(r, now_ms) for r in gang]
    if any(r.phase in (Phase.PLACED, Phase.RUNNING) for r in after):
        waiting = replace(_counted(job, after), message=f"{because}; stopping the other workers")
        return Step(waiting, new_or_changed(gang, after))
    after = [done(r) for r in after]
    # One that lost its peer may have ended before the peer was seen to have.
    if final := [r for r in after if _is_final(job, r)]:
        culprit = min(final, key=_ended_first)
        end = culprit.last_end
        assert end is not None, culprit
        because = f"worker {culprit.index} {describe_end(end)}: another try would end the same"
    elif job.failures < (job.spec.max_job_failure_retry or 0):
        wait_ms = backoff_ms(job.failures + 1)
        retry = replace(
            _remember(_counted(job, after), JobState.FAILED, because, end.exit_code),
            state=JobState.PENDING_RETRY,
            message=f"{because}; the job starts again",
            failures=job.failures + 1,
            not_before_ms=now_ms + wait_ms,
        )
        event = event_of(
            job,
            "JobRestarted",
            f"{because}; starting all workers again "
            f"({job.failures + 1} of {job.spec.max_job_failure_retry})",
            Severity.WARNING,
        )
        return Step(retry, new_or_changed(gang, after), (event,), wake_at_ms=retry.not_before_ms)
    return _settle(
        job, after, JobState.FAILED, because, now_ms, exit_code=end.exit_code, before=gang
    )


def _stop(job: Job, gang: list[Replica], now_ms: int) -> Step[Job]:
    after = [r if r.phase is Phase.ENDED else stop(r, now_ms) for r in gang]
    if all(r.phase in (Phase.ENDED, Phase.DONE) for r in after):
        over = [done(r) for r in after]
        return _settle(job, over, JobState.STOPPED, "stopped on request", now_ms, before=gang)
    events: tuple[Event, ...] = ()
    if job.state is not JobState.STOPPING or job.giving_way:
        events = (event_of(job, "Stopping", "stopping on request"),)
    stopping = replace(
        _counted(job, after),
        state=JobState.STOPPING,
        message="stopping on request",
        giving_way="",
    )
    return Step(stopping, new_or_changed(gang, after), events)


def _start_again(job: Job, now_ms: int) -> Step[Job]:
    fresh = replace(
        _remember(job, JobState.STOPPED, job.message, job.exit_code),
        failures=0,
        started_at_ms=None,
        finished_at_ms=None,
        exit_code=None,
        message="",
    )
    return _queue(fresh, now_ms)


def _queue(job: Job, now_ms: int) -> Step[Job]:
    """Back into the queue, with a new gang if there was one before."""
    next_round = job.round + 1 if job.history else job.round
    queued = replace(
        job,
        state=JobState.QUEUEING,
        message="",
        round=next_round,
        queued_at_ms=now_ms,
        attained_ms=0,
    )
    return _form_gang(queued, now_ms)


def _form_gang(job: Job, now_ms: int, *, places: Sequence[Replica] = ()) -> Step[Job]:
    """New workers: in the places of these, which have ended, or else waiting for room."""
    program = program_of_job(job)
    workers = len(places) or job.spec.workers
    gang = [
        replace(
            new_replica(
                job,
                id=replica_id(job, index),
                name=f"{job.name}-{index}",
                index=index,
                program=program,
                queue=job.spec.queue_config,
                now_ms=now_ms,
            ),
            round=job.round,
            gang=f"job/{job.id}/{job.round}",
            gang_size=workers,
        )
        for index in range(workers)
    ]
    if places:
        gang = [
            replace(
                worker,
                phase=Phase.PLACED,
                node=place.node,
                gpus=place.gpus,
                ports=place.ports,
                rendezvous_port=places[0].rendezvous_port,
            )
            for worker, place in zip(gang, places, strict=True)
        ]
        event = event_of(job, "Restarted", f"going on with {_workers(workers)}")
    else:
        event = event_of(job, "Queued", f"waiting for {_asked(job.spec)}")
    return Step(replace(job, restarts=0), tuple(gang), (event,))


def replica_id(job: Job, index: int) -> str:
    """Of a worker of the present round."""
    return f"{job.id}-{index}-{replica_suffix(job.workspace, job.id, job.round, index)}"


def _settle(
    job: Job,
    after: Iterable[Replica],
    state: JobState,
    message: str,
    now_ms: int,
    *,
    exit_code: int | None = None,
    before: Iterable[Replica] = (),
) -> Step[Job]:
    """The job is over. It ended when its last worker did, never before it began."""
    after = list(after)
    ends = [r.last_end.finished_at_ms for r in after if r.last_end is not None]
    starts = [r.last_end.started_at_ms for r in after if r.last_end and r.last_end.started_at_ms]
    finished = replace(
        _counted(job, after),
        state=state,
        message=message,
        exit_code=exit_code,
        giving_way="",
        gave_way_to="",
        started_at_ms=job.started_at_ms or (min(starts) if starts else None),
        finished_at_ms=max([*ends, job.created_at_ms]) if ends else now_ms,
    )
    severity = Severity.WARNING if state is JobState.FAILED else Severity.NORMAL
    event = event_of(job, state.value, message or f"{_workers(len(after))} succeeded", severity)
    return Step(finished, new_or_changed(before, after), (event,))


def status_of(job: Job) -> JobStatus:
    """The job as its owner sees it; an end is rounded up to the next millisecond."""
    return JobStatus(
        job_name=job.name,
        state=job.state,
        ready=job.ready,
        active=job.active,
        failed=job.failed,
        succeeded=job.succeeded,
        creation_time=job.created_at_ms,
        completion_time=None if job.finished_at_ms is None else math.ceil(job.finished_at_ms) + 1,
        message=job.message,
        exit_code=job.exit_code,
        job_history=list(job.history),
    )


def _remember(job: Job, state: JobState, message: str, exit_code: int | None) -> Job:
    """The job with its present run moved into its history."""
    past = replace(
        status_of(job), state=state, message=message, exit_code=exit_code, job_history=[]
    )
    return replace(job, history=(*job.history, past)[-MAX_HISTORY:])


def _counted(job: Job, gang: Iterable[Replica]) -> Job:
    gang = list(gang)
    running = sum(r.phase is Phase.RUNNING for r in gang)
    return replace(
        job,
        ready=running,
        active=sum(r.phase in (Phase.PLACED, Phase.RUNNING) for r in gang),
        failed=sum(_failed(r) for r in gang),
        succeeded=sum(
            r.phase in (Phase.ENDED, Phase.DONE) and r.last_end is not None and r.last_end.succeeded
            for r in gang
        ),
        restarts=sum(r.attempt for r in gang),
    )


def _failed(replica: Replica) -> bool:
    """Whether it ended of itself, and badly. What we stopped did not fail."""
    return (
        replica.phase in (Phase.ENDED, Phase.DONE)
        and replica.goal is Goal.RUN
        and replica.last_end is not None
        and not replica.last_end.succeeded
    )


def _may_restart(job: Job, replica: Replica) -> bool:
    """A fenced node takes its capacity along: only the gang as a whole can move."""
    end = replica.last_end
    return (
        replica.attempt < (job.spec.max_failure_retry or 0)
        and end is not None
        and end.reason is not EndReason.NODE_LOST
        and not _is_final(job, replica)
    )


def _is_final(job: Job, replica: Replica) -> bool:
    """Whether it said that another try would end the same. Asked to stop, it may have said so,
    too."""
    end = replica.last_end
    return end is not None and end.exit_code in (job.spec.final_exit_codes or ())


def _to_blame(job: Job, replica: Replica) -> tuple[bool, tuple[int, int]]:
    return not _is_final(job, replica), _ended_first(replica)


def _ended_first(replica: Replica) -> tuple[int, int]:
    end = replica.last_end or Termination(reason=EndReason.LOST)
    return end.finished_at_ms, replica.index


def _workers(many: int) -> str:
    return "1 worker" if many == 1 else f"{many} workers"


def _asked(spec: JobSpec) -> str:
    least = spec.min_workers or spec.workers
    return (
        _workers(spec.workers) if least == spec.workers else f"{least} to {_workers(spec.workers)}"
    )
