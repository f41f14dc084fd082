"""The values of key spaces and the messages of queues in dicts: for tests, and for simulations."""

import asyncio

from leptonai.ports.messages import SAME_FOR_MS
from leptonai.ports.values import Keys


class MemoryValues:
    """Keeps the promise of `ports.values.ValueStore`, except that nothing outlives the process."""

    def __init__(self) -> None:
        self._spaces: dict[tuple[str, str], dict[str, tuple[int, bytes]]] = {}

    async def put(self, workspace: str, space: str, key: str, value: bytes) -> None:
        await asyncio.sleep(0)
        kept = self._spaces.setdefault((workspace, space), {})
        last = max((number for number, _ in kept.values()), default=0)
        number, _ = kept.get(key, (last + 1, b""))
        kept[key] = number, value

    async def get(self, workspace: str, space: str, key: str) -> bytes | None:
        await asyncio.sleep(0)
        _, value = self._spaces.get((workspace, space), {}).get(key, (0, None))
        return value

    async def delete(self, workspace: str, space: str, key: str) -> None:
        await asyncio.sleep(0)
        self._spaces.get((workspace, space), {}).pop(key, None)

    async def keys(
        self, workspace: str, space: str, *, prefix: str = "", after: int = 0, limit: int
    ) -> Keys:
        await asyncio.sleep(0)
        found = sorted(
            (number, key)
            for key, (number, _) in self._spaces.get((workspace, space), {}).items()
            if number > after and key.startswith(prefix)
        )
        page = found[:limit]
        return Keys([key for _, key in page], page[-1][0] if len(found) > limit else 0)

    async def forget(self, workspace: str, space: str) -> None:
        await asyncio.sleep(0)
        self._spaces.pop((workspace, space), None)


class MemoryMessages:
    """Keeps the promise of `ports.messages.MessageStore`, except that nothing outlives the
    process."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], list[str]] = {}
        self._sent_at_ms: dict[tuple[str, str, str], int] = {}

    async def send(self, workspace: str, queue: str, text: str, now_ms: int) -> bool:
        await asyncio.sleep(0)
        if now_ms - self._sent_at_ms.get((workspace, queue, text), -SAME_FOR_MS) < SAME_FOR_MS:
            return False
        self._sent_at_ms[workspace, queue, text] = now_ms
        self._waiting.setdefault((workspace, queue), []).append(text)
        return True

    async def receive(self, workspace: str, queue: str, now_ms: int) -> str | None:
        await asyncio.sleep(0)
        waiting = self._waiting.get((workspace, queue))
        return waiting.pop(0) if waiting else None

    async def length(self, workspace: str, queue: str) -> int:
        await asyncio.sleep(0)
        return len(self._waiting.get((workspace, queue), ()))

    async def forget(self, workspace: str, queue: str) -> None:
        await asyncio.sleep(0)
        self._waiting.pop((workspace, queue), None)
        for sent in [each for each in self._sent_at_ms if each[:2] == (workspace, queue)]:
            del self._sent_at_ms[sent]
