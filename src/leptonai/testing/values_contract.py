"""The promises of `leptonai.ports.values` and `leptonai.ports.messages` as test suites.

Hold a store to them as to `leptonai.testing.store_contract`, by telling how to open one.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leptonai.ports.messages import SAME_FOR_MS, MessageStore
from leptonai.ports.store import Store
from leptonai.ports.values import ValueStore

WS, ONE, TWO = "default", "one", "two"
Story = Callable[[Store], Awaitable[None]]

changes = st.lists(
    st.tuples(st.sampled_from(["a", "ab", "b", "Ä%_"]), st.none() | st.binary(max_size=8)),
    max_size=12,
)


class _Opens:
    async def open(self, where: Path) -> Store:
        raise NotImplementedError

    def with_store(self, where: Path, story: Story) -> None:
        async def run() -> None:
            store = await self.open(where)
            try:
                for name in (ONE, TWO):
                    await store.values.forget(WS, name)
                    await store.messages.forget(WS, name)
                await story(store)
            finally:
                await store.close()

        asyncio.run(run())


async def every_key(values: ValueStore, page: int, prefix: str = "") -> list[str]:
    found: list[str] = []
    after = 0
    while True:
        keys = await values.keys(WS, ONE, prefix=prefix, after=after, limit=page)
        found += keys.keys
        assert len(keys.keys) <= page
        if keys.cursor == 0:
            return found
        assert keys.cursor > after
        after = keys.cursor


class ValuesContract(_Opens):
    """Every store passes every test."""

    @settings(max_examples=20, suppress_health_check=list(HealthCheck), deadline=None)
    @given(changes=changes, page=st.integers(1, 3))
    def test_values_are_those_that_were_put_last(
        self, tmp_path: Path, changes: list[tuple[str, bytes | None]], page: int
    ) -> None:
        async def story(store: Store) -> None:
            expected: dict[str, bytes] = {}
            for key, value in changes:
                if value is None:
                    await store.values.delete(WS, ONE, key)
                    expected.pop(key, None)
                else:
                    await store.values.put(WS, ONE, key, value)
                    expected[key] = value
            for key in ("a", "ab", "b", "Ä%_"):
                assert await store.values.get(WS, ONE, key) == expected.get(key)
                assert await store.values.get(WS, TWO, key) is None
                assert await store.values.get("other", ONE, key) is None
            assert await every_key(store.values, page) == list(expected)
            for prefix in ("a", "Ä%", "_"):
                found = await every_key(store.values, page, prefix)
                assert found == [key for key in expected if key.startswith(prefix)]

        self.with_store(tmp_path, story)

    def test_a_reader_of_pages_misses_no_key_that_stays(self, tmp_path: Path) -> None:
        async def story(store: Store) -> None:
            values = store.values
            for number in range(6):
                await values.put(WS, ONE, f"k{number}", b"")
            first = await values.keys(WS, ONE, limit=3)
            await values.delete(WS, ONE, "k0")
            await values.put(WS, ONE, "k1", b"again")
            second = await values.keys(WS, ONE, after=first.cursor, limit=3)
            assert [*first.keys, *second.keys] == [f"k{number}" for number in range(6)]
            assert second.cursor == 0

        self.with_store(tmp_path, story)

    def test_what_was_put_outlives_the_store_and_what_was_forgotten_does_not(
        self, tmp_path: Path
    ) -> None:
        async def put(store: Store) -> None:
            await store.values.put(WS, ONE, "key", b"\x00\xff")
            await store.values.put(WS, TWO, "key", b"2")
            await store.values.forget(WS, TWO)

        async def look() -> None:
            store = await self.open(tmp_path)
            assert await store.values.get(WS, ONE, "key") == b"\x00\xff"
            assert await store.values.get(WS, TWO, "key") is None
            await store.close()

        self.with_store(tmp_path, put)
        asyncio.run(look())


class MessagesContract(_Opens):
    """Every store passes every test."""

    def test_messages_are_received_in_their_order_once_each(self, tmp_path: Path) -> None:
        async def story(store: Store) -> None:
            messages = store.messages
            assert await messages.receive(WS, ONE, 0) is None
            for text in ("first", "second", "Grüße"):
                assert await messages.send(WS, ONE, text, 1)
            assert await messages.length(WS, ONE) == 3
            assert await messages.length(WS, TWO) == 0
            assert [await messages.receive(WS, ONE, 2) for _ in range(4)] == [
                "first",
                "second",
                "Grüße",
                None,
            ]
            assert await messages.length(WS, ONE) == 0

        self.with_store(tmp_path, story)

    def test_many_receivers_get_each_message_once(self, tmp_path: Path) -> None:
        async def story(store: Store) -> None:
            messages = store.messages
            sent = [str(number) for number in range(40)]
            await asyncio.gather(*(messages.send(WS, ONE, text, 1) for text in sent))
            received: Counter[str] = Counter()

            async def receive(messages: MessageStore) -> None:
                while (text := await messages.receive(WS, ONE, 2)) is not None:
                    received[text] += 1

            other = await self.open(tmp_path)
            try:
                both = (messages, other.messages)
                await asyncio.gather(*(receive(each) for each in both * 3))
            finally:
                await other.close()
            assert received == Counter(sent)

        self.with_store(tmp_path, story)

    def test_a_text_that_is_sent_again_soon_is_one_message(self, tmp_path: Path) -> None:
        async def story(store: Store) -> None:
            messages = store.messages
            assert await messages.send(WS, ONE, "same", 1_000)
            assert not await messages.send(WS, ONE, "same", 1_001)
            assert await messages.send(WS, TWO, "same", 1_001)
            assert await messages.receive(WS, ONE, 1_002) == "same"
            assert not await messages.send(WS, ONE, "same", 999 + SAME_FOR_MS)
            assert await messages.send(WS, ONE, "same", 1_000 + SAME_FOR_MS)
            assert await messages.receive(WS, ONE, 2_000 + SAME_FOR_MS) == "same"

        self.with_store(tmp_path, story)

    def test_taken_messages_are_dropped_and_the_order_stays(self, tmp_path: Path) -> None:
        async def story(store: Store) -> None:
            messages = store.messages
            late = 2 * SAME_FOR_MS
            for number in range(5):
                await messages.send(WS, ONE, f"old {number}", number)
                assert await messages.receive(WS, ONE, number) == f"old {number}"
            for number in range(5):
                assert await messages.send(WS, ONE, f"new {number}", late + number)
            for number in range(5):
                assert await messages.receive(WS, ONE, late) == f"new {number}"
            assert await messages.receive(WS, ONE, late) is None
            await messages.forget(WS, ONE)
            assert await messages.send(WS, ONE, "new 0", late + 9)

        self.with_store(tmp_path, story)
