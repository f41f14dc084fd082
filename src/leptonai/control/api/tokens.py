"""Tokens: who is let in, and as whom."""

from leptonai.control.actions.tokens import issue_token, remove_token
from leptonai.control.api.routing import DONE, Answer, Call, Route
from leptonai.core.access import Role
from leptonai.core.records import Token
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read
from leptonai.spec.tokens import NO_EXPIRY_MS, IssuedToken, NewToken, TokenInfo


async def list_tokens(call: Call) -> list[TokenInfo]:
    """One's own, and all of them for an admin."""
    found = await call.world.store.find(Token, Query(workspace=call.workspace))
    return [
        TokenInfo(
            masked_value=token.masked,
            expires_at=_expiry(token),
            id=token.id,
            name=token.name,
            role=token.role,
            created_at=token.created_at_ms,
        )
        for token in found
        if token.name == call.principal.name or _sees_all(call, token)
    ]


async def create(call: Call) -> IssuedToken:
    asked: NewToken = await call.json()
    literal, token = await issue_token(call.world, call.principal, call.workspace, asked)
    return IssuedToken(
        id=token.id,
        name=token.name,
        role=token.role,
        expires_at=_expiry(token),
        value=literal,
    )


async def delete(call: Call) -> Answer:
    await remove_token(call.world, call.principal, call.workspace, call.path["id"])
    return DONE


def _sees_all(call: Call, token: Token) -> bool:
    return call.principal.role is Role.ADMIN and may_read(call.principal, token)


def _expiry(token: Token) -> int:
    return NO_EXPIRY_MS if token.expires_at_ms is None else token.expires_at_ms


ROUTES = (
    Route(
        method="GET",
        path="/tokens",
        handler=list_tokens,
        summary="Tokens of the workspace, masked",
        answer=list[TokenInfo],
    ),
    Route(
        method="POST",
        path="/tokens",
        handler=create,
        summary="Issue a token for a person; its value is told this once",
        body=NewToken,
        answer=IssuedToken,
    ),
    Route(
        method="DELETE",
        path="/tokens/{id}",
        handler=delete,
        summary="Take a token back: who has it is not let in any more",
    ),
)
