"""Quotas: what users and projects are guaranteed; set by admins, seen by all."""

from leptonai.control.actions import quotas as actions
from leptonai.control.api.routing import DONE, Answer, Call, Route
from leptonai.core.access import Action, Resource
from leptonai.core.records import Quota, Replica
from leptonai.core.resources import MILLIS
from leptonai.errors import NotFound
from leptonai.ports.store import Query
from leptonai.security.permissions import require
from leptonai.spec import quotas as wire

KINDS = {"users": False, "projects": True}  # in the path; and whether it is of a project


async def list_quotas(call: Call) -> list[wire.Quota]:
    require(call.principal, Action.READ, Resource(kind="quota", workspace=call.workspace))
    quotas = await call.world.store.find(Quota, Query(workspace=call.workspace))
    replicas = await call.world.store.find(Replica, Query(workspace=call.workspace, live=True))
    holding = [replica for replica in replicas if replica.holds_capacity]
    return [_view(quota, holding) for quota in sorted(quotas, key=lambda q: (q.of_project, q.name))]


async def put(call: Call) -> wire.Quota:
    spec: wire.QuotaSpec = await call.json()
    of_project, name = _whose(call)
    quota = await actions.set_quota(
        call.world, call.principal, call.workspace, name, spec, of_project=of_project
    )
    replicas = await call.world.store.find(Replica, Query(workspace=call.workspace, live=True))
    return _view(quota, [replica for replica in replicas if replica.holds_capacity])


async def delete(call: Call) -> Answer:
    of_project, name = _whose(call)
    await actions.delete_quota(
        call.world, call.principal, call.workspace, name, of_project=of_project
    )
    return DONE


def _whose(call: Call) -> tuple[bool, str]:
    kind = call.path["kind"]
    if kind not in KINDS:
        raise NotFound(
            f"there are no quotas of {kind[:60]!r}", hint="They are of users and of projects."
        )
    return KINDS[kind], call.path["name"]


def _view(quota: Quota, holding: list[Replica]) -> wire.Quota:
    needs = [
        replica.program.needs
        for replica in holding
        if (replica.project if quota.of_project else replica.owner) == quota.name
    ]
    return wire.Quota(
        kind="project" if quota.of_project else "user",
        name=quota.name,
        spec=wire.QuotaSpec(
            gpus=quota.gpus,
            cpu=None if quota.cpu_millis is None else quota.cpu_millis / MILLIS,
            borrow=quota.borrow,
            weight=quota.weight,
        ),
        used=wire.QuotaUse(
            gpus=sum(each.gpus * each.gpu_millis for each in needs) / MILLIS,
            cpu=sum(each.cpu_millis for each in needs) / MILLIS,
        ),
    )


ROUTES = (
    Route(
        method="GET",
        path="/quotas",
        handler=list_quotas,
        summary="List quotas, and how much of each is used",
        answer=list[wire.Quota],
    ),
    Route(
        method="PUT",
        path="/quotas/{kind}/{name}",
        handler=put,
        summary="Set the quota of a user (kind `users`) or of a project (`projects`)",
        body=wire.QuotaSpec,
        answer=wire.Quota,
    ),
    Route(
        method="DELETE",
        path="/quotas/{kind}/{name}",
        handler=delete,
        summary="Remove a quota: as much as there is room for",
    ),
)
