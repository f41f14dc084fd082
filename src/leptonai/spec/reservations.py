"""Nodes that are kept for some users, for some time."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, field

from leptonai.spec.metadata import Metadata, Wire

MAX_RESERVED_NODES = 10_000
MAX_USERS = 1_000
NodeCount = Annotated[int, Meta(ge=1, le=MAX_RESERVED_NODES)]


class ReservationPhase(StrEnum):
    PENDING_APPROVAL = "PendingApproval"
    REJECTED = "Rejected"
    WAITING_EFFECTIVE = "WaitingEffective"  # its time has not come
    RESERVING = "Reserving"  # others still run on some of its nodes
    RESERVED = "Reserved"
    EXPIRED = "Expired"


class TimeRule(Wire, frozen=True):
    start_timestamp: int | None = None  # seconds since 1970; None: from its approval on
    end_timestamp: int | None = None  # seconds since 1970; None: until it is removed


class ReservationSpec(Wire, frozen=True):
    users: Annotated[list[str], Meta(max_length=MAX_USERS)] | None = None  # None: who asked for it
    desired_nodes: NodeCount | None = None  # 1, if not given
    approved_nodes: NodeCount | None = None  # an admin may approve fewer
    time_rule: TimeRule | None = None
    created_by: str | None = None


class ReservationStatus(Wire, frozen=True, omit_defaults=False):
    phase: ReservationPhase
    reserved_count: int = 0
    reserved_nodes: list[str] = field(default_factory=list)


class NodeReservation(Wire, frozen=True):
    metadata: Metadata
    spec: ReservationSpec
    status: ReservationStatus | None = None


class Verdict(Wire, frozen=True):
    """Of an admin: how many nodes, or which ones; neither approves what was desired."""

    approve: bool
    approved_nodes: NodeCount | None = None
    nodes: list[str] | None = None
