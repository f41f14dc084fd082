"""Reservations of nodes: asked for by anybody, decided by an admin."""

import secrets
from collections import Counter

from msgspec.structs import replace

from leptonai.control.actions.committing import insisting, put
from leptonai.control.requests import name_and_labels
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import Node, Replica, Reservation
from leptonai.core.reservations import end_ms, free_nodes, start_ms
from leptonai.errors import Conflict, InvalidRequest, NotFound, Unsatisfiable
from leptonai.ports.store import Delete, Put, Query
from leptonai.security.permissions import may_read, require
from leptonai.spec.codec import suggestion
from leptonai.spec.names import check_label
from leptonai.spec.reservations import NodeReservation, Verdict

LATEST_TIME_S = 32_503_680_000  # the year 3000: a later time is one in milliseconds
ID_BYTES = 3


async def ask_reservation(
    world: World, principal: Principal, workspace: str, group: str, asked: NodeReservation
) -> Reservation:
    require(principal, Action.CREATE, Resource(kind="reservation", workspace=workspace))
    name, labels = name_and_labels(asked.metadata, "reservation", "reserved")
    spec = asked.spec
    for user in spec.users or ():
        check_label("user", user)
    now_ms = world.clock.now_ms()
    ends = end_ms(spec)
    for at_ms in (start_ms(spec), ends or 0):
        if not 0 <= at_ms <= 1000 * LATEST_TIME_S:
            raise InvalidRequest(
                "spec.time_rule: is out of bounds", hint="Give seconds since 1970."
            )
    if ends is not None and ends <= max(now_ms, start_ms(spec)):
        raise InvalidRequest(
            "spec.time_rule: it ends before it begins, or has ended",
            hint="Give an end_timestamp after the start and after now, in seconds since 1970.",
        )
    nodes = [node for node in await world.store.find(Node, Query()) if node.group == group]
    desired = spec.desired_nodes or 1
    if desired > len(nodes):
        raise Unsatisfiable(
            f"{desired} nodes are desired, and the node group {group} has {len(nodes)}",
            hint="Ask for fewer.",
        )
    return await put(
        world,
        Reservation(
            workspace=workspace,
            id=f"{name}-{secrets.token_hex(ID_BYTES)}",
            name=name,
            created_at_ms=now_ms,
            modified_at_ms=now_ms,
            owner=principal.name,
            labels=labels,
            group=group,
            spec=replace(
                spec, desired_nodes=desired, approved_nodes=None, created_by=principal.name
            ),
        ),
    )


async def decide_reservation(
    world: World, principal: Principal, workspace: str, group: str, id: str, verdict: Verdict
) -> Reservation:
    """Approve it, and choose its nodes; or reject it. Either may be changed later."""
    require(principal, Action.UPDATE, Resource(kind="node", workspace=workspace))

    async def change() -> Reservation:
        reservation = await find_reservation(world, principal, workspace, group, id)
        now_ms = world.clock.now_ms()
        ends = end_ms(reservation.spec)
        if ends is not None and now_ms >= ends:
            raise Conflict(f"the reservation {id} is over", hint="Ask for another.")
        if not verdict.approve:
            rejected = replace(
                reservation,
                decided="rejected",
                nodes=(),
                spec=replace(reservation.spec, approved_nodes=None),
                modified_at_ms=now_ms,
            )
            return await put(world, rejected)
        # Whoever approves another one at the same time, for the same nodes, is overtaken or
        # overtakes: each approval writes every other reservation of the group again.
        others = await _of_group(world, group)
        nodes = await _choose(world, reservation, others, verdict)
        approved = replace(
            reservation,
            decided="approved",
            nodes=nodes,
            spec=replace(reservation.spec, approved_nodes=len(nodes)),
            modified_at_ms=now_ms,
        )
        return await put(world, approved, *(Put(each) for each in others if each != reservation))

    return await insisting(change)


async def delete_reservation(
    world: World, principal: Principal, workspace: str, group: str, id: str
) -> Reservation:
    async def change() -> Reservation:
        reservation = await find_reservation(world, principal, workspace, group, id)
        require(principal, Action.DELETE, reservation)
        await world.commit(Delete(reservation))
        return reservation

    return await insisting(change)


async def find_reservation(
    world: World, principal: Principal, workspace: str, group: str, id: str
) -> Reservation:
    found = await world.store.get(Reservation, workspace, id)
    if found is None or found.group != group or not may_read(principal, found):
        raise NotFound(
            f"the node group {group[:60]} has no reservation {id[:100]!r}",
            hint="`leptonai node reservations` shows them.",
        )
    return found


async def _of_group(world: World, group: str) -> list[Reservation]:
    """Of all workspaces: they share the nodes."""
    return await world.store.find(Reservation, Query(parent=f"group/{group}"))


async def _choose(
    world: World, reservation: Reservation, others: list[Reservation], verdict: Verdict
) -> tuple[str, ...]:
    replicas = await world.store.find(Replica, Query(live=True))
    held = Counter(each.node for each in replicas if each.holds_capacity)
    nodes = await world.store.find(Node, Query())
    free = free_nodes(reservation, nodes, others, held)
    if verdict.nodes:
        for node in verdict.nodes:
            if node not in free:
                raise InvalidRequest(
                    f"nodes: {node[:60]!r} is no free node of the group then",
                    hint=suggestion(node[:60], free),
                )
        return tuple(sorted(set(verdict.nodes)))
    wanted = verdict.approved_nodes or reservation.spec.desired_nodes or 1
    if wanted > len(free):
        raise Conflict(
            f"{len(free)} nodes are free at that time, and {wanted} are wanted",
            hint="Approve fewer, or reject another reservation first.",
        )
    return tuple(sorted(free[:wanted]))
