"""A replica: what an observation makes of it, and what to ask of its engine.

::

    Waiting ──placed──▶ Placed ──seen running──▶ Running ──seen ended──▶ Ended
                          ▲                                               │ its owner decides
                          └───────────── the next attempt ────────────────┤
                                                                          ▼
                                                                        Done
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from msgspec.structs import replace

from leptonai.core.lifecycle.backoff import backoff_ms
from leptonai.core.lifecycle.program import PROJECT_LABEL, priority_of
from leptonai.core.records import (
    MAX_TERMINATIONS,
    EndReason,
    Goal,
    Phase,
    Program,
    RayCluster,
    Replica,
    Termination,
    Workload,
    kind_of,
)
from leptonai.spec.containers import QueueConfig
from leptonai.spec.endpoints import EndpointSpec
from leptonai.spec.jobs import JobSpec
from leptonai.spec.rayclusters import RayGroup

HEALTHY_AFTER_MS = 600_000  # a run this long forgets the crashes before it
SERVED_WAIT_MS = 5_000  # of one that was ready: it can start, and requests may wait for it
CRASH_LOOP = 3  # crashes in a row after which one is said to keep ending


@dataclass(frozen=True, slots=True)
class SeenRunning:
    started_at_ms: int


@dataclass(frozen=True, slots=True)
class SeenEnded:
    how: Termination


Sight = SeenRunning | SeenEnded | None  # of an attempt on a node that was observed; None: not there


class Ask(Enum):
    """What to ask of the engine for a replica's current attempt."""

    NOTHING = auto()
    START = auto()
    STOP = auto()


def observed(replica: Replica, sight: Sight, now_ms: int) -> Replica:
    """The replica after its node was seen with or without its current attempt."""
    if replica.phase not in (Phase.PLACED, Phase.RUNNING):
        return replica
    match sight:
        case SeenRunning(started_at_ms):
            if replica.phase is Phase.RUNNING:
                return replica
            return replace(replica, phase=Phase.RUNNING, started_at_ms=started_at_ms)
        case SeenEnded(how):
            return ended(replica, how)
        case None if replica.phase is Phase.RUNNING:
            return ended(
                replica,
                Termination(
                    reason=EndReason.LOST,
                    message="its node no longer knows of it",
                    started_at_ms=replica.started_at_ms,
                    finished_at_ms=now_ms,
                ),
            )
    return replica


def node_lost(replica: Replica, now_ms: int) -> Replica:
    """The replica after its node was fenced: whatever it was doing, it no longer does."""
    if replica.phase not in (Phase.PLACED, Phase.RUNNING):
        return replica
    return ended(
        replica,
        Termination(
            reason=EndReason.NODE_LOST,
            message=f"node {replica.node} was lost",
            started_at_ms=replica.started_at_ms,
            finished_at_ms=now_ms,
        ),
    )


def ended(replica: Replica, how: Termination) -> Replica:
    ended_as = replace(how, attempt=replica.attempt, served=replica.ready)
    return replace(
        replica,
        phase=Phase.ENDED,
        ready=False,
        terminations=(*replica.terminations, ended_as)[-MAX_TERMINATIONS:],
    )


def ask(replica: Replica, sight: Sight, now_ms: int) -> tuple[Ask, int | None]:
    """What to ask now, and when to look again if nothing changes before."""
    if replica.phase not in (Phase.PLACED, Phase.RUNNING) or isinstance(sight, SeenEnded):
        return Ask.NOTHING, None
    if replica.goal is Goal.STOP:
        return Ask.STOP, None
    if sight is None and replica.phase is Phase.PLACED:
        due = now_ms >= replica.not_before_ms
        return (Ask.START, None) if due else (Ask.NOTHING, replica.not_before_ms)
    return Ask.NOTHING, None


def asked_of(replica: Replica, owner: Workload | None) -> JobSpec | EndpointSpec | RayGroup | None:
    """What its owner asked for it: of a Ray cluster, its group."""
    if isinstance(owner, RayCluster):
        return owner.spec.group(replica.group)
    return None if owner is None else owner.spec


# --- what owners do to their replicas ------------------------------------------------------------


