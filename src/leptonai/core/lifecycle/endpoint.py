"""An endpoint: as many replicas of a server as asked, of the revision that it should run.

A change that replaces replicas makes a new revision, and the replicas of the old one leave one by
one, each only when another is ready in its place. Where there is no room for one more than asked,
the surge is given up after a while, and an old replica makes room. Where a roll-out wants the new
revision beside the old one (`core.rollouts`), that keeps its replicas until it is decided.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from leptonai.core.autoscaling import policy_kept
from leptonai.core.lifecycle.program import program_of_endpoint, replica_suffix
from leptonai.core.lifecycle.replica import (
    CRASH_LOOP,
    crashes_of,
    describe_end,
    done,
    late_at_ms,
    least_used,
    new_replica,
    started_again,
    without,
)
from leptonai.core.lifecycle.step import Step, new_or_changed
from leptonai.core.records import (
    Autoscaling,
    Endpoint,
    EndReason,
    Event,
    Goal,
    Phase,
    PodSeen,
    Replica,
    Severity,
    TokenHash,
    event_of,
)
from leptonai.core.rollouts import progress
from leptonai.core.rollouts.asked import at_revision, begun
from leptonai.core.rollouts.progress import candidate, candidates_wanted
from leptonai.core.rollouts.words import outcome_text, progress_text
from leptonai.core.traffic import TrafficWindow
from leptonai.errors import Conflict
from leptonai.spec.endpoints import EndpointSpec, EndpointState
from leptonai.spec.rollouts import RolloutPlan, RolloutState

SURGE = 1  # replicas above the number asked while a revision is rolled out
SURGE_PATIENCE_MS = 20_000  # a surge that finds no room for so long lets an old replica go first
NOT_READY_AFTER_MS = 60_000  # a replica that has not answered by then is reported


def new_endpoint(
    *,
    workspace: str,
    name: str,
    spec: EndpointSpec,
    owner: str,
    labels: Mapping[str, str],
    visibility: str,
    now_ms: int,
    token_hashes: tuple[TokenHash, ...] = (),
    model_digest: str = "",
) -> Endpoint:
    return Endpoint(
        workspace=workspace,
        id=f"{name}-{replica_suffix(workspace, name, now_ms)}",
        name=name,
        spec=spec,
        owner=owner,
        labels=dict(labels),
        visibility=visibility,
        created_at_ms=now_ms,
        modified_at_ms=now_ms,
        token_hashes=token_hashes,
        model_digest=model_digest,
    )


def updated(
    endpoint: Endpoint,
    spec: EndpointSpec,
    *,
    token_hashes: tuple[TokenHash, ...],
    model_digest: str,
    now_ms: int,
    plan: RolloutPlan | None = None,
) -> Endpoint:
    """With a new spec, and a new revision only if its replicas would run something else.

    Args:
        plan: how that is rolled out.
    """
    changed = replace(
        endpoint,
        spec=spec,
        token_hashes=token_hashes,
        model_digest=model_digest,
        modified_at_ms=now_ms,
    )
    changed = replace(changed, autoscaling=_autoscaling_for(spec, endpoint))
    if program_of_endpoint(changed) != program_of_endpoint(endpoint):
        changed = begun(endpoint, changed, plan or RolloutPlan(), now_ms)
    return no_longer_settled(changed, endpoint)


def _autoscaling_for(spec: EndpointSpec, before: Endpoint) -> Autoscaling | None:
    """What is kept of it under a new spec, until it is asked again. After a stop it begins anew."""
    policy, autoscaling = policy_kept(spec), before.autoscaling
    if policy is None or autoscaling is None or before.spec.replicas == 0:
        return None
    if policy == policy_kept(before.spec) or (autoscaling.desired == 0 and policy.idle_timeout_s):
        return autoscaling
    desired = min(max(autoscaling.desired, policy.min_replicas), policy.max_replicas)
    return replace(autoscaling, desired=desired)


def scaled(
    endpoint: Endpoint,
    autoscaling: Autoscaling,
    replicas: Iterable[Replica],
    now_ms: int,
    traffic: Sequence[TrafficWindow] = (),
) -> Step[Endpoint]:
    """The step that follows from what its autoscaler came to; else as `advance`."""
    after = replace(endpoint, autoscaling=autoscaling)
    step = advance(after, replicas, now_ms, traffic)
    if after.wanted == endpoint.wanted:
        return step
    words = f"{endpoint.wanted} → {after.wanted} replicas: {autoscaling.because}"
    event = event_of(after, "Scaled", words)
    return dataclasses.replace(step, events=(event, *step.events))


def restarted(endpoint: Endpoint, now_ms: int) -> Endpoint:
    """Replace every replica, one by one.

    Raises:
        Conflict: there are two revisions of which one is to be chosen first.
    """
    if candidate(endpoint) is not None:
        raise Conflict(
            f"a roll-out of endpoint {endpoint.name} is under way",
            hint=f"`leptonai endpoint rollout promote {endpoint.name}`, or rollback, ends it.",
        )
    changed = begun(endpoint, replace(endpoint, modified_at_ms=now_ms), RolloutPlan(), now_ms)
    return no_longer_settled(changed, endpoint)


def woken(endpoint: Endpoint) -> Endpoint:
    """Has the replicas that it has at least: somebody asked for them, though nothing calls it."""
    return no_longer_settled(replace(endpoint, autoscaling=None), endpoint)


def no_longer_settled(changed: Endpoint, before: Endpoint) -> Endpoint:
    """Whoever asks for something new and then waits must not be told of the state before it, Ready
    or Stopped, only because nothing has come of it yet."""
    wanted, had = changed.wanted, before.wanted
    if changed.asleep or (wanted, changed.revision) == (had, before.revision):
        return changed
    if wanted == 0:
        return replace(changed, state=EndpointState.STOPPING)
    if had == 0:
        return replace(changed, state=EndpointState.STARTING)
    revised = changed.revision != before.revision
    return replace(changed, state=EndpointState.UPDATING if revised else EndpointState.SCALING)


def advance(
    endpoint: Endpoint,
    replicas: Iterable[Replica],
    now_ms: int,
    traffic: Sequence[TrafficWindow] = (),
) -> Step[Endpoint]:
    """The endpoint's next step. Advancing what a step gave, without news, changes nothing more.

    Args:
        traffic: what gateways told after `Rollout.counted_to_ms`.
    """
    before = sorted(
        (r for r in replicas if r.phase is not Phase.DONE),
        key=lambda r: (r.revision, r.index, r.id),
    )
    wanted = endpoint.wanted
    changed, told = progress.step(endpoint, before, wanted, now_ms, traffic)
    events = [*told]
    rollout = candidate(changed)
    main = changed if rollout is None else at_revision(changed, rollout.stable.number)
    kept = {main.revision, changed.revision}
    after = [_after_end(changed, r, kept, now_ms, events) for r in before]
    if endpoint.is_pod:
        after = _alone(main, after, wanted, now_ms)
        changed = replace(changed, pod=_pod_seen(changed, after))
    elif rollout is None:
        after = _roll(main, after, wanted, now_ms)
    else:
        beside = [r for r in after if r.revision == rollout.revision]
        others = [r for r in after if r.revision != rollout.revision]
        number = candidates_wanted(rollout, wanted)
        after = [
            *_roll(main, others, wanted, now_ms),
            *_beside(changed, beside, number, now_ms),
        ]
    living = [r for r in after if r.phase is not Phase.DONE]
    state, message = _state(changed, living, wanted, now_ms)
    ready = sum(r.ready and r.goal is Goal.RUN for r in living)
    changed = replace(changed, state=state, message=message, ready_replicas=ready)
    if state is not endpoint.state:
        events.append(event_of(endpoint, state.value.replace(" ", ""), message or state.value))
    times = (
        _wake_at_ms(main, living, now_ms),
        progress.wake_at_ms(changed, living, now_ms),
    )
    return Step(
        changed,
        new_or_changed(before, after),
        tuple(events),
        wake_at_ms=min((at for at in times if at is not None), default=None),
    )


def _after_end(
    endpoint: Endpoint, replica: Replica, kept: set[int], now_ms: int, events: list[Event]
) -> Replica:
    """What follows when a replica's attempt ended: whatever nobody asked to stop starts again."""
    end = replica.last_end
    if replica.phase is not Phase.ENDED or end is None:
        return replica
    if replica.goal is Goal.STOP or end.reason is EndReason.NODE_LOST:
        return done(replica)
    if replica.revision not in kept:
        return done(replica)  # its successor is due anyway
    again = started_again(replica, now_ms)
    wait_ms = again.not_before_ms - now_ms
    events.append(
        event_of(
            endpoint,
            "ReplicaRestarted",
            f"replica {replica.index} {describe_end(end)}; starting it again"
            + (f" in {wait_ms // 1000} s" if wait_ms else ""),
            Severity.WARNING,
        )
    )
    return again


