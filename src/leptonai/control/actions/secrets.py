"""Secrets: made and deleted, never read back."""

import secrets
from collections.abc import Sequence

from leptonai.control.actions.committing import insisting
from leptonai.control.actions.finding import known_to, with_key
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import Secret
from leptonai.errors import AlreadyExists, InvalidRequest, TooLarge
from leptonai.ports.store import Delete, Put
from leptonai.security.permissions import require
from leptonai.spec.metadata import Visibility
from leptonai.spec.names import check_secret_name
from leptonai.spec.workspace import SecretItem

MAX_SECRETS_A_CALL = 100
MAX_SECRET_BYTES = 127 << 10  # it becomes a variable, which Linux lets have 128 KiB with its name


async def create_secrets(
    world: World, principal: Principal, workspace: str, items: Sequence[SecretItem]
) -> tuple[Secret, ...]:
    """All of them or none."""
    require(principal, Action.CREATE, Resource(kind="secret", workspace=workspace))
    if len(items) > MAX_SECRETS_A_CALL:
        raise TooLarge(
            f"{len(items)} secrets at once",
            hint=f"Send at most {MAX_SECRETS_A_CALL} a call.",
        )
    names = [item.name for item in items]
    for item in items:
        check_secret_name(item.name)
        if item.value is None:
            raise InvalidRequest(f"the secret {item.name} has no value", hint='Give a "value".')
        if len(item.value.encode(errors="replace")) > MAX_SECRET_BYTES:
            raise TooLarge(
                f"the value of the secret {item.name} is too large",
                hint=f"It may have {MAX_SECRET_BYTES >> 10} KiB: no variable can hold more.",
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequest(f"the secret {twice[0]} is given twice", hint="Leave one out.")
    now_ms = world.clock.now_ms()
    fresh = [
        Secret(
            workspace=workspace,
            id=secrets.token_hex(8),
            name=item.name,
            created_at_ms=now_ms,
            modified_at_ms=now_ms,
            owner=principal.name,
            visibility=item.visibility or Visibility.PRIVATE,
            ciphertext=world.sealer.seal(workspace, item.name, item.value or ""),
        )
        for item in items
    ]
    try:
        written = await world.commit(*(Put(secret) for secret in fresh))
    except AlreadyExists as error:
        taken = await world.store.get(Secret, workspace, error.existing_id)
        raise AlreadyExists(
            f"there is a secret {taken.name if taken else 'of that name'} already",
            hint="Remove it first: values are never overwritten.",
            existing_id=error.existing_id,
        ) from None
    return tuple(each for each in written if isinstance(each, Secret))


async def delete_secret(world: World, principal: Principal, workspace: str, name: str) -> None:
    async def change() -> None:
        secret = known_to(
            principal,
            await with_key(world, workspace, Secret, name),
            f"there is no secret {name[:100]!r}",
            hint="`leptonai secret list` shows them.",
        )
        require(principal, Action.DELETE, secret)
        await world.commit(Delete(secret))

    await insisting(change)