def new_replica(
    owner: Workload,
    *,
    id: str,
    name: str,
    index: int,
    program: Program,
    queue: QueueConfig | None,
    now_ms: int,
) -> Replica:
    """One that waits for room, alone in its gang."""
    kind = kind_of(owner)
    return Replica(
        workspace=owner.workspace,
        id=id,
        name=name,
        created_at_ms=now_ms,
        modified_at_ms=now_ms,
        owner=owner.owner,
        owner_kind=kind,
        owner_id=owner.id,
        owner_name=owner.name,
        index=index,
        gang=f"{kind}/{id}",
        priority=priority_of(queue),
        project=owner.labels.get(PROJECT_LABEL, ""),
        program=program,
    )


def least_used(replicas: Iterable[Replica]) -> list[Replica]:
    """Those first whose end is missed least."""
    return sorted(replicas, key=lambda r: (r.ready, r.phase is Phase.RUNNING, -r.index))


def without(leaving: Iterable[Replica], replicas: Iterable[Replica], now_ms: int) -> list[Replica]:
    """All of them, with those that leave asked to stop."""
    ids = {r.id for r in leaving}
    return [stop(r, now_ms) if r.id in ids else r for r in replicas]


def stop(replica: Replica, now_ms: int) -> Replica:
    """Ask for its end. One that was never placed has nothing to stop."""
    if replica.phase in (Phase.WAITING, Phase.ENDED):
        return replace(replica, goal=Goal.STOP, phase=Phase.DONE, ready=False)
    if replica.goal is Goal.STOP or replica.phase is Phase.DONE:
        return replica
    return replace(replica, goal=Goal.STOP, stop_asked_at_ms=now_ms)


def done(replica: Replica) -> Replica:
    return (
        replica if replica.phase is Phase.DONE else replace(replica, phase=Phase.DONE, ready=False)
    )


def abandon(replica: Replica, now_ms: int, *, spare_files: bool = False) -> Replica:
    """Its owner was removed: let it end, and then remove it with all it left."""
    return replace(stop(replica, now_ms), abandoned=True, spares_files=spare_files)


def next_attempt(replica: Replica, not_before_ms: int, *, stay: bool) -> Replica:
    """Try again: on the same node, whose capacity it kept, or wherever there is room."""
    again = replace(
        replica,
        attempt=replica.attempt + 1,
        not_before_ms=not_before_ms,
        started_at_ms=None,
        stop_asked_at_ms=None,
        ready=False,
        ready_at_ms=None,
    )
    if stay:
        return replace(again, phase=Phase.PLACED)
    return replace(again, phase=Phase.WAITING, node="", gpus=(), ports=(), rendezvous_port=0)


def started_again(replica: Replica, now_ms: int) -> Replica:
    """After it ended by itself: at once, then later and later while it keeps ending."""
    crashes = crashes_of(replica)
    end = replica.last_end
    wait_ms = backoff_ms(crashes - 1) if crashes > 1 else 0
    if end is not None and end.served:
        wait_ms = min(wait_ms, SERVED_WAIT_MS)
    # What could not be started may find what it needs on another node, or other ports.
    stay = end is not None and end.reason is not EndReason.NOT_STARTED
    return next_attempt(replica, now_ms + wait_ms, stay=stay)


def late_at_ms(replica: Replica, patience_ms: int) -> int | None:
    """When one that runs, but is not ready, is to be reported."""
    if replica.phase is not Phase.RUNNING or replica.ready or replica.started_at_ms is None:
        return None
    return replica.started_at_ms + patience_ms


def crashes_of(replica: Replica) -> int:
    """How often it crashed in a row, lately."""
    count = 0
    for end in reversed(replica.terminations):
        count += 1
        if (end.finished_at_ms - (end.started_at_ms or end.finished_at_ms)) >= HEALTHY_AFTER_MS:
            break
    return count


def describe_end(how: Termination) -> str:
    """ "exited with code 3", for people."""
    match how.reason:
        case EndReason.EXITED:
            words = f"exited with code {how.exit_code}"
        case EndReason.SIGNALLED:
            words = f"was killed by signal {(how.exit_code or 128) - 128}"
        case EndReason.OUT_OF_MEMORY:
            words = "was killed because it used more memory than it asked for"
        case EndReason.STOPPED:
            words = "was stopped"
        case EndReason.NOT_STARTED:
            words = "could not be started"
        case EndReason.LOST:
            words = "is gone without an exit status"
        case EndReason.NODE_LOST:
            words = "was on a node that was lost"
    return f"{words}: {how.message}" if how.message else words
