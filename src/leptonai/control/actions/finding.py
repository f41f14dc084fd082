"""What most actions begin with: they find what they are about, for who may know of it."""

from typing import TypeVar

from leptonai.control.world import World
from leptonai.core.access import Principal
from leptonai.core.records import Record
from leptonai.errors import NotFound
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read

R = TypeVar("R", bound=Record)


async def with_key(world: World, workspace: str, kind: type[R], key: str | None) -> R | None:
    """The one whose `unique_key` this is: of most kinds, their name."""
    found = await world.store.find(kind, Query(workspace=workspace, unique_key=key, limit=1))
    return found[0] if found else None


def known_to(principal: Principal, found: R | None, message: str, *, hint: str) -> R:
    """
    Raises:
        NotFound: there is none, or this principal may not know of it.
    """
    if found is None or not may_read(principal, found):
        raise NotFound(message, hint=hint)
    return found
