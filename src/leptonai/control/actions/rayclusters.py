"""Ray clusters: made, resized, stopped, started, deleted."""

from typing import Any

from msgspec.structs import replace

from leptonai.control.actions.committing import (
    event_of,
    insisting,
    patched_metadata,
    remove,
    told,
)
from leptonai.control.ray_requests import checked_raycluster, patched_spec
from leptonai.control.requests import check_labels
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.lifecycle import raycluster as lifecycle
from leptonai.core.records import OwnerKind, RayCluster
from leptonai.errors import AlreadyExists, NotFound
from leptonai.ports.store import Put, Query
from leptonai.security.permissions import may_read, require, resource_of
from leptonai.spec.names import check_name
from leptonai.spec.rayclusters import LeptonRayCluster


async def create_raycluster(
    world: World, principal: Principal, workspace: str, asked: LeptonRayCluster
) -> RayCluster:
    """Accept a cluster: it and its waiting head are on disk when this returns."""
    require(principal, Action.CREATE, Resource(kind="raycluster", workspace=workspace))
    name = asked.metadata.name or asked.metadata.id or ""
    check_name(name, "Ray cluster")
    labels = asked.metadata.labels or {}
    check_labels(labels)
    spec = await checked_raycluster(world, principal, workspace, asked.spec)
    now_ms = world.clock.now_ms()
    cluster = lifecycle.new_raycluster(
        workspace=workspace,
        name=name,
        spec=spec,
        owner=principal.name,
        labels=labels,
        visibility=asked.metadata.visibility or "",
        now_ms=now_ms,
    )
    step = lifecycle.advance(cluster, (), now_ms)
    event = event_of(cluster, OwnerKind.RAYCLUSTER, "Created", f"created by {principal.name}")
    try:
        written = await world.commit(
            Put(step.owner),
            *(Put(replica) for replica in step.replicas),
            *told((event, *step.events), now_ms),
        )
    except AlreadyExists as error:
        raise AlreadyExists(
            f"there is a Ray cluster {name!r} already",
            hint="Resize or remove it, or choose another name.",
            existing_id=error.existing_id,
        ) from None
    assert isinstance(written[0], RayCluster)
    return written[0]


async def patch_raycluster(
    world: World, principal: Principal, workspace: str, name: str, patch: dict[str, Any]
) -> RayCluster:
    """Stop it, start it, change how many workers it has, or its labels and visibility."""

    async def change() -> RayCluster:
        before = await find_raycluster(world, principal, workspace, name)
        require(principal, Action.UPDATE, resource_of("raycluster", before))
        metadata = patched_metadata(before, patch)
        spec = patched_spec(before.spec, patch.get("spec") or {})
        if spec.groups != before.spec.groups:
            spec = await checked_raycluster(world, principal, workspace, spec)
        now_ms = world.clock.now_ms()
        changed = before
        if spec != before.spec:
            changed = lifecycle.resized(before, spec, now_ms)
        changed = replace(
            changed, labels=metadata.labels or {}, visibility=metadata.visibility or ""
        )
        if changed == before:
            return before
        event = event_of(before, OwnerKind.RAYCLUSTER, "Updated", f"updated by {principal.name}")
        written = await world.commit(
            Put(replace(changed, modified_at_ms=now_ms)), *told((event,), now_ms)
        )
        assert isinstance(written[0], RayCluster)
        return written[0]

    return await insisting(change)


async def delete_raycluster(
    world: World, principal: Principal, workspace: str, name: str
) -> RayCluster:
    """Forget it at once, which frees its name; whatever still runs of it is stopped."""

    async def change() -> RayCluster:
        cluster = await find_raycluster(world, principal, workspace, name)
        require(principal, Action.DELETE, resource_of("raycluster", cluster))
        await remove(world, cluster, OwnerKind.RAYCLUSTER, f"deleted by {principal.name}")
        return cluster

    return await insisting(change)


async def find_raycluster(
    world: World, principal: Principal, workspace: str, name: str
) -> RayCluster:
    query = Query(workspace=workspace, unique_key=name, limit=1)
    found = await world.store.find(RayCluster, query)
    if not found or not may_read(principal, "raycluster", found[0]):
        raise NotFound(
            f"there is no Ray cluster {name[:100]!r}",
            hint="`leptonai raycluster list` shows the Ray clusters.",
        )
    return found[0]
