"""What is common to the small things that users address by name: key spaces, queues, objects."""

import secrets
from typing import TypeVar

from leptonai.control.actions.committing import insisting, name_taken, put
from leptonai.control.actions.finding import known_to, with_key
from leptonai.control.world import World
from leptonai.core.access import Action, Kind, Principal, Resource
from leptonai.core.records import KeySpace, MessageQueue, Named
from leptonai.ports.store import Delete, Query
from leptonai.security.permissions import may_read, require
from leptonai.spec.names import check_name

N = TypeVar("N", KeySpace, MessageQueue)

WORDS: dict[type[Named], tuple[Kind, str]] = {
    KeySpace: ("keyspace", "key space"),
    MessageQueue: ("queue", "queue"),
}


async def create_named(
    world: World, principal: Principal, workspace: str, kind: type[N], name: str
) -> N:
    resource, word = WORDS[kind]
    require(principal, Action.CREATE, Resource(kind=resource, workspace=workspace))
    check_name(name, word)
    now_ms = world.clock.now_ms()
    fresh = kind(
        workspace=workspace,
        id=secrets.token_hex(8),
        name=name,
        created_at_ms=now_ms,
        modified_at_ms=now_ms,
        owner=principal.name,
    )
    with name_taken(f"there is a {word} {name} already", hint="Use it, or choose another name."):
        return await put(world, fresh)


async def list_named(world: World, principal: Principal, workspace: str, kind: type[N]) -> list[N]:
    found = await world.store.find(kind, Query(workspace=workspace))
    return sorted(
        (each for each in found if may_read(principal, each)),
        key=lambda each: each.name,
    )


async def find_named(
    world: World, principal: Principal, workspace: str, kind: type[N], name: str, action: Action
) -> N:
    """
    Raises:
        NotFound: there is none of this name, or this principal may not know of it.
        Forbidden: the principal may not do that.
    """
    found = known_to(
        principal,
        await with_key(world, workspace, kind, name),
        f"there is no {WORDS[kind][1]} {name[:100]!r}",
        hint="Create it first.",
    )
    require(principal, action, found)
    return found


async def delete_named(
    world: World, principal: Principal, workspace: str, kind: type[N], name: str
) -> N:
    """Its record; who calls this forgets what it held."""

    async def change() -> N:
        found = await find_named(world, principal, workspace, kind, name, Action.DELETE)
        await world.commit(Delete(found))
        return found

    return await insisting(change)
