"""Where the platform remembers: SQLite or PostgreSQL, or plain memory for tests and simulations."""

from leptonai.errors import InvalidRequest
from leptonai.ports.store import Store

__all__ = ["open_store"]


async def open_store(url: str) -> Store:
    """Open the store at a URL; a database that has no tables yet gets them.

    Args:
        url: ``sqlite:///path/to/file``, ``postgresql://user:password@host/database`` or
            ``memory:``.

    Raises:
        InvalidRequest: no such kind of store.
        Conflict: the database belongs to a newer Lepton.
        Unavailable: it cannot be reached.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme == "memory":
        from leptonai.stores.memory import MemoryStore

        return MemoryStore()
    if scheme in ("sqlite", "postgresql", "postgres"):
        from leptonai.stores.sql import SqlStore  # SQLAlchemy takes half a second to import

        return await SqlStore.open(url)
    raise InvalidRequest(
        f"a store cannot be kept in {scheme or 'nothing'!r}",
        hint="give sqlite:///path/to/file or postgresql://user:password@host/database",
    )
