"""Ray clusters: made, resized, stopped, started, deleted."""

from typing import Any

from msgspec.structs import replace

from leptonai.control.actions.committing import (
    insisting,
    name_taken,
    put,
    put_new,
    remove,
    told,
    with_metadata,
)
from leptonai.control.actions.finding import known_to, with_key
from leptonai.control.ray_requests import checked_raycluster, patched_spec
from leptonai.control.requests import name_and_labels
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.lifecycle import raycluster as lifecycle
from leptonai.core.records import RayCluster, event_of
from leptonai.security.permissions import require
from leptonai.spec.rayclusters import LeptonRayCluster


async def create_raycluster(
    world: World, principal: Principal, workspace: str, asked: LeptonRayCluster
) -> RayCluster:
    """Accept a cluster: it and its waiting head are on disk when this returns."""
    require(principal, Action.CREATE, Resource(kind="raycluster", workspace=workspace))
    name, labels = name_and_labels(asked.metadata, "Ray cluster")
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
    event = event_of(cluster, "Created", f"created by {principal.name}")
    with name_taken(
        f"there is a Ray cluster {name!r} already",
        hint="Resize or remove it, or choose another name.",
    ):
        return await put_new(world, step, event)


async def patch_raycluster(
    world: World, principal: Principal, workspace: str, name: str, patch: dict[str, Any]
) -> RayCluster:
    """Stop it, start it, change how many workers it has, or its labels and visibility."""

    async def change() -> RayCluster:
        before = await find_raycluster(world, principal, workspace, name)
        require(principal, Action.UPDATE, before)
        changed = with_metadata(before, patch)
        spec = patched_spec(before.spec, patch.get("spec") or {})
        if spec.groups != before.spec.groups:
            spec = await checked_raycluster(world, principal, workspace, spec)
        now_ms = world.clock.now_ms()
        if spec != before.spec:
            changed = lifecycle.resized(changed, spec, now_ms)
        if changed == before:
            return before
        event = event_of(before, "Updated", f"updated by {principal.name}")
        return await put(world, replace(changed, modified_at_ms=now_ms), *told(now_ms, event))

    return await insisting(change)


async def delete_raycluster(
    world: World, principal: Principal, workspace: str, name: str
) -> RayCluster:
    """Forget it at once, which frees its name; whatever still runs of it is stopped."""

    async def change() -> RayCluster:
        cluster = await find_raycluster(world, principal, workspace, name)
        require(principal, Action.DELETE, cluster)
        await remove(world, cluster, f"deleted by {principal.name}")
        return cluster

    return await insisting(change)


async def find_raycluster(
    world: World, principal: Principal, workspace: str, name: str
) -> RayCluster:
    return known_to(
        principal,
        await with_key(world, workspace, RayCluster, name),
        f"there is no Ray cluster {name[:100]!r}",
        hint="`leptonai raycluster list` shows the Ray clusters.",
    )
