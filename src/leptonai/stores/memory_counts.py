"""The counts of requests in a dict: for tests, and for simulations."""

import asyncio
from collections.abc import Callable, Mapping


class MemoryCounts:
    """Keeps the promise of `ports.counts.CountStore`, except that nothing outlives the process."""

    def __init__(self) -> None:
        self._days: dict[tuple[str, str, int], bytes] = {}

    async def change(
        self, workspace: str, endpoint: str, day: int, to: Callable[[bytes], bytes]
    ) -> None:
        await asyncio.sleep(0)
        key = workspace, endpoint, day
        self._days[key] = to(self._days.get(key, b""))

    async def read(self, workspace: str, endpoint: str, from_day: int) -> Mapping[int, bytes]:
        await asyncio.sleep(0)
        return {
            day: column
            for (where, whose, day), column in self._days.items()
            if (where, whose) == (workspace, endpoint) and day >= from_day
        }

    async def forget_before(self, day: int) -> None:
        await asyncio.sleep(0)
        for key in [key for key in self._days if key[2] < day]:
            del self._days[key]
