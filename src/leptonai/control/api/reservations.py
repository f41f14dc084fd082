"""Reservations of nodes."""

from leptonai.control.actions.reservations import (
    ask_reservation,
    decide_reservation,
    delete_reservation,
    find_reservation,
)
from leptonai.control.api.nodes import nodes_of_group
from leptonai.control.api.routing import Call, Route
from leptonai.control.api.views import metadata_of
from leptonai.core.lifecycle.replica import asked_of
from leptonai.core.records import (
    Endpoint,
    Job,
    OwnerKind,
    RayCluster,
    Replica,
    Reservation,
    Workload,
)
from leptonai.core.reservations import phase_of
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read
from leptonai.spec.reservations import (
    NodeReservation,
    ReservationPhase,
    ReservationStatus,
    Verdict,
)


async def list_reservations(call: Call) -> list[NodeReservation]:
    await nodes_of_group(call)
    parent = f"group/{call.path['group']}"
    found = await call.world.store.find(Reservation, Query(workspace=call.workspace, parent=parent))
    return [await _view(call, each) for each in found if may_read(call.principal, each)]


async def ask(call: Call) -> NodeReservation:
    await nodes_of_group(call)
    asked: NodeReservation = await call.json()
    made = await ask_reservation(
        call.world, call.principal, call.workspace, call.path["group"], asked
    )
    return await _view(call, made)


async def get(call: Call) -> NodeReservation:
    return await _view(
        call,
        await find_reservation(
            call.world, call.principal, call.workspace, call.path["group"], call.path["id"]
        ),
    )


async def decide(call: Call) -> NodeReservation:
    verdict: Verdict = await call.json()
    path = call.path
    return await _view(
        call,
        await decide_reservation(
            call.world, call.principal, call.workspace, path["group"], path["id"], verdict
        ),
    )


async def delete(call: Call) -> NodeReservation:
    return await _view(
        call,
        await delete_reservation(
            call.world, call.principal, call.workspace, call.path["group"], call.path["id"]
        ),
    )


async def _view(call: Call, reservation: Reservation) -> NodeReservation:
    strangers = await _strangers(call, reservation)
    phase = phase_of(reservation, call.world.clock.now_ms(), strangers)
    kept = phase in (ReservationPhase.RESERVING, ReservationPhase.RESERVED)
    return NodeReservation(
        metadata=metadata_of(reservation),
        spec=reservation.spec,
        status=ReservationStatus(
            phase=phase,
            reserved_count=sum(each not in strangers for each in reservation.nodes) if kept else 0,
            reserved_nodes=list(reservation.nodes),
        ),
    )


_KINDS: dict[OwnerKind, type[Workload]] = {
    OwnerKind.JOB: Job,
    OwnerKind.ENDPOINT: Endpoint,
    OwnerKind.RAYCLUSTER: RayCluster,
}


async def _strangers(call: Call, reservation: Reservation) -> set[str]:
    """Nodes of the reservation on which something else runs."""
    if not reservation.nodes:
        return set()
    store, strangers = call.world.store, set()
    for replica in await store.find(Replica, Query(live=True)):
        if replica.node not in reservation.nodes or not replica.holds_capacity:
            continue
        key = replica.workspace, replica.owner_id
        asked = asked_of(replica, await store.get(_KINDS[replica.owner_kind], *key))
        config = asked.reservation_config if asked else None
        same = replica.workspace == reservation.workspace
        if config is None or not same or config.reservation_id != reservation.id:
            strangers.add(replica.node)
    return strangers


ROUTES = (
    Route(
        method="GET",
        path="/dedicated-node-groups/{group}/reservations",
        handler=list_reservations,
        summary="The reservations of a node group",
        answer=list[NodeReservation],
    ),
    Route(
        method="POST",
        path="/dedicated-node-groups/{group}/reservations",
        handler=ask,
        summary="Ask for nodes to be kept; an admin decides",
        body=NodeReservation,
        answer=NodeReservation,
    ),
    Route(
        method="GET",
        path="/dedicated-node-groups/{group}/reservations/{id}",
        handler=get,
        summary="One reservation",
        answer=NodeReservation,
    ),
    Route(
        method="PUT",
        path="/dedicated-node-groups/{group}/reservations/{id}/verdict",
        handler=decide,
        summary="Approve or reject a reservation",
        body=Verdict,
        answer=NodeReservation,
    ),
    Route(
        method="DELETE",
        path="/dedicated-node-groups/{group}/reservations/{id}",
        handler=delete,
        summary="Give up a reservation; its nodes are for everybody again",
        answer=NodeReservation,
    ),
)
