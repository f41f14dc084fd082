"""Which processes bear the marks of attempts, for many attempts at once."""

import asyncio

from leptonai.supervisor import processes


class Census:
    """Looks through /proc: who asks while a pass runs shares the next."""

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Future[list[int]]] = {}
        self._pass: asyncio.Task[None] | None = None

    def close(self) -> None:
        if self._pass is not None:
            self._pass.cancel()

    async def find(self, mark: str) -> list[int]:
        # A pass that already runs may have gone by where its processes are.
        future = self._asked.get(mark)
        if future is None:
            future = self._asked[mark] = asyncio.get_running_loop().create_future()
        if self._pass is None:
            self._pass = asyncio.create_task(self._look())
        return await asyncio.shield(future)

    async def _look(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                found = await asyncio.to_thread(processes.find, tuple(asked))
                for mark, future in asked.items():
                    if not future.done():
                        future.set_result(found[mark])
        finally:
            self._pass = None
