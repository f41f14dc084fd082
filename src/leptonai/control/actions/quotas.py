"""Quotas: set in place of what there was, and removed."""

import secrets

from msgspec.structs import replace

from leptonai.control.actions.committing import insisting, put_first
from leptonai.control.actions.finding import with_key
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import Quota
from leptonai.core.resources import MILLIS
from leptonai.errors import NotFound
from leptonai.ports.store import Delete
from leptonai.security.permissions import require
from leptonai.spec.names import check_label
from leptonai.spec.quotas import QuotaSpec


async def set_quota(
    world: World,
    principal: Principal,
    workspace: str,
    name: str,
    spec: QuotaSpec,
    *,
    of_project: bool,
) -> Quota:
    require(principal, Action.UPDATE, Resource(kind="quota", workspace=workspace))
    check_label("project" if of_project else "user", name)

    async def change() -> Quota:
        now_ms = world.clock.now_ms()
        fresh = Quota(
            workspace=workspace,
            id=secrets.token_hex(8),
            name=name,
            created_at_ms=now_ms,
            owner=principal.name,
            of_project=of_project,
        )
        before = await with_key(world, workspace, Quota, fresh.unique_key) or fresh
        after = replace(
            before,
            modified_at_ms=now_ms,
            gpus=spec.gpus,
            cpu_millis=None if spec.cpu is None else round(spec.cpu * MILLIS),
            borrow=spec.borrow,
            weight=spec.weight,
        )
        return await put_first(world, after)

    return await insisting(change)


async def delete_quota(
    world: World, principal: Principal, workspace: str, name: str, *, of_project: bool
) -> None:
    require(principal, Action.DELETE, Resource(kind="quota", workspace=workspace))

    async def change() -> None:
        meant = Quota(workspace=workspace, id="", name=name, created_at_ms=0, of_project=of_project)
        found = await with_key(world, workspace, Quota, meant.unique_key)
        if found is None:
            whose = "project" if of_project else "user"
            raise NotFound(
                f"{whose} {name[:100]!r} has no quota", hint="`leptonai quota list` shows them."
            )
        await world.commit(Delete(found))

    await insisting(change)
