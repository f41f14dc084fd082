"""Nodes that are kept for some users, for some time. Pure.

A reservation is asked for, and an admin approves it: then its nodes are chosen, and stay. While it
is in force, nothing is placed on them but what names it; what runs there goes on to its end.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from leptonai.core.records import Node, NodeState, Reservation
from leptonai.spec.containers import ReservationConfig
from leptonai.spec.reservations import ReservationPhase, ReservationSpec

NOWHERE = frozenset({""})  # the nodes allowed to what has no place to go to: no id is empty


def start_ms(spec: ReservationSpec) -> int:
    rule = spec.time_rule
    return 1000 * rule.start_timestamp if rule and rule.start_timestamp else 0


def end_ms(spec: ReservationSpec) -> int | None:
    rule = spec.time_rule
    return 1000 * rule.end_timestamp if rule and rule.end_timestamp else None


def in_force(reservation: Reservation, now_ms: int) -> bool:
    ends = end_ms(reservation.spec)
    return (
        reservation.decided == "approved"
        and start_ms(reservation.spec) <= now_ms
        and (ends is None or now_ms < ends)
    )


def may_use(reservation: Reservation, workspace: str, user: str) -> bool:
    return reservation.workspace == workspace and user in (
        reservation.spec.users or (reservation.owner,)
    )


def phase_of(reservation: Reservation, now_ms: int, strangers: Collection[str]) -> ReservationPhase:
    """Args: strangers: nodes on which something runs that does not belong to the reservation."""
    ends = end_ms(reservation.spec)
    if reservation.decided == "rejected":
        return ReservationPhase.REJECTED
    if ends is not None and now_ms >= ends:
        return ReservationPhase.EXPIRED
    if reservation.decided == "":
        return ReservationPhase.PENDING_APPROVAL
    if now_ms < start_ms(reservation.spec):
        return ReservationPhase.WAITING_EFFECTIVE
    if any(node in strangers for node in reservation.nodes):
        return ReservationPhase.RESERVING
    return ReservationPhase.RESERVED


def free_nodes(
    reservation: Reservation,
    nodes: Iterable[Node],
    others: Iterable[Reservation],
    held: Mapping[str, int],
) -> list[str]:
    """The nodes that it could be given, those on which least runs first.

    Args:
        held: how many replicas hold something of each node.
    """
    taken = {
        node
        for other in others
        if other.id != reservation.id
        and other.decided == "approved"
        and _overlap(reservation.spec, other.spec)
        for node in other.nodes
    }
    usable = [
        node.id
        for node in nodes
        if node.group == reservation.group
        and node.state is NodeState.READY
        and not node.unschedulable
        and node.id not in taken
    ]
    return sorted(usable, key=lambda node: (held.get(node, 0), node))


@dataclass(frozen=True, slots=True)
class Affinity:
    """Nodes that a gang is allowed (empty: all), and that it avoids."""

    allowed: frozenset[str] = frozenset()
    avoided: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reserved:
    """What is reserved at one time; the same until `until_ms`, if nobody changes it."""

    in_force: tuple[Reservation, ...] = ()
    until_ms: int | None = None

    def affinity(
        self,
        config: ReservationConfig | None,
        workspace: str,
        user: str,
        allowed: frozenset[str],
    ) -> Affinity:
        """Where a workload may go. One that names a reservation which is not in force waits."""
        mine = config.reservation_id if config else None
        if not mine:
            return Affinity(allowed, frozenset(n for each in self.in_force for n in each.nodes))
        usable = [each for each in self.in_force if may_use(each, workspace, user)]
        if not any(each.id == mine for each in usable):
            return Affinity(NOWHERE)
        if not (config and config.allow_burst_to_other_reservations):
            usable = [each for each in usable if each.id == mine]
        nodes = frozenset(node for each in usable for node in each.nodes)
        return Affinity((nodes & allowed if allowed else nodes) or NOWHERE)


NOTHING = Reserved()


def reserved_at(reservations: Iterable[Reservation], now_ms: int) -> Reserved:
    approved = sorted(
        (each for each in reservations if each.decided == "approved"), key=lambda each: each.id
    )
    bounds = [
        bound
        for each in approved
        for bound in (start_ms(each.spec), end_ms(each.spec))
        if bound is not None and bound > now_ms
    ]
    return Reserved(
        tuple(each for each in approved if in_force(each, now_ms)), min(bounds, default=None)
    )


def _overlap(one: ReservationSpec, other: ReservationSpec) -> bool:
    one_ends, other_ends = end_ms(one), end_ms(other)
    return (other_ends is None or start_ms(one) < other_ends) and (
        one_ends is None or start_ms(other) < one_ends
    )
