"""What the scheduler may know, and what it may answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from leptonai.core.resources import Capacity, Needs


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    id: str
    group: str = ""
    capacity: Capacity
    labels: Mapping[str, str] = field(default_factory=dict)
    schedulable: bool = True
    ports_from: int = 20_000  # replicas' ports are given from this range …
    ports_to: int = 30_000  # … up to, but not including


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a placed replica holds of its node."""

    replica: str
    gang: str
    node: str
    needs: Needs
    gpus: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    priority: int = 5000
    started_at_ms: int | None = None
    lasting: bool = False  # does not end by itself: a server, not a worker of a job


ANY_PORT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    replica: str
    needs: Needs
    ports: tuple[int, ...] = ()  # wished for; ANY_PORT takes any


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """Workers that start together or not at all."""

    id: str
    name: str  # for people
    workers: tuple[Worker, ...]
    priority: int = 5000  # larger goes first
    queued_at_ms: int = 0
    user: str = ""
    allowed_nodes: frozenset[str] = frozenset()  # empty allows all
    allowed_groups: frozenset[str] = frozenset()
    deadline_at_ms: int | None = None

    def __post_init__(self) -> None:
        assert self.workers, self.id

    def admits(self, node: NodeView) -> bool:
        """Whether its affinity lets it use this node."""
        return (not self.allowed_nodes or node.id in self.allowed_nodes) and (
            not self.allowed_groups or node.group in self.allowed_groups
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All the scheduler may know: the cluster at one instant."""

    now_ms: int
    nodes: tuple[NodeView, ...]
    holdings: tuple[Holding, ...] = ()
    queue: tuple[Gang, ...] = ()


@dataclass(frozen=True, slots=True)
class Assignment:
    """A worker's node, the GPUs it gets there, and its ports, one for each it wished for."""

    replica: str
    node: str
    gpus: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    gang: str
    assignments: tuple[Assignment, ...]  # one a worker, in the order of the gang's workers
    rendezvous_port: int  # free on the node of the first worker


class WaitCode(StrEnum):
    CAPACITY = "capacity"  # there is not enough room now
    BEHIND = "behind"  # an older or more urgent gang waits for the same room
    NO_NODE = "no_node"  # no node there is could ever hold it
    NO_NODES = "no_nodes"  # there are no usable nodes at all


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something waits: in words for people, and as data for programs."""

    code: WaitCode
    text: str
    data: Mapping[str, float | int | str | list[str]] = field(default_factory=dict)


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
    """Each gang of the queue is in exactly one of `places` and `waits`."""

    places: tuple[Place, ...] = ()
    waits: tuple[Wait, ...] = ()
    unmet: tuple[Unmet, ...] = ()
