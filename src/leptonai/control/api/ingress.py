"""Ingresses: domains whose requests endpoints share."""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from leptonai.control.actions.ingress import (
    create_ingress,
    delete_ingress,
    find_ingress,
    patch_ingress,
    share_with,
    stop_sharing_with,
)
from leptonai.control.api.routing import Call, Route
from leptonai.control.api.views import metadata_of
from leptonai.control.dns import DomainLookups
from leptonai.control.domains import owners_of_domains
from leptonai.core.ingress import status_of
from leptonai.core.records import Endpoint, Ingress
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read
from leptonai.spec.ingress import IngressEndpoint, LeptonIngress


async def list_ingresses(call: Call) -> list[LeptonIngress]:
    found = await call.world.store.find(Ingress, Query(workspace=call.workspace))
    return await _views(call, [each for each in found if may_read(call.principal, each)])


async def create(call: Call) -> LeptonIngress:
    asked: LeptonIngress = await call.json()
    return await _view(
        call, await create_ingress(call.world, call.principal, call.workspace, asked)
    )


async def get(call: Call) -> LeptonIngress:
    return await _view(
        call, await find_ingress(call.world, call.principal, call.workspace, call.path["name"])
    )


async def patch(call: Call) -> LeptonIngress:
    asked = await call.json()
    return await _view(
        call,
        await patch_ingress(call.world, call.principal, call.workspace, call.path["name"], asked),
    )


async def delete(call: Call) -> LeptonIngress:
    return await _view(
        call, await delete_ingress(call.world, call.principal, call.workspace, call.path["name"])
    )


async def add_endpoint(call: Call) -> LeptonIngress:
    share: IngressEndpoint = await call.json()
    return await _view(
        call,
        await share_with(call.world, call.principal, call.workspace, call.path["name"], share),
    )


async def remove_endpoint(call: Call) -> LeptonIngress:
    path = call.path
    return await _view(
        call,
        await stop_sharing_with(
            call.world, call.principal, call.workspace, path["name"], path["endpoint"]
        ),
    )


async def _view(call: Call, ingress: Ingress) -> LeptonIngress:
    return (await _views(call, [ingress]))[0]


async def _views(call: Call, ingresses: list[Ingress]) -> list[LeptonIngress]:
    owners = await owners_of_domains(call.world)
    found = await call.world.store.find(Endpoint, Query(workspace=call.workspace))
    known = [each.name for each in found if not each.is_pod]
    return [_told(call.world.domains, each, owners, known) for each in ingresses]


def _told(
    domains: DomainLookups,
    ingress: Ingress,
    owners: Mapping[str, Endpoint | Ingress],
    known: Iterable[str],
) -> LeptonIngress:
    domain = ingress.spec.domain_name.lower()
    owner = owners.get(domain, ingress)
    return LeptonIngress(
        metadata=replace(metadata_of(ingress), id=ingress.name),  # by which it is addressed
        spec=ingress.spec,
        status=status_of(ingress, owner, known, domains.gateway_host, domains.known(domain)),
    )


ROUTES = (
    Route(
        method="GET",
        path="/ingress",
        handler=list_ingresses,
        summary="List ingresses",
        answer=list[LeptonIngress],
    ),
    Route(
        method="POST",
        path="/ingress",
        handler=create,
        summary="Have a domain lead to endpoints",
        body=LeptonIngress,
        answer=LeptonIngress,
    ),
    Route(
        method="GET",
        path="/ingress/{name}",
        handler=get,
        summary="One ingress",
        answer=LeptonIngress,
    ),
    Route(
        method="PATCH",
        path="/ingress/{name}",
        handler=patch,
        summary="Change an ingress by a JSON merge patch",
        body=LeptonIngress,
        patch=True,
        answer=LeptonIngress,
    ),
    Route(
        method="DELETE",
        path="/ingress/{name}",
        handler=delete,
        summary="Remove an ingress; its domain leads nowhere then",
        answer=LeptonIngress,
    ),
    Route(
        method="POST",
        path="/ingress/{name}/endpoint/deployment",
        handler=add_endpoint,
        summary="Give an endpoint a share of the requests, or change the share it has",
        body=IngressEndpoint,
        answer=LeptonIngress,
    ),
    Route(
        method="DELETE",
        path="/ingress/{name}/endpoint/deployment/{endpoint}",
        handler=remove_endpoint,
        summary="Take an endpoint's share away",
        answer=LeptonIngress,
    ),
)
