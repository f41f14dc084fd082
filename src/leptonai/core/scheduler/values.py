"""What the scheduler may know, and what it may answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from leptonai.core.resources import MILLIS, Capacity, Needs

# --- the cluster ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What a node draws, in watts: each CPU socket and each GPU is idle, or draws its full power
    as soon as anything of it is given away."""

    cpu_idle: float
    cpu_busy: float
    cpu_millis_per_socket: int
    gpu_idle: float = 0.0
    gpu_busy: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    id: str
    group: str = ""
    switch: str = ""  # nodes behind one switch reach each other faster; "" is not known
    capacity: Capacity
    labels: Mapping[str, str] = field(default_factory=dict)
    schedulable: bool = True
    spare_bytes: int = 0  # of its memory: taken by what ends when somebody waits for it
    power: Power | None = None
    ports_from: int = 20_000  # replicas' ports are given from this range …
    ports_to: int = 30_000  # … up to, but not including

    @property
    def domain(self) -> tuple[str, str]:
        """The nodes behind its switch; itself, where that is not known."""
        return (self.switch, "") if self.switch else ("", self.id)


@dataclass(frozen=True, slots=True)
class Spare:
    """Memory of a node that a template takes, which ends when somebody waits for it."""

    node: str
    key: str
    memory_bytes: int
    wanted_at_ms: int  # when a server that could be its copy was last asked for


# --- the work ------------------------------------------------------------------------------------

ANY_PORT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    replica: str
    needs: Needs
    ports: tuple[int, ...] = ()  # wished for; ANY_PORT takes any


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    at_ms: int
    hard: bool = False  # hard: was admitted because it can be met
    value: float = 1.0  # of meeting it
    due_from_ms: int | None = None  # from then on it goes before its equals; else it is not met
    lost: bool = False  # cannot be met any more: goes after its equals that can


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """Workers that start together or not at all.

    With `min_workers` it is elastic: any first n of its workers will do, if n >= min_workers.
    With `segment` its equal workers come in segments of so many, in their order, and all of a
    segment are within one domain: behind one switch or, where that is not known, on one node.
    """

    id: str
    name: str  # for people
    workers: tuple[Worker, ...]
    min_workers: int = 0  # 0: all of them
    priority: int = 5000  # larger goes first
    queued_at_ms: int = 0  # first; a preemption does not change it
    user: str = ""
    project: str = ""
    allowed_nodes: frozenset[str] = frozenset()  # empty allows all
    allowed_groups: frozenset[str] = frozenset()
    avoided_nodes: frozenset[str] = frozenset()
    apart: bool = False  # each worker on a node of its own
    segment: int = 0  # workers that must be within one domain; 0: they may be anywhere
    preemptible: bool = False
    may_preempt: bool = True
    promised: bool = False  # others have given way to it: goes before all of its priority
    deadline: Deadline | None = None
    attained_ms: int = 0  # it has run so long already, before it last started
    remaining_ms: int | None = None  # from its next or last start, by estimate
    speedup: tuple[float, ...] = ()  # with 1, 2, … workers; empty: in proportion
    lasting: bool = False  # once it runs it does not end by itself: a server, not a job
    # Of all its workers; what needs none counts as one where work is weighed by GPUs.
    gpus: float = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        assert self.workers, self.id
        assert 0 <= self.min_workers <= len(self.workers), self
        if self.segment:
            assert not self.min_workers and len(self.workers) % self.segment == 0, self.id
            assert len({(each.needs, len(each.ports)) for each in self.workers}) == 1, self.id
        gpus = sum(w.needs.gpus * w.needs.gpu_millis for w in self.workers) / MILLIS
        object.__setattr__(self, "gpus", gpus or 1.0)

    @property
    def least(self) -> tuple[Worker, ...]:
        """The workers without which it does not run."""
        return self.workers[: self.min_workers or None]

    def admits(self, node: NodeView) -> bool:
        """Whether its affinity lets it use this node."""
        return (
            (not self.allowed_nodes or node.id in self.allowed_nodes)
            and (not self.allowed_groups or node.group in self.allowed_groups)
            and node.id not in self.avoided_nodes
        )


