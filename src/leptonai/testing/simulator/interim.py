"""Stands in for the walk of `leptonai.core.scheduler` until that has preemption and an index."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from leptonai.core.resources import Needs
from leptonai.core.scheduler import Assignment, NodeView, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    replica: str
    needs: Needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    at_ms: int
    hard: bool = False
    value: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    id: str
    name: str
    workers: tuple[Worker, ...]
    priority: int = 5000
    queued_at_ms: int = 0
    user: str = ""
    preemptible: bool = False
    deadline: Deadline | None = None
    attained_ms: int = 0
    remaining_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    gang: Gang
    held: tuple[tuple[Worker, Assignment], ...]
    rendezvous_port: int = 0
    started_at_ms: int | None = None
    saved_at_ms: int | None = None


class Order(StrEnum):
    ARRIVAL = "arrival"
    SHORTEST = "shortest"
    LEAST_WORK = "least_work"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    order: Order = Order.ARRIVAL
    always: bool = False  # passing
    yields: bool = False


QUEUE_POLICIES: Mapping[str, Policy] = {
    "fifo": Policy(),
    "sjf": Policy(order=Order.SHORTEST, always=True),
    "srtf": Policy(order=Order.SHORTEST, always=True, yields=True),
    "srsf": Policy(order=Order.LEAST_WORK, always=True, yields=True),
    "edf": Policy(order=Order.DEADLINE, always=True, yields=True),
}
DEFAULT = QUEUE_POLICIES["srtf"]


@dataclass(frozen=True, slots=True)
class Preempt:
    gang: str
    by: str = ""
    lost_ms: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    places: tuple[Place, ...] = ()
    preempts: tuple[Preempt, ...] = ()
    resizes: tuple[()] = ()
    revisit_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    now_ms: int
    nodes: tuple[NodeView, ...]
    running: tuple[Running, ...] = ()
    queue: tuple[Gang, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    queued: tuple[Gang, ...] = ()
    running: tuple[Running, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(slots=True)
class Index:
    gpus: int
    policy: Policy
    queue: dict[str, Gang] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot, policy: Policy) -> "Index":
        return cls(sum(node.capacity.gpus for node in snapshot.nodes), policy)


def advance(index: Index, change: Change) -> Index:
    for id in change.gone:
        index.queue.pop(id, None)
        index.running.pop(id, None)
    for gang in change.queued:
        index.running.pop(gang.id, None)
        index.queue[gang.id] = gang
    for running in change.running:
        index.queue.pop(running.gang.id, None)
        index.running[running.gang.id] = running
    return index


def decide(index: Index, now_ms: int) -> Plan:
    policy = index.policy

    def urgency(gang: Gang) -> tuple[float, int, str]:
        at = index.running.get(gang.id)
        ran_ms = now_ms - at.started_at_ms if at and at.started_at_ms is not None else 0
        rank = 0.0
        if policy.order in (Order.SHORTEST, Order.LEAST_WORK):
            rank = gang.remaining_ms - ran_ms if gang.remaining_ms is not None else 1e18
            if rank <= 0:
                rank = (gang.attained_ms + ran_ms) / 2
            if policy.order == Order.LEAST_WORK:
                rank *= len(gang.workers)
        elif policy.order == Order.DEADLINE:
            rank = gang.deadline.at_ms if gang.deadline else 1e18
        return rank, gang.queued_at_ms, gang.id

    free = index.gpus
    if policy.yields:
        members = [*index.queue.values(), *(r.gang for r in index.running.values())]
    else:
        members = [*index.queue.values()]
        free -= sum(len(r.held) for r in index.running.values())
    goes: set[str] = set()
    for gang in sorted(members, key=urgency):
        if len(gang.workers) <= free:
            goes.add(gang.id)
            free -= len(gang.workers)
        elif not policy.always:
            break
        if not free:
            break
    preempts = tuple(Preempt(id) for id in index.running if id not in goes) if policy.yields else ()
    places = tuple(
        Place(g.id, tuple(Assignment(w.replica, "n") for w in g.workers), 20_000)
        for g in index.queue.values()
        if g.id in goes
    )
    return Plan(places, preempts)
