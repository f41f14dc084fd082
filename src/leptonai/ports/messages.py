"""Where the messages of queues are kept: the promise that the SQL and the memory store keep.

`leptonai.testing.values_contract` is the same promise as a test suite. A queue is named by the id
of its record, which is never given twice.
"""

from typing import Protocol

SAME_FOR_MS = 300_000  # a text that is sent again within this is one message


class MessageStore(Protocol):
    """What a call has written is on disk when it returns."""

    async def send(self, workspace: str, queue: str, text: str, now_ms: int) -> bool:
        """Put a message at the end; False, and nothing, where the same text was sent within
        `SAME_FOR_MS`, whether it was received since or not: so it is safe to send again."""
        ...

    async def receive(self, workspace: str, queue: str, now_ms: int) -> str | None:
        """Take the first message; None where there is none. Each goes to one receiver at most."""
        ...

    async def length(self, workspace: str, queue: str) -> int: ...

    async def forget(self, workspace: str, queue: str) -> None:
        """Remove all of a queue."""
        ...
