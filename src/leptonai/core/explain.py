"""Why a workload is where it is, in words for people and as data for programs."""

from collections.abc import Iterable

from leptonai.core.lifecycle.job import start_at_ms
from leptonai.core.lifecycle.replica import describe_end
from leptonai.core.records import Endpoint, Goal, Job, Phase, RayCluster, Replica
from leptonai.core.scheduler import Reason
from leptonai.spec.explanations import Explanation
from leptonai.spec.jobs import JobState


def explain_job(
    job: Job, replicas: Iterable[Replica], waiting: Reason | None, now_ms: int
) -> Explanation:
    """
    Args:
        replicas: of the job's present round.
        waiting: what the last plan said of the gang, if it waits.
    """
    gang = sorted((r for r in replicas if r.round == job.round), key=lambda r: r.index)
    match job.state:
        case JobState.AWAITING:
            return _say(
                job.state,
                "scheduled",
                f"it is to start in {_seconds(start_at_ms(job.spec) - now_ms)}",
                start_at_ms=start_at_ms(job.spec),
            )
        case JobState.PENDING_RETRY:
            return _say(
                job.state,
                "retry",
                f"{job.message} in {_seconds(job.not_before_ms - now_ms)}",
                not_before_ms=job.not_before_ms,
                failures=job.failures,
            )
        case JobState.QUEUEING if waiting is not None:
            return Explanation(
                state=job.state, code=waiting.code, because=waiting.text, data=dict(waiting.data)
            )
        case JobState.QUEUEING:
            return _say(job.state, "queued", "it has just been queued, and is about to be placed")
        case JobState.STARTING:
            return _say(
                job.state,
                "starting",
                "its workers are being started on " + ", ".join(sorted({r.node for r in gang})),
                nodes=sorted({r.node for r in gang}),
            )
        case JobState.RUNNING | JobState.STOPPING:
            late = [r for r in gang if r.phase is Phase.PLACED and r.last_end is not None]
            if late and late[0].last_end is not None:
                words = (
                    f"worker {late[0].index} {describe_end(late[0].last_end)}; it starts again in "
                    f"{_seconds(late[0].not_before_ms - now_ms)}"
                )
            else:
                words = job.message or f"{job.ready} of {job.spec.workers} workers are running"
            return _say(
                job.state,
                job.state.lower(),
                words,
                ready=job.ready,
                nodes=sorted({r.node for r in gang if r.node}),
            )
    facts: dict[str, float | int | str | list[str]] = {}
    if job.exit_code is not None:
        facts["exit_code"] = job.exit_code
    words = job.message or "all its workers succeeded"
    return Explanation(state=job.state, code=job.state.lower(), because=words, data=facts)


def explain_endpoint(
    endpoint: Endpoint, replicas: Iterable[Replica], waiting: Iterable[Reason]
) -> Explanation:
    """
    Args:
        waiting: what the last plan said of its replicas that wait.
    """
    staying = [r for r in replicas if r.goal is Goal.RUN and r.phase is not Phase.DONE]
    for reason in waiting:
        return Explanation(
            state=endpoint.state, code=reason.code, because=reason.text, data=dict(reason.data)
        )
    ready = sum(r.ready for r in staying)
    words = endpoint.message or f"{ready} of {endpoint.wanted} replicas are ready"
    deaf = [r for r in staying if r.phase is Phase.RUNNING and not r.ready and r.ports]
    if deaf and not endpoint.message:
        words += f"; replica {deaf[0].index} runs, but does not answer on port {deaf[0].ports[0]}"
    code = endpoint.state.lower().replace(" ", "_")
    return _say(endpoint.state, code, words, ready=ready, asked=endpoint.wanted)


def explain_raycluster(cluster: RayCluster, waiting: Reason | None) -> Explanation:
    """
    Args:
        waiting: what the last plan said of one of its nodes, if one waits.
    """
    if waiting is not None:
        return Explanation(
            state=cluster.state, code=waiting.code, because=waiting.text, data=dict(waiting.data)
        )
    ready, wanted = cluster.ready_workers, cluster.spec.workers
    words = cluster.message or f"the head and {ready} of {wanted} workers are ready"
    code = cluster.state.lower().replace(" ", "_")
    return _say(cluster.state, code, words, ready=ready, asked=wanted)


def _say(state: str, code: str, because: str, **data: float | int | str | list[str]) -> Explanation:
    return Explanation(state=state, code=code, because=because, data=data)


def _seconds(ms: int) -> str:
    seconds = max(0, ms) // 1000
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 5400:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
