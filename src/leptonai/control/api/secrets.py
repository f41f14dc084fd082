"""Secrets: written, listed by name, deleted; never read."""

from leptonai.control.actions.secrets import create_secrets, delete_secret
from leptonai.control.api.routing import DONE, Answer, Call, Route
from leptonai.control.api.views import secret_view
from leptonai.core.records import Secret
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read
from leptonai.spec.workspace import SecretItem


async def list_secrets(call: Call) -> list[SecretItem]:
    found = await call.world.store.find(Secret, Query(workspace=call.workspace))
    shown = [secret for secret in found if may_read(call.principal, secret)]
    return [secret_view(secret) for secret in sorted(shown, key=lambda secret: secret.name)]


async def create(call: Call) -> list[SecretItem]:
    items: list[SecretItem] = await call.json()
    written = await create_secrets(call.world, call.principal, call.workspace, items)
    return [secret_view(secret) for secret in written]


async def delete(call: Call) -> Answer:
    await delete_secret(call.world, call.principal, call.workspace, call.path["name"])
    return DONE


ROUTES = (
    Route(
        method="GET",
        path="/usersecrets",
        handler=list_secrets,
        summary="List secrets, never their values",
        answer=list[SecretItem],
    ),
    Route(
        method="POST",
        path="/usersecrets",
        handler=create,
        summary="Create secrets, all of them or none",
        body=list[SecretItem],
        answer=list[SecretItem],
    ),
    Route(
        method="DELETE",
        path="/usersecrets/{name}",
        handler=delete,
        summary="Delete a secret",
    ),
)
