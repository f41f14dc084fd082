"""The promise of `leptonai.ports.counts` as a test suite.

Hold a store to it as to `leptonai.testing.store_contract`, by telling how to open one.
"""

import asyncio
from pathlib import Path

from leptonai.ports.store import Store


class CountsContract:
    async def open(self, where: Path) -> Store:
        raise NotImplementedError("say how a store is opened")

    def test_a_day_is_changed_from_what_it_was_and_read_again(self, tmp_path: Path) -> None:
        async def story() -> None:
            store = await self.open(tmp_path)
            for day in (7, 8, 8):
                await store.counts.change("w", "e", day, lambda before: before + b"\x00\xff")
            await store.counts.change("w", "other", 8, lambda before: before + b"x")
            await store.counts.change("v", "e", 8, lambda before: before + b"y")
            assert await store.counts.read("w", "e", 0) == {7: b"\x00\xff", 8: b"\x00\xff\x00\xff"}
            assert await store.counts.read("w", "e", 8) == {8: b"\x00\xff\x00\xff"}
            assert await store.counts.read("w", "nobody", 0) == {}
            await store.close()
            again = await self.open(tmp_path)
            assert await again.counts.read("v", "e", 0) == {8: b"y"}
            await again.close()

        asyncio.run(story())

    def test_changes_at_the_same_time_are_all_made(self, tmp_path: Path) -> None:
        async def story() -> None:
            store = await self.open(tmp_path)
            changes = [store.counts.change("w", "e", 7, lambda b: b + b"1") for _ in range(20)]
            await asyncio.gather(*changes)
            assert await store.counts.read("w", "e", 0) == {7: b"1" * 20}
            await store.close()

        asyncio.run(story())

    def test_old_days_are_forgotten_of_all(self, tmp_path: Path) -> None:
        async def story() -> None:
            store = await self.open(tmp_path)
            for name in ("e", "f"):
                for day in (6, 7, 8):
                    await store.counts.change("w", name, day, lambda before: b"x")
            await store.counts.forget_before(8)
            for name in ("e", "f"):
                assert await store.counts.read("w", name, 0) == {8: b"x"}
            await store.close()

        asyncio.run(story())