def _roll(endpoint: Endpoint, replicas: list[Replica], wanted: int, now_ms: int) -> list[Replica]:
    """Towards `wanted` replicas of its revision, with as many ready on the way as can be."""
    staying = [r for r in replicas if r.phase is not Phase.DONE and r.goal is Goal.RUN]
    new = [r for r in staying if r.revision == endpoint.revision]
    old = [r for r in staying if r.revision != endpoint.revision]
    room = wanted + (SURGE if old else 0) - len(staying)
    for _ in range(max(0, min(wanted - len(new), room))):
        fresh = _new_replica(endpoint, [*replicas, *new], now_ms)
        new.append(fresh)
        replicas = [*replicas, fresh]
    leaving: list[Replica] = []
    if wanted == 0:
        leaving = [*old, *new]
    else:
        # Old ones that do not serve are in nobody's way but that of their successors.
        leaving = [r for r in old if not r.ready]
        serving = [r for r in old if r.ready]
        spare = sum(r.ready for r in new) + len(serving) - wanted
        since_ms = _room_awaited_since_ms(endpoint, new)
        if since_ms is not None and not _under_way(endpoint, replicas):
            # For every time that patience ran out, one server fewer than asked is put up with.
            spare += (now_ms - since_ms) // SURGE_PATIENCE_MS
        leaving += serving[: max(0, spare)]
        surplus = len(new) - wanted
        if surplus > 0:
            leaving += least_used(new)[:surplus]
    return without(leaving, replicas, now_ms)


