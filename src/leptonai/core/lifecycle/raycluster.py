"""A Ray cluster: a head, and the workers that join it.

The head comes first, and is started again whenever it ends. What it knew of its workers ends with
it: they belong to its `round`, leave with it, and others come once it is ready again. A worker that
ends is started again alone.
"""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from leptonai.core.lifecycle.program import replica_suffix
from leptonai.core.lifecycle.ray_node import TOLD_BY_EXIT, program_of_node
from leptonai.core.lifecycle.replica import (
    CRASH_LOOP,
    crashes_of,
    describe_end,
    done,
    late_at_ms,
    least_used,
    new_replica,
    started_again,
    stop,
    without,
)
from leptonai.core.lifecycle.step import Step, new_or_changed
from leptonai.core.records import (
    EndReason,
    Event,
    Goal,
    Phase,
    RayCluster,
    Replica,
    Severity,
    event_of,
)
from leptonai.spec.rayclusters import HEAD, RayClusterSpec, RayClusterState

LATE_MS = 180_000  # Ray that does not answer by then is reported: a busy machine takes a minute


def new_raycluster(
    *,
    workspace: str,
    name: str,
    spec: RayClusterSpec,
    owner: str,
    labels: Mapping[str, str],
    visibility: str,
    now_ms: int,
) -> RayCluster:
    return RayCluster(
        workspace=workspace,
        id=f"{name}-{replica_suffix(workspace, name, now_ms)}",
        name=name,
        spec=spec,
        owner=owner,
        labels=dict(labels),
        visibility=visibility,
        created_at_ms=now_ms,
        modified_at_ms=now_ms,
        since_ms=now_ms,
        state=RayClusterState.STOPPED if spec.suspend else RayClusterState.STARTING,
    )


def resized(cluster: RayCluster, spec: RayClusterSpec, now_ms: int) -> RayCluster:
    """With a new spec; whoever then waits is not told of the state before it."""
    changed = replace(cluster, spec=spec, modified_at_ms=now_ms)
    if changed.stopped != cluster.stopped:
        state = RayClusterState.STOPPING if changed.stopped else RayClusterState.STARTING
        return replace(changed, state=state, since_ms=now_ms, message="")
    if spec.workers != cluster.spec.workers and cluster.state is RayClusterState.READY:
        return replace(changed, state=RayClusterState.SCALING, since_ms=now_ms, message="")
    return changed


def advance(cluster: RayCluster, replicas: Iterable[Replica], now_ms: int) -> Step[RayCluster]:
    """The cluster's next step. Advancing what a step gave, without news, changes nothing more."""
    before = sorted(
        (r for r in replicas if r.phase is not Phase.DONE),
        key=lambda r: (r.group, r.round, r.index, r.id),
    )
    events: list[Event] = []
    changed, heads = _tend_head(cluster, [r for r in before if r.group == HEAD], now_ms, events)
    workers = [_tend_worker(changed, r, now_ms, events) for r in before if r.group != HEAD]
    head = head_of(heads)
    if changed.stopped:
        workers = [stop(r, now_ms) for r in workers]
        if all(r.phase is Phase.DONE for r in workers):  # they take leave of the head
            heads = [stop(r, now_ms) for r in heads]
    elif head is not None and head.ready:
        workers = _sized(changed, workers, now_ms)
    after = [*heads, *workers]
    living = [r for r in after if r.phase is not Phase.DONE]
    changed = _judged(changed, living, now_ms)
    if changed.state is not cluster.state:
        told = changed.message or "the head and all workers are ready"
        events.append(event_of(cluster, changed.state.value.replace(" ", ""), told))
    late = [at for r in living if (at := late_at_ms(r, LATE_MS)) is not None and at > now_ms]
    return Step(
        changed,
        new_or_changed(before, after),
        tuple(events),
        wake_at_ms=min(late, default=None),
    )


def head_of(replicas: Iterable[Replica]) -> Replica | None:
    """The one that workers join, if there is one."""
    return next(
        (
            r
            for r in replicas
            if r.group == HEAD and r.phase is not Phase.DONE and r.goal is Goal.RUN
        ),
        None,
    )


def _tend_head(
    cluster: RayCluster, heads: list[Replica], now_ms: int, events: list[Event]
) -> tuple[RayCluster, list[Replica]]:
    """What becomes of the head; each of its starts is another round of the cluster."""
    after: list[Replica] = []
    for head in heads:
        end = head.last_end
        if head.phase is not Phase.ENDED or end is None:
            after.append(head)
        elif cluster.stopped or head.goal is Goal.STOP or end.reason is EndReason.NODE_LOST:
            after.append(done(head))
        else:
            cluster = replace(cluster, round=cluster.round + 1)
            events.append(_restarted(cluster, head, "the head"))
            after.append(replace(started_again(head, now_ms), round=cluster.round))
    # The old one ends before another begins: a cluster has one head.
    if not cluster.stopped and all(r.phase is Phase.DONE for r in after):
        cluster = replace(cluster, round=cluster.round + 1)
        after.append(_new_node(cluster, HEAD, 0, now_ms))
    return cluster, after


