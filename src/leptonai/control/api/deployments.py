"""Endpoints, which the wire calls deployments."""

from collections.abc import Sequence
from secrets import token_urlsafe

from msgspec.structs import replace

from leptonai.control.actions.endpoints import (
    create_endpoint,
    delete_endpoint,
    find_endpoint,
    foresee_endpoint,
    patch_endpoint,
    restart_endpoint,
)
from leptonai.control.actions.pods import login_to_pod
from leptonai.control.actions.settings import features_of
from leptonai.control.api.logs import FOLLOW, TAIL, live_log
from leptonai.control.api.routing import DRY_RUN, TEXT, Answer, Call, Parameter, Route
from leptonai.control.api.views import (
    dry_run_of,
    endpoint_view,
    event_view,
    readiness_of,
    replica_view,
    terminations_of,
)
from leptonai.core import counts
from leptonai.core.records import Endpoint, Node, OwnerKind, Phase, Replica
from leptonai.errors import NotFound
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read, may_see
from leptonai.spec import replicas as wire
from leptonai.spec.endpoints import (
    ApiToken,
    LeptonDeployment,
    ReadinessReason,
    RequestHistory,
    TerminationReason,
)
from leptonai.spec.explanations import Explanation
from leptonai.spec.pods import PodLogin

TOKEN_BYTES = 24

HISTORY_STEP_S = 300  # of what is shown of an endpoint's requests


async def create(call: Call) -> LeptonDeployment:
    asked: LeptonDeployment = await call.json()
    if call.flag("dry_run"):
        endpoint, explanation = await foresee_endpoint(
            call.world, call.principal, call.workspace, asked
        )
        return dry_run_of(await view_of(call, endpoint), explanation)
    return await created(call, asked)


async def created(call: Call, asked: LeptonDeployment) -> LeptonDeployment:
    """A new endpoint. Where the workspace is secure by default, one that says nothing of who is
    let in gets a token of its own, which is shown in this answer only."""
    token = ""
    spec = asked.spec
    silent = spec.api_tokens is None and not spec.allow_unauthenticated_access and not spec.is_pod
    if silent and (await features_of(call.world, call.workspace)).enable_secure_endpoint_defaults:
        token = token_urlsafe(TOKEN_BYTES)
        asked = replace(asked, spec=replace(spec, api_tokens=[ApiToken(value=token)]))
    made = await create_endpoint(call.world, call.principal, call.workspace, asked)
    view = await view_of(call, made)
    if not token:
        return view
    return replace(view, spec=replace(view.spec, api_tokens=[ApiToken(value=token)]))


async def list_deployments(call: Call) -> list[LeptonDeployment]:
    found = await call.world.store.find(Endpoint, Query(workspace=call.workspace))
    return await views_of(call, [each for each in found if may_read(call.principal, each)])


async def get(call: Call) -> LeptonDeployment:
    return await view_of(call, await _endpoint(call))


async def patch(call: Call) -> LeptonDeployment:
    return await view_of(
        call,
        await patch_endpoint(
            call.world,
            call.principal,
            call.workspace,
            call.path["name"],
            await call.json(),
            dry_run=call.flag("dryrun"),
        ),
    )


async def delete(call: Call) -> LeptonDeployment:
    return await view_of(
        call,
        await delete_endpoint(
            call.world,
            call.principal,
            call.workspace,
            call.path["name"],
            keep_files=call.flag("keep_files"),
        ),
    )


async def restart(call: Call) -> LeptonDeployment:
    return await view_of(
        call,
        await restart_endpoint(call.world, call.principal, call.workspace, call.path["name"]),
    )


async def list_replicas(call: Call) -> list[wire.Replica]:
    living = await _living(call)
    if not any(replica.program.pod for replica in living):
        return [replica_view(replica) for replica in living]
    addresses = await _addresses(call)
    return [replica_view(replica, addresses.get(replica.node)) for replica in living]


async def login(call: Call) -> PodLogin:
    return await login_to_pod(call.world, call.principal, call.workspace, call.path["name"])


async def replica_log(call: Call) -> Answer:
    endpoint = await _endpoint(call)
    replica = await call.world.store.get(Replica, call.workspace, call.path["replica"])
    if replica is None or replica.parent != f"{OwnerKind.ENDPOINT}/{endpoint.id}":
        raise NotFound(
            f"endpoint {endpoint.name} has no replica {call.path['replica'][:100]!r}",
            hint=f"`leptonai endpoint get {endpoint.name}` shows its replicas.",
        )
    return live_log(call, replica)


async def readiness(call: Call) -> dict[str, list[ReadinessReason]]:
    return {replica.id: readiness_of(replica) for replica in await _living(call)}


async def termination(call: Call) -> dict[str, list[TerminationReason]]:
    endpoint = await _endpoint(call)
    return {
        replica.id: terminations_of(replica)
        for replica in await _replicas(call, endpoint)
        if replica.terminations
    }


async def list_events(call: Call) -> list[wire.LeptonEvent]:
    endpoint = await _endpoint(call)
    events = await call.world.store.events(call.workspace, kind=OwnerKind.ENDPOINT, id=endpoint.id)
    return [event_view(event) for event in events]


