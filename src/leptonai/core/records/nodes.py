"""Where it runs."""

from enum import StrEnum

from msgspec import field

from leptonai.core.records.record import Record
from leptonai.core.resources import Capacity


class NodeState(StrEnum):
    READY = "Ready"
    UNREACHABLE = "Unreachable"  # nothing is known: its replicas may well run
    FENCED = "Fenced"  # nothing of it runs any more, for certain


class Node(Record, tag="node", tag_field="kind", frozen=True, kw_only=True):
    group: str
    capacity: Capacity
    state: NodeState = NodeState.READY
    unschedulable: bool = False
    address: str = "127.0.0.1"
    provider_id: str = ""
    limits: str = "none"  # how limits are enforced: cgroup-v2, cgroup-v1, none
    switch: str = ""  # nodes behind one reach each other faster; "" is not known
    facts: dict[str, str] = field(default_factory=dict)  # os, kernel, cpu type, … for people
    seen_at_ms: int = 0
    unreachable_since_ms: int | None = None

    @property
    def state_name(self) -> str:
        return self.state