def _tend_worker(cluster: RayCluster, worker: Replica, now_ms: int, events: list[Event]) -> Replica:
    end = worker.last_end
    current = worker.round == cluster.round and cluster.spec.group(worker.group) is not None
    if cluster.stopped or not current:
        return stop(worker, now_ms)
    if worker.phase is not Phase.ENDED or end is None:
        return worker
    if worker.goal is Goal.STOP or end.reason is EndReason.NODE_LOST:
        return done(worker)
    events.append(_restarted(cluster, worker, f"worker {worker.group}-{worker.index}"))
    return started_again(worker, now_ms)


def _restarted(cluster: RayCluster, replica: Replica, what: str) -> Event:
    assert replica.last_end is not None, replica
    words = f"{what} {describe_end(replica.last_end)}; starting it again"
    return event_of(cluster, "NodeRestarted", words, Severity.WARNING)


def _sized(cluster: RayCluster, workers: list[Replica], now_ms: int) -> list[Replica]:
    """As many of each group as asked; those that serve least leave first."""
    for group in cluster.spec.groups:
        assert group.group_name, "a group has a name once it is accepted"
        staying = [
            r
            for r in workers
            if r.group == group.group_name and r.phase is not Phase.DONE and r.goal is Goal.RUN
        ]
        taken = {r.index for r in staying}
        free = (i for i in range(group.workers + len(taken)) if i not in taken)
        for _ in range(group.workers - len(staying)):
            workers = [*workers, _new_node(cluster, group.group_name, next(free), now_ms)]
        surplus = max(0, len(staying) - group.workers)
        workers = without(least_used(staying)[:surplus], workers, now_ms)
    return workers


def _new_node(cluster: RayCluster, group: str, index: int, now_ms: int) -> Replica:
    spec = cluster.spec.group(group)
    assert spec is not None, group
    name = f"{cluster.name}-{group}-{index}" if group else f"{cluster.name}-head"
    suffix = replica_suffix(cluster.workspace, cluster.id, cluster.round, group, index, now_ms)
    fresh = new_replica(
        cluster,
        id=f"{name}-{suffix}",
        name=name,
        index=index,
        program=program_of_node(spec, is_head=group == HEAD),
        queue=spec.queue_config,
        now_ms=now_ms,
    )
    return replace(fresh, round=cluster.round, group=group)


# --- how it is -----------------------------------------------------------------------------------


def _judged(cluster: RayCluster, living: list[Replica], now_ms: int) -> RayCluster:
    head = head_of(living)
    workers = [r for r in living if r.group != HEAD and r.goal is Goal.RUN]
    ready = sum(r.ready for r in workers)
    state, message = _state(cluster, living, head, workers, now_ms)
    return replace(
        cluster,
        state=state,
        message=message,
        since_ms=cluster.since_ms if state is cluster.state else now_ms,
        head_ready=head is not None and head.ready,
        ready_workers=ready,
        running_workers=sum(r.phase is Phase.RUNNING for r in workers),
    )


def _state(
    cluster: RayCluster,
    living: list[Replica],
    head: Replica | None,
    workers: list[Replica],
    now_ms: int,
) -> tuple[RayClusterState, str]:
    if cluster.stopped:
        if living:
            return RayClusterState.STOPPING, "stopping on request"
        return RayClusterState.STOPPED, "stopped on request"
    if head is None:
        return RayClusterState.STARTING, "the head before it is still ending"
    if not head.ready:
        if trouble := _trouble(head, "the head", now_ms):
            return RayClusterState.NOT_READY, trouble
        if end := head.last_end:
            return RayClusterState.NOT_READY, f"the head {describe_end(end)}; it starts again"
        return RayClusterState.STARTING, _progress(head)
    wanted = cluster.spec.workers
    ready = sum(r.ready for r in workers)
    if ready >= wanted:
        return RayClusterState.READY, ""
    words = f"{ready} of {wanted} workers are ready"
    troubles = (_trouble(r, f"worker {r.group}-{r.index}", now_ms) for r in workers)
    trouble = next((each for each in troubles if each), "")
    return RayClusterState.SCALING, f"{words}; {trouble}" if trouble else words


def _progress(head: Replica) -> str:
    match head.phase:
        case Phase.WAITING:
            return "the head waits for a node"
        case Phase.RUNNING:
            return "the head runs, and its dashboard does not answer yet"
    return f"the head is being started on {head.node}"


def _trouble(replica: Replica, what: str, now_ms: int) -> str:
    """What keeps a node from being ready, once it is no longer just starting."""
    if replica.ready:
        return ""
    end = replica.last_end
    if end is not None and end.reason is EndReason.EXITED and end.exit_code in TOLD_BY_EXIT:
        return f"{what} cannot start: {TOLD_BY_EXIT[end.exit_code]}"
    if end is not None and crashes_of(replica) >= CRASH_LOOP:
        return f"{what} keeps ending: it last {describe_end(end)}; its log tells more"
    late = late_at_ms(replica, LATE_MS)
    if late is not None and now_ms >= late:
        return f"{what} runs, but does not answer after {LATE_MS // 1000} s; its log tells more"
    return ""
