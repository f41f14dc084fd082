"""Where the values of key spaces are kept: the promise that the SQL and the memory store keep.

`leptonai.testing.values_contract` is the same promise as a test suite. A space is named by the id
of its record, which is never given twice: what a removed space held is no part of a later one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Keys:
    """A page of keys, in the order in which they were first put."""

    keys: Sequence[str]
    cursor: int  # ask for what comes after this; 0 where nothing does


class ValueStore(Protocol):
    """What a call has written is on disk when it returns."""

    async def put(self, workspace: str, space: str, key: str, value: bytes) -> None:
        """The last one that was put counts."""
        ...

    async def get(self, workspace: str, space: str, key: str) -> bytes | None: ...

    async def delete(self, workspace: str, space: str, key: str) -> None:
        """Of a key that is not there too."""
        ...

    async def keys(
        self, workspace: str, space: str, *, prefix: str = "", after: int = 0, limit: int
    ) -> Keys:
        """A key that is there from the first page to the last is on exactly one of them."""
        ...

    async def forget(self, workspace: str, space: str) -> None:
        """Remove all of a space."""
        ...