@dataclass(frozen=True, slots=True)
class Assignment:
    """A worker's node, the GPUs it gets there, and its ports, one for each it wished for."""

    replica: str
    node: str
    gpus: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A gang that has been placed, and what it still holds."""

    gang: Gang
    held: tuple[tuple[Worker, Assignment], ...]  # less than its workers where some have ended
    rendezvous_port: int = 0
    started_at_ms: int | None = None  # None: is about to
    saved_at_ms: int | None = None  # of its last checkpoint, if it was since the start
    lasting: bool = False  # does not end by itself: a server, not a job
    leaving: frozenset[str] = frozenset()  # replicas that were asked to end: soon they hold nothing
    leaving_since_ms: int = 0  # who was asked first ends first


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a user or a project is guaranteed; more may be borrowed while it is idle."""

    user: str = ""  # exactly one of user and project
    project: str = ""
    gpus: float | None = None  # None: not limited
    cpu_millis: int | None = None
    borrow: bool = True  # False: never more than the quota


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All the scheduler may know: the cluster at one instant."""

    now_ms: int
    nodes: tuple[NodeView, ...]
    running: tuple[Running, ...] = ()
    queue: tuple[Gang, ...] = ()
    quotas: tuple[Quota, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)  # of users in fair share; else 1
    demand: Mapping[Needs, float] = field(default_factory=dict)  # workers asked for, by size


# --- the answer ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    gang: str
    assignments: tuple[Assignment, ...]  # one a worker, in their order; elastic: maybe not to all
    rendezvous_port: int  # free on the node of the first worker
    after: tuple[str, ...] = ()  # gangs that must first give up their room, as they were asked to


@dataclass(frozen=True, slots=True)
class Preempt:
    """Stop this running gang, and queue it again: what it holds is needed by another."""

    gang: str
    by: str
    lost_ms: int  # of work since its last checkpoint


@dataclass(frozen=True, slots=True)
class Resize:
    """An elastic gang goes on with other workers than it has."""

    gang: str
    assignments: tuple[Assignment, ...]  # all it shall hold from now on
    by: str = ""  # who needs the room, where it shrinks


class WaitCode(StrEnum):
    CAPACITY = "capacity"  # there is not enough room now
    BEHIND = "behind"  # an older or more urgent gang waits for the same room
    QUOTA = "quota"  # its user or project holds all that it may
    CLEARING = "clearing"  # its room is known, and others are about to leave it
    NO_NODE = "no_node"  # no node there is could ever hold it
    NO_NODES = "no_nodes"  # there are no usable nodes at all
    DEADLINE = "deadline"  # its deadline cannot be promised


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has what is short."""

    gang: str
    amount: int  # of the resource, in its smallest unit


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something waits: in words for people, and as data for programs.

    The words name no other gang: not everybody may know of every other. `held_by` and `behind` do.
    """

    code: WaitCode
    text: str
    data: Mapping[str, float | int | str | list[str]] = field(default_factory=dict)
    held_by: tuple[Holder, ...] = ()  # those who hold most of it first
    behind: str = ""  # the gang for which the room is kept


@dataclass(frozen=True, slots=True)
class Wait:
    gang: str
    because: Reason


@dataclass(frozen=True, slots=True)
class Unmet:
    """Room for this many more workers of this size would be used at once."""

    needs: Needs
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Each gang of the queue is in exactly one of `places` and `waits`; a gang that runs is in
    `preempts` if it has to yield, and then in `places` too if it goes on elsewhere."""

    places: tuple[Place, ...] = ()
    waits: tuple[Wait, ...] = ()
    preempts: tuple[Preempt, ...] = ()  # to be carried out before the places that are `after` them
    resizes: tuple[Resize, ...] = ()
    unmet: tuple[Unmet, ...] = ()
    revisit_at_ms: int | None = None  # by then another plan may come of the same cluster and queue
