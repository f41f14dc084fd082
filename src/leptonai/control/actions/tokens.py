"""Tokens of people: issued by admins, shown once, and taken back."""

from leptonai.control.actions.committing import insisting, put
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import Token
from leptonai.errors import Conflict, InvalidRequest, NotFound
from leptonai.ports.store import Delete, Query
from leptonai.security.permissions import require
from leptonai.security.tokens import issue
from leptonai.spec.names import check_user_name
from leptonai.spec.tokens import NO_EXPIRY_MS, NewToken

MAX_TOKENS = 10_000  # of a workspace
# The platform keeps these two in its home, and removes all others of their names when it starts.
PLATFORMS_OWN = ("admin", "gateway")


async def issue_token(
    world: World, principal: Principal, workspace: str, asked: NewToken
) -> tuple[str, Token]:
    """The token, which is kept nowhere, and what is kept of it."""
    require(principal, Action.CREATE, Resource(kind="token", workspace=workspace))
    check_user_name(asked.name)
    if asked.name in PLATFORMS_OWN:
        raise InvalidRequest(
            f"name: {asked.name} is the platform's own",
            hint="Give the person's name, and role admin if they are to be one.",
        )
    now_ms = world.clock.now_ms()
    if asked.expires_at is not None and not now_ms < asked.expires_at <= NO_EXPIRY_MS:
        raise InvalidRequest(
            f"expires_at: {asked.expires_at} is past, or too far ahead",
            hint="Give milliseconds since 1970, or leave it out.",
        )
    if await world.store.count(Token, Query(workspace=workspace)) >= MAX_TOKENS:
        raise Conflict(
            f"the workspace has {MAX_TOKENS} tokens", hint="Remove some: `leptonai token list`."
        )
    literal, record = issue(
        workspace=workspace,
        name=asked.name,
        role=asked.role,
        now_ms=now_ms,
        expires_at_ms=asked.expires_at,
    )
    return literal, await put(world, record)


async def remove_token(world: World, principal: Principal, workspace: str, id: str) -> None:
    """From now on its bearer is not let in."""

    async def change() -> None:
        found = await world.store.get(Token, workspace, id)
        if found is None:
            raise NotFound(
                f"there is no token {id[:100]!r}", hint="`leptonai token list` shows their ids."
            )
        require(principal, Action.DELETE, found)
        if found.name in PLATFORMS_OWN:
            raise Conflict(
                f"the token {id} is the platform's own",
                hint="To have another, remove its file from the platform's home, and start again.",
            )
        await world.commit(Delete(found))
        world.authenticator.forget(found.sha256)

    await insisting(change)
