"""Secrets, which workloads get, and tokens, which let people in."""

from collections.abc import Sequence
from typing import Literal

from leptonai.client.asynchronous.calls import AsyncCalls
from leptonai.client.messages import delete_of, get_of, post_to
from leptonai.spec.tokens import IssuedToken, NewToken, TokenInfo
from leptonai.spec.workspace import SecretItem


class AsyncSecrets:
    """Values that workloads get and nobody can read back."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def create(self, name: str, value: str) -> None:
        """Raises:
        AlreadyExists: the name is taken.
        """
        body = [SecretItem(name=name, value=value)]
        await self._calls.ask(post_to("/usersecrets", body, key=""))

    async def remove(self, name: str) -> None:
        await self._calls.ask(delete_of("usersecrets", name))

    async def list(self) -> Sequence[SecretItem]:
        """Their names, never their values."""
        return await self._calls.read(get_of("usersecrets"), list[SecretItem])


class AsyncTokens:
    """What lets people in."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def create(
        self,
        name: str,
        role: Literal["member", "admin"] = "member",
        *,
        expires_at_ms: int | None = None,
    ) -> IssuedToken:
        """A token for a person, by their name. Its `value` is told this once. For admins."""
        asked = NewToken(name=name, role=role, expires_at=expires_at_ms)
        return await self._calls.read(post_to("/tokens", asked, key=""), IssuedToken)

    async def list(self) -> Sequence[TokenInfo]:
        """One's own, and all of them for an admin; masked."""
        return await self._calls.read(get_of("tokens"), list[TokenInfo])

    async def remove(self, id: str) -> None:
        """Who has it is not let in any more. One's own; for admins any."""
        await self._calls.ask(delete_of("tokens", id))
