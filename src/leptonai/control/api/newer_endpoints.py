"""The newer wire of endpoints and pods: the same resources, translated here and nowhere else."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from leptonai.control.actions.endpoints import (
    delete_endpoint,
    find_endpoint,
    patch_endpoint,
    restart_endpoint,
)
from leptonai.control.actions.settings import features_of
from leptonai.control.api import deployments
from leptonai.control.api.logs import FOLLOW
from leptonai.control.api.routing import TEXT, Call, Parameter, Route
from leptonai.core.records import Endpoint
from leptonai.errors import NotFound
from leptonai.spec import codec
from leptonai.spec import replicas as wire
from leptonai.spec.endpoints import LeptonDeployment
from leptonai.spec.newer_wire import (
    Json,
    deployment_of_devpod,
    deployment_of_endpoint,
    devpod_of,
    endpoint_of,
)


@dataclass(frozen=True, slots=True)
class Wire:
    """One of the two resources of the newer wire."""

    path: str
    pods: bool
    shown: Callable[[Json], Json]
    read: Callable[[Json], Json]


ENDPOINTS = Wire("/endpoints", False, endpoint_of, deployment_of_endpoint)
DEVPODS = Wire("/devpods", True, devpod_of, deployment_of_devpod)

Handler = Callable[[Call], Awaitable[Any]]


def _list(wire_: Wire) -> Handler:
    async def handle(call: Call) -> list[Json]:
        await _require_feature(call)
        found = await deployments.list_deployments(call)
        return [_shown(wire_, each) for each in found if bool(each.spec.is_pod) is wire_.pods]

    return handle


def _create(wire_: Wire) -> Handler:
    async def handle(call: Call) -> Json:
        await _require_feature(call)
        asked = codec.convert(LeptonDeployment, _known(call, wire_.read(await call.json())))
        made = await deployments.created(call, asked)
        return _shown(wire_, made)

    return handle


def _get(wire_: Wire) -> Handler:
    async def handle(call: Call) -> Json:
        return _shown(wire_, await deployments.view_of(call, await _endpoint(call, wire_)))

    return handle


def _patch(wire_: Wire) -> Handler:
    async def handle(call: Call) -> Json:
        endpoint = await _endpoint(call, wire_)
        patch = await call.json()
        before = _shown(wire_, await deployments.view_of(call, endpoint))
        after = _known(call, wire_.read(codec.merge_patch(before, patch)))
        changes = codec.difference(wire_.read(before), after)
        changed = await patch_endpoint(
            call.world,
            call.principal,
            call.workspace,
            endpoint.name,
            {key: changes[key] for key in ("metadata", "spec") if key in changes},
            dry_run=call.flag("dryrun"),
        )
        return _shown(wire_, await deployments.view_of(call, changed))

    return handle


def _acting(wire_: Wire, act: Callable[..., Awaitable[Endpoint]]) -> Handler:
    async def handle(call: Call) -> Json:
        endpoint = await _endpoint(call, wire_)
        changed = await act(call.world, call.principal, call.workspace, endpoint.name)
        return _shown(wire_, await deployments.view_of(call, changed))

    return handle


def _same(wire_: Wire, handler: Handler) -> Handler:
    """What the older wire answers already."""

    async def handle(call: Call) -> Any:
        await _endpoint(call, wire_)
        return await handler(call)

    return handle


async def _endpoint(call: Call, wire_: Wire) -> Endpoint:
    await _require_feature(call)
    found = await find_endpoint(call.world, call.principal, call.workspace, call.path["name"])
    if bool(found.spec.is_pod) is not wire_.pods:
        raise NotFound(
            f"there is no {'pod' if wire_.pods else 'endpoint'} {found.name!r}",
            hint=f"It is {'an endpoint' if wire_.pods else 'a pod'}.",
        )
    return found


async def _require_feature(call: Call) -> None:
    if not (await features_of(call.world, call.workspace)).enable_new_deployment_api:
        raise NotFound(
            "this workspace does not speak the newer wire of endpoints and pods",
            hint="An admin turns it on: `leptonai workspace set --feature new-deployment-api`; "
            "GET …/deployments lists both anyway.",
        )


def _shown(wire_: Wire, deployment: LeptonDeployment) -> Json:
    return wire_.shown(msgspec.to_builtins(deployment))


def _known(call: Call, deployment: Json) -> Json:
    if call.strict:
        codec.refuse_unknown_fields(LeptonDeployment, deployment)
        return deployment
    known, ignored = codec.known_part(LeptonDeployment, deployment)
    call.ignored.extend(ignored)
    assert isinstance(known, dict)
    return known


def _routes(wire_: Wire, what: str) -> tuple[Route, ...]:
    one = wire_.path + "/{name}"
    body = dict[str, Any]
    return (
        Route(
            method="GET",
            path=wire_.path,
            handler=_list(wire_),
            summary=f"List {what}s, on the newer wire",
            answer=list[body],
        ),
        Route(
            method="POST",
            path=wire_.path,
            handler=_create(wire_),
            summary=f"Create a {what}, on the newer wire",
            body=body,
            answer=body,
        ),
        Route(
            method="GET",
            path=one,
            handler=_get(wire_),
            summary=f"One {what}, on the newer wire",
            answer=body,
        ),
        Route(
            method="PATCH",
            path=one,
            handler=_patch(wire_),
            summary=f"Change a {what} by a JSON merge patch, on the newer wire",
            body=body,
            patch=True,
            answer=body,
            query=(Parameter("dryrun", bool, "Only say what would become of it."),),
        ),
        Route(
            method="DELETE",
            path=one,
            handler=_acting(wire_, delete_endpoint),
            summary=f"Stop and forget a {what}, on the newer wire",
            answer=body,
        ),
        Route(
            method="PUT",
            path=one + "/restart",
            handler=_acting(wire_, restart_endpoint),
            summary=f"Restart a {what}, on the newer wire",
            answer=body,
        ),
        Route(
            method="GET",
            path=one + "/replicas",
            handler=_same(wire_, deployments.list_replicas),
            summary=f"The replicas of a {what}, on the newer wire",
            answer=list[wire.Replica],
        ),
        Route(
            method="GET",
            path=one + "/replicas/{replica}/log",
            handler=_same(wire_, deployments.replica_log),
            summary=f"A replica's output, of a {what} on the newer wire",
            query=(FOLLOW,),
            media=TEXT,
        ),
        Route(
            method="GET",
            path=one + "/events",
            handler=_same(wire_, deployments.list_events),
            summary=f"What happened to a {what}, on the newer wire",
            answer=list[wire.LeptonEvent],
        ),
    )


ROUTES = (*_routes(ENDPOINTS, "endpoint"), *_routes(DEVPODS, "pod"))
