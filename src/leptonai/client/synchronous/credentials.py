"""`asynchronous/credentials.py` as `tools/derive_sync_client.py` made it sync; change that."""

from collections.abc import Sequence
from typing import Literal

from leptonai.client.synchronous.calls import Calls
from leptonai.client.messages import delete_of, get_of, post_to
from leptonai.spec.tokens import IssuedToken, NewToken, TokenInfo
from leptonai.spec.workspace import SecretItem


class Secrets:
    """Values that workloads get and nobody can read back."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(self, name: str, value: str) -> None:
        """Raises:
        AlreadyExists: the name is taken.
        """
        body = [SecretItem(name=name, value=value)]
        self._calls.ask(post_to("/usersecrets", body, key=""))

    def remove(self, name: str) -> None:
        self._calls.ask(delete_of("usersecrets", name))

    def list(self) -> Sequence[SecretItem]:
        """Their names, never their values."""
        return self._calls.read(get_of("usersecrets"), list[SecretItem])


class Tokens:
    """What lets people in."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(
        self,
        name: str,
        role: Literal["member", "admin"] = "member",
        *,
        expires_at_ms: int | None = None,
    ) -> IssuedToken:
        """A token for a person, by their name. Its `value` is told this once. For admins."""
        asked = NewToken(name=name, role=role, expires_at=expires_at_ms)
        return self._calls.read(post_to("/tokens", asked, key=""), IssuedToken)

    def list(self) -> Sequence[TokenInfo]:
        """One's own, and all of them for an admin; masked."""
        return self._calls.read(get_of("tokens"), list[TokenInfo])

    def remove(self, id: str) -> None:
        """Who has it is not let in any more. One's own; for admins any."""
        self._calls.ask(delete_of("tokens", id))