def _alone(pod: Endpoint, replicas: list[Replica], wanted: int, now_ms: int) -> list[Replica]:
    """A pod's: its files are one replica's at a time, so the old one ends before another begins."""
    leaving = [r for r in replicas if wanted == 0 or r.revision != pod.revision]
    replicas = without(leaving, replicas, now_ms)
    if wanted and all(r.phase is Phase.DONE for r in replicas):
        replicas = [*replicas, _new_replica(pod, replicas, now_ms)]
    return replicas


def _pod_seen(pod: Endpoint, replicas: list[Replica]) -> PodSeen:
    """Its node once it has one, and its ports while it runs."""
    running = next((r for r in replicas if r.phase is Phase.RUNNING), None)
    if running is None:
        return PodSeen(node=pod.pod.node, home=pod.pod.home)
    numbers = [port.container_port for port in pod.spec.pod_ports]
    # Of another revision it may have others; those come with its successor.
    ports = tuple(zip(numbers, running.ports[1:], strict=False))
    if running.revision != pod.revision:
        ports = pod.pod.ports
    return replace(pod.pod, node=running.node, ports=ports)


def _beside(endpoint: Endpoint, replicas: list[Replica], number: int, now_ms: int) -> list[Replica]:
    """So many replicas of a revision that has yet to take over."""
    staying = [r for r in replicas if r.phase is not Phase.DONE and r.goal is Goal.RUN]
    for _ in range(number - len(staying)):
        fresh = _new_replica(endpoint, replicas, now_ms)
        replicas = [*replicas, fresh]
    surplus = max(0, len(staying) - number)
    return without(least_used(staying)[:surplus], replicas, now_ms)


def _new_replica(endpoint: Endpoint, siblings: list[Replica], now_ms: int) -> Replica:
    taken = {
        r.index
        for r in siblings
        if r.phase is not Phase.DONE and r.revision == endpoint.revision and r.goal is Goal.RUN
    }
    index = next(i for i in range(len(taken) + 1) if i not in taken)
    suffix = replica_suffix(endpoint.workspace, endpoint.id, endpoint.revision, index, now_ms)
    fresh = new_replica(
        endpoint,
        id=f"{endpoint.name}-{index}-{suffix}",
        name=f"{endpoint.name}-{index}",
        index=index,
        program=program_of_endpoint(endpoint),
        queue=endpoint.spec.queue_config,
        now_ms=now_ms,
    )
    return replace(fresh, revision=endpoint.revision)