async def request_history(call: Call) -> RequestHistory:
    endpoint = await _endpoint(call)
    first_day = counts.first_kept_day(call.world.clock.now_ms())
    days = await call.world.store.counts.read(call.workspace, endpoint.id, first_day)
    begins_s, numbers = counts.history(days)
    rates = counts.rates(numbers, HISTORY_STEP_S)
    return RequestHistory(
        begins_at=int(begins_s),
        step_seconds=HISTORY_STEP_S,
        requests_per_second=[None if rate is None else round(rate, 4) for rate in rates],
    )


async def why(call: Call) -> Explanation:
    endpoint = await _endpoint(call)
    return await call.world.advice.explain(endpoint, may_see(call.principal))


async def view_of(call: Call, endpoint: Endpoint) -> LeptonDeployment:
    (view,) = await views_of(call, [endpoint])
    return view


async def views_of(call: Call, endpoints: Sequence[Endpoint]) -> list[LeptonDeployment]:
    """With the reason why a replica waits, in a few words."""
    addresses = await _addresses(call) if any(each.pod.ports for each in endpoints) else {}
    views = []
    for endpoint in endpoints:
        view = endpoint_view(endpoint, call.world.config, addresses)
        if view.status is not None and not view.status.message:
            waits = call.world.advice.short(endpoint)
            view = replace(view, status=replace(view.status, message=waits or None))
        views.append(view)
    return views


async def _addresses(call: Call) -> dict[str, str]:
    """Where each node is reached."""
    return {node.id: node.address for node in await call.world.store.find(Node, Query())}


async def _endpoint(call: Call) -> Endpoint:
    return await find_endpoint(call.world, call.principal, call.workspace, call.path["name"])


async def _living(call: Call) -> list[Replica]:
    """Its replicas that are not over, the newest revision last."""
    found = await _replicas(call, await _endpoint(call))
    living = [replica for replica in found if replica.phase is not Phase.DONE]
    return sorted(living, key=lambda r: (r.revision, r.index, r.id))


async def _replicas(call: Call, endpoint: Endpoint) -> list[Replica]:
    parent = f"{OwnerKind.ENDPOINT}/{endpoint.id}"
    return await call.world.store.find(Replica, Query(workspace=call.workspace, parent=parent))


ROUTES = (
    Route(
        method="GET",
        path="/deployments",
        handler=list_deployments,
        summary="List endpoints",
        answer=list[LeptonDeployment],
    ),
    Route(
        method="POST",
        path="/deployments",
        handler=create,
        summary="Create an endpoint",
        body=LeptonDeployment,
        answer=LeptonDeployment,
        query=(DRY_RUN,),
    ),
    Route(
        method="GET",
        path="/deployments/{name}",
        handler=get,
        summary="One endpoint",
        answer=LeptonDeployment,
    ),
    Route(
        method="PATCH",
        path="/deployments/{name}",
        handler=patch,
        summary="Change an endpoint by a JSON merge patch",
        body=LeptonDeployment,
        patch=True,
        answer=LeptonDeployment,
        query=(Parameter("dryrun", bool, "Only say what would become of it."),),
    ),
    Route(
        method="DELETE",
        path="/deployments/{name}",
        handler=delete,
        summary="Stop and forget an endpoint; its name is free at once",
        answer=LeptonDeployment,
        query=(Parameter("keep_files", bool, "Of a pod: leave them on their node."),),
    ),
    Route(
        method="PUT",
        path="/deployments/{name}/restart",
        handler=restart,
        summary="Replace every replica, one by one",
        answer=LeptonDeployment,
    ),
    Route(
        method="GET",
        path="/deployments/{name}/replicas",
        handler=list_replicas,
        summary="The replicas of an endpoint",
        answer=list[wire.Replica],
    ),
    Route(
        method="GET",
        path="/deployments/{name}/replicas/{replica}/log",
        handler=replica_log,
        query=(FOLLOW, TAIL),
        summary="A replica's output from its start on, as it comes, until the replica has ended",
        media=TEXT,
    ),
    Route(
        method="GET",
        path="/deployments/{name}/readiness",
        handler=readiness,
        summary="Which replicas are ready, and why the others are not",
        answer=dict[str, list[ReadinessReason]],
    ),
    Route(
        method="GET",
        path="/deployments/{name}/termination",
        handler=termination,
        summary="How earlier attempts of each replica ended",
        answer=dict[str, list[TerminationReason]],
    ),
    Route(
        method="GET",
        path="/deployments/{name}/events",
        handler=list_events,
        summary="What happened to an endpoint",
        answer=list[wire.LeptonEvent],
    ),
    Route(
        method="POST",
        path="/deployments/{name}/login",
        handler=login,
        summary="A link that lets a browser into a pod's JupyterLab, once",
        answer=PodLogin,
    ),
    Route(
        method="GET",
        path="/deployments/{name}/requests",
        handler=request_history,
        summary="How many requests an endpoint that is scaled by a target got in the last days",
        answer=RequestHistory,
    ),
    Route(
        method="GET",
        path="/deployments/{name}/why",
        handler=why,
        summary="Why an endpoint is where it is",
        answer=Explanation,
    ),
)
