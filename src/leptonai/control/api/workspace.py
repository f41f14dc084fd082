"""The workspace itself: what a client asks at login."""

import msgspec

from leptonai.control.actions.photons import count_photons
from leptonai.control.actions.settings import features_of, patch_features
from leptonai.control.api.routing import Call, Route
from leptonai.control.api.views import amounts_of
from leptonai.core.access import Action, Resource
from leptonai.core.records import (
    Endpoint,
    Job,
    KeySpace,
    MessageQueue,
    Node,
    Replica,
    Secret,
)
from leptonai.core.resources import MIB, MILLIS
from leptonai.core.shapes import shapes
from leptonai.errors import InvalidRequest
from leptonai.ports.store import Query
from leptonai.security.permissions import require
from leptonai.spec.jobs import JobState
from leptonai.spec.workspace import (
    QuotaAmount,
    ResourceQuota,
    ServiceAmount,
    ServiceQuota,
    Workloads,
    WorkspaceInfo,
    WorkspacePatch,
)

TIER = "basic"


class Welcome(msgspec.Struct, frozen=True):
    id: str
    display_name: str


async def welcome(call: Call) -> Welcome:
    _require_read(call)
    return Welcome(id=call.workspace, display_name=call.workspace)


async def info(call: Call) -> WorkspaceInfo:
    _require_read(call)
    world, store = call.world, call.world.store
    here = Query(workspace=call.workspace)
    nodes = await store.find(Node, Query())
    replicas = await store.find(Replica, Query(workspace=call.workspace, live=True))
    endpoints = await store.find(Endpoint, here)
    jobs = Query(workspace=call.workspace, not_states=(JobState.ARCHIVED,))
    used = amounts_of(replica for replica in replicas if replica.holds_capacity)
    return WorkspaceInfo(
        build_time=world.config.build_time,
        git_commit=world.config.version,
        workspace_name=call.workspace,
        workspace_tier=TIER,
        workspace_state="normal",
        workspace_disk_usage_bytes=0,
        workloads=Workloads(
            num_deployments=sum(not each.spec.is_pod for each in endpoints),
            num_pods=sum(bool(each.spec.is_pod) for each in endpoints),
            num_jobs=await store.count(Job, jobs),
            num_secrets=await store.count(Secret, here),
            num_photons=await count_photons(world, call.workspace),
        ),
        service_quota=ServiceQuota(
            used=ServiceAmount(
                kv_store_num=await store.count(KeySpace, here),
                queue_num=await store.count(MessageQueue, here),
            )
        ),
        resource_quota=ResourceQuota(
            limit=QuotaAmount(
                cpu=sum(node.capacity.cpu_millis for node in nodes) / MILLIS,
                memory=sum(node.capacity.memory_bytes for node in nodes) // MIB,
                accelerator_num=float(sum(node.capacity.gpus for node in nodes)),
            ),
            used=QuotaAmount(
                cpu=used["cpu"], memory=int(used["memory"]), accelerator_num=used["gpus"]
            ),
        ),
        supported_shapes={shape.name: shape for shape in shapes(nodes)},
        features=await features_of(world, call.workspace),
    )


async def patch(call: Call) -> WorkspaceInfo:
    asked = await call.json()
    features = asked.get("features") or {}
    if not isinstance(features, dict):
        raise InvalidRequest("features: expected object", hint='Send {"features": {…: true}}.')
    await patch_features(call.world, call.principal, call.workspace, features)
    return await info(call)


def _require_read(call: Call) -> None:
    require(call.principal, Action.READ, Resource(kind="workspace", workspace=call.workspace))


ROUTES = (
    Route(
        method="GET",
        path="",
        handler=welcome,
        summary="The workspace's name",
        answer=Welcome,
    ),
    Route(
        method="GET",
        path="/workspace",
        handler=info,
        summary="The workspace: what it has, and what of it is used",
        answer=WorkspaceInfo,
    ),
    Route(
        method="PATCH",
        path="/workspace",
        handler=patch,
        summary="Turn features of the workspace on and off",
        body=WorkspacePatch,
        patch=True,
        answer=WorkspaceInfo,
    ),
)