def last_replica(pod: Endpoint, now_ms: int) -> Replica:
    """One that is over, where a pod's files lie: what is still to be removed goes with it."""
    return replace(_new_replica(pod, [], now_ms), phase=Phase.DONE, node=pod.pod.node)


def _room_awaited_since_ms(endpoint: Endpoint, replicas: list[Replica]) -> int | None:
    """Since when the new revision has made no progress for want of room."""
    new = [r for r in replicas if r.revision == endpoint.revision and r.phase is not Phase.DONE]
    waiting = [r.created_at_ms for r in new if r.phase is Phase.WAITING]
    if not waiting:
        return None
    return max(min(waiting), *(r.ready_at_ms or 0 for r in new))


def _under_way(endpoint: Endpoint, replicas: list[Replica]) -> bool:
    """Whether room is about to be free, or a successor to be ready."""
    return any(
        r.goal is Goal.STOP or (r.revision == endpoint.revision and not r.ready)
        for r in replicas
        if r.phase in (Phase.PLACED, Phase.RUNNING, Phase.ENDED)
    )


def _state(
    endpoint: Endpoint, living: list[Replica], wanted: int, now_ms: int
) -> tuple[EndpointState, str]:
    if endpoint.asleep and endpoint.autoscaling:
        return (
            EndpointState.SCALING if living else EndpointState.READY,
            endpoint.autoscaling.because,
        )
    if wanted == 0:
        if living:
            return EndpointState.STOPPING, "stopping on request"
        return EndpointState.STOPPED, "no replicas are asked for"
    staying = [r for r in living if r.goal is Goal.RUN]
    ready = sum(r.ready for r in staying)
    trouble = next((words for r in staying if (words := _trouble(r, now_ms))), "")
    rollout = candidate(endpoint)
    if rollout is not None:
        return EndpointState.UPDATING, trouble or progress_text(rollout)
    if any(r.revision != endpoint.revision for r in staying):
        return EndpointState.UPDATING, trouble or f"{ready} of {wanted} replicas ready"
    if ready >= wanted:
        return EndpointState.READY, _outcome(endpoint)
    if ready:
        return EndpointState.SCALING, trouble or f"{ready} of {wanted} replicas ready"
    if trouble:
        return EndpointState.NOT_READY, trouble
    return EndpointState.STARTING, ""


def _outcome(endpoint: Endpoint) -> str:
    """What whoever waited for an update has to know: it is not what runs."""
    rollout = endpoint.rollout
    if rollout is None or rollout.state is not RolloutState.ROLLED_BACK:
        return ""
    return outcome_text(rollout)


def _trouble(replica: Replica, now_ms: int) -> str:
    """What keeps a replica from being ready, once it is no longer just starting."""
    end = replica.last_end
    if end is not None and crashes_of(replica) >= CRASH_LOOP and not replica.ready:
        return f"replica {replica.index} keeps ending: it last {describe_end(end)}"
    late = late_at_ms(replica, NOT_READY_AFTER_MS)
    if late is not None and now_ms >= late:
        port = replica.ports[0] if replica.ports else 0
        return (
            f"replica {replica.index} does not answer on port {port} after "
            f"{NOT_READY_AFTER_MS // 1000} s: its command must listen on $PORT"
        )
    return ""


def _wake_at_ms(endpoint: Endpoint, living: list[Replica], now_ms: int) -> int | None:
    times = [at for r in living if (at := late_at_ms(r, NOT_READY_AFTER_MS)) is not None]
    if any(r.revision != endpoint.revision for r in living):
        since_ms = _room_awaited_since_ms(endpoint, living)
        if since_ms is not None:
            times.append(now_ms + SURGE_PATIENCE_MS - (now_ms - since_ms) % SURGE_PATIENCE_MS)
    return min((at for at in times if at > now_ms), default=None)
