"""Ray clusters, and the way to their dashboards, where Ray jobs are submitted."""

import re
from collections.abc import Callable
from functools import partial

from leptonai.control.actions.rayclusters import (
    create_raycluster,
    delete_raycluster,
    find_raycluster,
    patch_raycluster,
)
from leptonai.control.api.logs import FOLLOW, TAIL, live_log
from leptonai.control.api.ray_views import raycluster_view
from leptonai.control.api.routing import BYTES, TEXT, Answer, Call, Route
from leptonai.control.api.views import event_view, replica_view
from leptonai.control.relays import ANSWERED, Asked, Relay, Streams, Target, keep_alive
from leptonai.core.access import Action
from leptonai.core.lifecycle.raycluster import head_of
from leptonai.core.records import Node, OwnerKind, Phase, RayCluster, Replica
from leptonai.errors import Conflict, InvalidRequest, NotFound, Unavailable
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read, may_see, require
from leptonai.spec import replicas as wire
from leptonai.spec.explanations import Explanation
from leptonai.spec.rayclusters import LeptonRayCluster

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")  # that a dashboard is asked by
WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
UNAUTHENTICATED = 401
_TARGET = re.compile(rb"/[!-~]*")
_CLIMBS = re.compile(rb"(?:^|/|%2f|\\|%5c)(?:\.|%2e){1,2}(?:/|%2f|\\|%5c|\?|#|$)", re.IGNORECASE)


async def create(call: Call) -> LeptonRayCluster:
    asked: LeptonRayCluster = await call.json()
    return await _view(
        call, await create_raycluster(call.world, call.principal, call.workspace, asked)
    )


async def list_(call: Call) -> list[LeptonRayCluster]:
    found = await call.world.store.find(RayCluster, Query(workspace=call.workspace))
    return [await _view(call, each) for each in found if may_read(call.principal, each)]


async def get(call: Call) -> LeptonRayCluster:
    return await _view(call, await _cluster(call))


async def patch(call: Call) -> LeptonRayCluster:
    name, asked = call.path["name"], await call.json()
    changed = await patch_raycluster(call.world, call.principal, call.workspace, name, asked)
    return await _view(call, changed)


async def delete(call: Call) -> LeptonRayCluster:
    name = call.path["name"]
    gone = await delete_raycluster(call.world, call.principal, call.workspace, name)
    return await _view(call, gone)


async def list_replicas(call: Call) -> list[wire.Replica]:
    found = await _replicas(call, await _cluster(call))
    living = [replica for replica in found if replica.phase is not Phase.DONE]
    return [replica_view(each) for each in sorted(living, key=lambda r: (r.group, r.index, r.id))]


async def replica_log(call: Call) -> Answer:
    cluster = await _cluster(call)
    replica = await call.world.store.get(Replica, call.workspace, call.path["replica"])
    if replica is None or replica.parent != f"{OwnerKind.RAYCLUSTER}/{cluster.id}":
        raise NotFound(
            f"Ray cluster {cluster.name} has no replica {call.path['replica'][:100]!r}",
            hint=f"`leptonai raycluster get {cluster.name}` shows its replicas.",
        )
    return live_log(call, replica)


async def list_events(call: Call) -> list[wire.LeptonEvent]:
    cluster = await _cluster(call)
    kind = OwnerKind.RAYCLUSTER
    events = await call.world.store.events(call.workspace, kind=kind, id=cluster.id)
    return [event_view(event) for event in events]


async def why(call: Call) -> Explanation:
    return await call.world.advice.explain(await _cluster(call), may_see(call.principal))


async def dashboard(call: Call) -> Answer:
    """Whatever it is asked, it may run: whoever comes here may change the cluster."""
    cluster = await _cluster(call)
    require(call.principal, Action.UPDATE, cluster)
    path = dashboard_path(call.raw_target)
    target = await _target(call, cluster)
    take_over = call.upgrade if call.route.method == "GET" else None
    has_body = call.route.method in WITH_BODY
    relay = await call.world.relays.ask(
        target,
        Asked(
            method=call.route.method,
            path=path,
            headers=call.raw_headers,
            body=call.chunks() if has_body else None,
            length=(0 if call.length is None else call.length)
            if has_body and not call.header("transfer-encoding")
            else None,
            upgrades=take_over is not None,
        ),
    )
    if relay.status == UNAUTHENTICATED:
        relay.close()
        raise Unavailable(
            f"the head of {cluster.name} does not know this platform's token",
            hint=f"`leptonai raycluster stop {cluster.name}`, and start it again.",
        )
    if take_over is not None and relay.upgraded:
        return Answer(status=relay.status, tunnel=partial(_joined, relay, take_over))
    return Answer(
        status=relay.status,
        stream=relay,
        media=relay.media,
        headers=tuple(
            (name.decode(), value.decode("latin-1")) for name, value in relay.headers(ANSWERED)
        ),
    )


