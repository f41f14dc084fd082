"""What an admin chooses for a whole workspace."""

from typing import Any

import msgspec
from msgspec.structs import replace

from leptonai.control.actions.committing import insisting, put_first
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import SETTINGS_ID, Settings
from leptonai.security.permissions import require
from leptonai.spec import codec
from leptonai.spec.workspace import Features


async def features_of(world: World, workspace: str) -> Features:
    settings = await world.store.get(Settings, workspace, SETTINGS_ID)
    return settings.features if settings else Features()


async def patch_features(
    world: World, principal: Principal, workspace: str, patch: dict[str, Any]
) -> Features:
    require(principal, Action.UPDATE, Resource(kind="workspace", workspace=workspace))

    async def change() -> Features:
        now_ms = world.clock.now_ms()
        before = await world.store.get(Settings, workspace, SETTINGS_ID) or Settings(
            workspace=workspace,
            id=SETTINGS_ID,
            name=SETTINGS_ID,
            created_at_ms=now_ms,
            owner=principal.name,
        )
        merged = codec.merge_patch(msgspec.to_builtins(before.features), patch)
        after = replace(before, features=codec.convert(Features, merged), modified_at_ms=now_ms)
        return (await put_first(world, after)).features

    return await insisting(change)