def dashboard_path(target: bytes) -> bytes:
    """What to ask a dashboard for, of what the API was asked for.

    Raises:
        InvalidRequest: it climbs out of its directory, or is no path.
    """
    # /api/v2/workspaces/WORKSPACE/rayclusters/NAME/dashboard/…
    parts = target.split(b"/", 8)
    path = b"/" + parts[8] if len(parts) == 9 and parts[7] == b"dashboard" else b""
    if not _TARGET.fullmatch(path) or _CLIMBS.search(path.partition(b"?")[0]):
        raise InvalidRequest(
            "this is no path of a dashboard",
            hint="Ask as Ray's own client does: …/dashboard/api/version, for example.",
        )
    return path


async def _joined(relay: Relay, take_over: Callable[[], Streams]) -> None:
    client = take_over()
    keep_alive(client[1])
    await relay.join(client)


async def _target(call: Call, cluster: RayCluster) -> Target:
    """The dashboard of a head that answers.

    Raises:
        Conflict: the cluster is stopped.
        Unavailable: its head is not ready.
    """
    if cluster.stopped:
        raise Conflict(
            f"Ray cluster {cluster.name} is stopped",
            hint=f"Start it: `leptonai raycluster start {cluster.name}`.",
        )
    head = head_of(await _replicas(call, cluster))
    address = await _address(call, head)
    if head is None or not head.ready or not address:
        raise Unavailable(
            f"the head of Ray cluster {cluster.name} is not ready"
            + (f": {cluster.message}" if cluster.message else ""),
            hint=f"`leptonai raycluster get {cluster.name}` says how far it is.",
        )
    token = call.world.ray_token(cluster.workspace, cluster.id)
    name = f"the dashboard of Ray cluster {cluster.name}"
    return Target(host=address, port=head.ports[0], token=token, name=name)


async def _address(call: Call, replica: Replica | None) -> str:
    if replica is None or not replica.node:
        return ""
    found = await call.world.store.find(Node, Query(ids=(replica.node,)))
    return found[0].address if found else ""


async def _view(call: Call, cluster: RayCluster) -> LeptonRayCluster:
    head = head_of(await _replicas(call, cluster))
    return raycluster_view(
        cluster,
        call.world.config,
        head=head,
        address=await _address(call, head),
        waits=call.world.advice.short(cluster),
    )


async def _cluster(call: Call) -> RayCluster:
    return await find_raycluster(call.world, call.principal, call.workspace, call.path["name"])


async def _replicas(call: Call, cluster: RayCluster) -> list[Replica]:
    parent = f"{OwnerKind.RAYCLUSTER}/{cluster.id}"
    return await call.world.store.find(Replica, Query(workspace=call.workspace, parent=parent))


ROUTES = (
    Route(
        method="GET",
        path="/rayclusters",
        handler=list_,
        summary="List Ray clusters",
        answer=list[LeptonRayCluster],
    ),
    Route(
        method="POST",
        path="/rayclusters",
        handler=create,
        summary="Create a Ray cluster",
        body=LeptonRayCluster,
        answer=LeptonRayCluster,
    ),
    Route(
        method="GET",
        path="/rayclusters/{name}",
        handler=get,
        summary="One Ray cluster",
        answer=LeptonRayCluster,
    ),
    Route(
        method="PATCH",
        path="/rayclusters/{name}",
        handler=patch,
        summary="Stop or start a Ray cluster, or change how many workers its groups have",
        body=LeptonRayCluster,
        patch=True,
        answer=LeptonRayCluster,
    ),
    Route(
        method="DELETE",
        path="/rayclusters/{name}",
        handler=delete,
        summary="Stop and forget a Ray cluster; its name is free at once",
        answer=LeptonRayCluster,
    ),
    Route(
        method="GET",
        path="/rayclusters/{name}/replicas",
        handler=list_replicas,
        summary="The nodes of a Ray cluster, the head first",
        answer=list[wire.Replica],
    ),
    Route(
        method="GET",
        path="/rayclusters/{name}/replicas/{replica}/log",
        handler=replica_log,
        query=(FOLLOW, TAIL),
        summary="What Ray says on a node from its start on, as it comes, until it has ended",
        media=TEXT,
    ),
    Route(
        method="GET",
        path="/rayclusters/{name}/events",
        handler=list_events,
        summary="What happened to a Ray cluster",
        answer=list[wire.LeptonEvent],
    ),
    Route(
        method="GET",
        path="/rayclusters/{name}/why",
        handler=why,
        summary="Why a Ray cluster is where it is",
        answer=Explanation,
    ),
    *(
        Route(
            method=method,
            path="/rayclusters/{name}/dashboard/{path:path}",
            handler=dashboard,
            summary="Ask the dashboard of a Ray cluster's head: Ray's own API of jobs",
            media=BYTES,
            raw_body=method in WITH_BODY,
        )
        for method in METHODS
    ),
)
