"""The promise of `leptonai.ports.engine` as a test suite, for engines we never see too.

Subclass `EngineContract`, give it an engine and seven programs, and let pytest collect it.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from leptonai.core.records import EndReason
from leptonai.errors import Conflict, StaleEpoch
from leptonai.ports.engine import (
    Attempt,
    AttemptState,
    Ended,
    Engine,
    Running,
    Seen,
    Unreachable,
    Warm,
)
from leptonai.testing.free_ports import a_free_port

PATIENCE_S = 60.0  # a busy machine is slow, never wrong
FILE_CLOCK_TICK_MS = 10  # a file system may date what happens by the last tick

Test = Callable[[Engine, str], Coroutine[Any, Any, None]]


class EngineContract(ABC):
    """Every test gets an engine with nothing on it and the name of one of its nodes."""

    # --- what an adapter gives -------------------------------------------------------------------

    @abstractmethod
    def open(self, home: Path) -> AbstractAsyncContextManager[Engine]:
        """An engine; a second one with the same home finds what the first one left."""

    @abstractmethod
    def sleeps(self, seconds: float) -> tuple[str, ...]:
        """A program that exits with 0 after so long, and ends when it is asked to."""

    @abstractmethod
    def exits(self, code: int) -> tuple[str, ...]: ...

    @abstractmethod
    def prints(self, text: str) -> tuple[str, ...]:
        """A program that prints one line and exits with 0."""

    @abstractmethod
    def ignores_term(self) -> tuple[str, ...]:
        """A program that runs until it is killed. It prints "ready" when it may be tested, or is
        from its start."""

    @abstractmethod
    def saves(self, text: str) -> tuple[str, ...]:
        """A program that adds a line to a file in the folder that it keeps, prints the whole file
        and exits with 0."""

    @abstractmethod
    def serves(self, port: int) -> tuple[str, ...]:
        """A program that listens there until it is asked to end."""

    tells_listeners = True  # whether `listens` ever says more than None
    prints_ready = False  # whether `ignores_term` prints

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        asyncio.run(main)

    # --- the promise -----------------------------------------------------------------------------

    def test_an_exit_code_is_told(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.start(Attempt(id="ok.0", node=node, command=self.exits(0)), epoch=1)
            await engine.start(Attempt(id="bad.4", node=node, command=self.exits(3)), epoch=1)
            ok, bad = await ended(engine, node, "ok.0"), await ended(engine, node, "bad.4")
            assert (ok.how.reason, ok.how.exit_code, ok.how.attempt) == (EndReason.EXITED, 0, 0)
            assert (bad.how.reason, bad.how.exit_code, bad.how.attempt) == (EndReason.EXITED, 3, 4)
            assert ok.how.succeeded and not bad.how.succeeded
            assert bad.how.started_at_ms is not None
            assert bad.how.started_at_ms <= bad.how.finished_at_ms

        self._with_engine(tmp_path, test)

    def test_what_runs_is_seen_running_until_it_ends(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.start(Attempt(id="a.0", node=node, command=self.sleeps(600)), epoch=1)
            first = await until(engine, node, "a.0", lambda state: state is not None)
            assert isinstance(first, Running)
            await engine.stop(node, "a.0", grace_ms=60_000, epoch=1)
            await ended(engine, node, "a.0")

        self._with_engine(tmp_path, test)

    def test_nothing_is_seen_of_what_was_never_started(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            observation = await engine.observe(node)
            assert isinstance(observation, Seen)
            assert dict(observation.attempts) == {}
            assert await engine.read_log(node, "no.0", offset=0, limit=10) is None
            assert len(await engine.log_marks(node, "no.0")) == 0

        self._with_engine(tmp_path, test)

    def test_a_node_it_does_not_have_is_unreachable(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            assert isinstance(await engine.observe("nowhere"), Unreachable)

        self._with_engine(tmp_path, test)

    def test_of_gpus_it_tells_a_share_of_the_time_or_nothing(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            (capacity,) = [m.capacity for m in await engine.machines() if m.id == node]
            for index, share in (await engine.gpu_use(node)).items():
                assert 0 <= index < capacity.gpus
                assert 0 <= share <= 1

        self._with_engine(tmp_path, test)

    def test_asking_twice_to_start_is_asking_once(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            attempt = Attempt(id="a.0", node=node, command=self.prints("once"))
            await asyncio.gather(*(engine.start(attempt, epoch=1) for _ in range(3)))
            await ended(engine, node, "a.0")
            await engine.start(attempt, epoch=1)
            await asyncio.sleep(0.1)
            assert await log_of(engine, node, "a.0") == b"once\n"

        self._with_engine(tmp_path, test)

    def test_what_an_attempt_keeps_is_there_for_the_next_until_it_is_dropped(
        self, tmp_path: Path
    ) -> None:
        async def test(engine: Engine, node: str) -> None:
            async def saved(id: str, keeps: str) -> bytes:
                command = self.saves("step")
                await engine.start(Attempt(id=id, node=node, command=command, keeps=keeps), epoch=1)
                assert (await ended(engine, node, id)).how.exit_code == 0
                return await log_of(engine, node, id)

            assert await saved("a.0", "job") == b"step\n"
            assert await saved("a.1", "job") == b"step\nstep\n"
            assert await saved("b.0", "other") == b"step\n"
            await engine.drop(node, "job", epoch=1)
            await engine.drop(node, "job", epoch=1)
            await engine.drop(node, "never-there", epoch=1)
            assert await saved("a.2", "job") == b"step\n"
            assert await saved("b.1", "other") == b"step\nstep\n"

        self._with_engine(tmp_path, test)

    def test_a_template_changes_nothing_of_how_an_attempt_ends(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.warm(Attempt(id="a.0", node=node, command=self.exits(0)), epoch=1)
            await engine.cool(node, "never-there", epoch=1)
            warm = Warm("key", frozenset({"PORT"}))
            for id, command in (("a.0", self.exits(3)), ("a.1", self.prints("cold"))):
                attempt = Attempt(id=id, node=node, command=command, warm=warm)
                await engine.warm(attempt, epoch=1)
                await engine.start(attempt, epoch=1)
            assert (await ended(engine, node, "a.0")).how.exit_code == 3
            assert (await ended(engine, node, "a.1")).how.exit_code == 0
            assert await log_of(engine, node, "a.1") == b"cold\n"
            await engine.cool(node, "key", epoch=1)
            observation = await engine.observe(node)
            assert isinstance(observation, Seen)
            assert dict(observation.templates) == {}

        self._with_engine(tmp_path, test)

    def test_a_stop_ends_it(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.start(Attempt(id="a.0", node=node, command=self.sleeps(600)), epoch=1)
            await engine.stop(node, "a.0", grace_ms=60_000, epoch=1)
            await engine.stop(node, "a.0", grace_ms=60_000, epoch=1)
            end = (await ended(engine, node, "a.0")).how
            assert (end.reason, end.exit_code) in (
                (EndReason.STOPPED, 128 + 15),
                (EndReason.STOPPED, None),  # before its first instruction
            )

        self._with_engine(tmp_path, test)

    def test_one_that_ignores_the_stop_is_killed_after_its_grace(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.start(Attempt(id="a.0", node=node, command=self.ignores_term()), epoch=1)
            await self._ignoring(engine, node, "a.0")
            before = await engine.observe(node)
            assert isinstance(before, Seen)
            assert isinstance(before.attempts["a.0"], Running)
            await engine.stop(node, "a.0", grace_ms=300, epoch=1)
            end = (await ended(engine, node, "a.0")).how
            assert (end.reason, end.exit_code) == (EndReason.STOPPED, 128 + 9)
            assert end.finished_at_ms - before.at_ms >= 300 - FILE_CLOCK_TICK_MS

        self._with_engine(tmp_path, test)

    def test_a_second_stop_may_shorten_the_grace(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.start(Attempt(id="a.0", node=node, command=self.ignores_term()), epoch=1)
            await self._ignoring(engine, node, "a.0")
            await engine.stop(node, "a.0", grace_ms=600_000, epoch=1)
            await engine.stop(node, "a.0", grace_ms=0, epoch=1)
            end = (await ended(engine, node, "a.0")).how
            assert (end.reason, end.exit_code) == (EndReason.STOPPED, 128 + 9)

        self._with_engine(tmp_path, test)

    def test_one_stopped_before_it_started_never_starts(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.stop(node, "a.0", grace_ms=1_000, epoch=1)
            assert (await ended(engine, node, "a.0")).how.reason is EndReason.STOPPED
            await engine.start(Attempt(id="a.0", node=node, command=self.prints("no")), epoch=1)
            await asyncio.sleep(0.1)
            assert (await ended(engine, node, "a.0")).how.reason is EndReason.STOPPED
            assert await log_of(engine, node, "a.0") == b""

        self._with_engine(tmp_path, test)

    def test_a_stop_changes_nothing_of_one_that_ended(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.start(Attempt(id="a.0", node=node, command=self.exits(3)), epoch=1)
            end = await ended(engine, node, "a.0")
            await engine.stop(node, "a.0", grace_ms=0, epoch=1)
            await asyncio.sleep(0.1)
            assert await ended(engine, node, "a.0") == end

        self._with_engine(tmp_path, test)

    def test_an_older_epoch_is_refused(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            attempt = Attempt(id="a.0", node=node, command=self.exits(0))
            await engine.start(attempt, epoch=7)
            await ended(engine, node, "a.0")
            asks: list[Callable[[], Coroutine[Any, Any, object]]] = [
                lambda: engine.start(attempt, epoch=6),
                lambda: engine.warm(attempt, epoch=6),
                lambda: engine.cool(node, "key", epoch=6),
                lambda: engine.stop(node, "a.0", grace_ms=0, epoch=6),
                lambda: engine.forget(node, "a.0", epoch=6),
                lambda: engine.remove(node, "a.0", epoch=6),
                lambda: engine.drop(node, "a", epoch=6),
                lambda: engine.fence(node, epoch=6),
            ]
            for ask in asks:
                with pytest.raises(StaleEpoch):
                    await ask()
            await engine.forget(node, "a.0", epoch=7)

        self._with_engine(tmp_path, test)

    def test_a_change_wakes_whoever_waits_and_nothing_else_does(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.changed()  # nothing was observed yet
            for machine in await engine.machines():
                await engine.observe(machine.id)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.changed(), 0.1)
            await engine.start(Attempt(id="a.0", node=node, command=self.exits(0)), epoch=1)
            await asyncio.wait_for(engine.changed(), PATIENCE_S)
            await ended(engine, node, "a.0")

        self._with_engine(tmp_path, test)

    def test_a_log_is_read_from_any_offset(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.start(
                Attempt(id="a.0", node=node, command=self.prints("hello, log")), epoch=1
            )
            await ended(engine, node, "a.0")
            chunk = await engine.read_log(node, "a.0", offset=7, limit=3)
            assert chunk is not None
            assert (chunk.offset, chunk.data) == (7, b"log")
            end = await engine.read_log(node, "a.0", offset=11, limit=100)
            assert end is not None
            assert (end.offset, end.data) == (11, b"")

        self._with_engine(tmp_path, test)

    def test_marks_date_the_whole_log_in_order(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.start(Attempt(id="a.0", node=node, command=self.prints("12345")), epoch=1)
            await ended(engine, node, "a.0")
            marks = await engine.log_marks(node, "a.0")
            assert marks.end == 6
            assert list(marks.at_ns) == sorted(marks.at_ns)
            assert list(marks.offsets) == sorted(marks.offsets)
            assert await engine.log_marks(node, "a.0") == marks, "told once, told for ever"

        self._with_engine(tmp_path, test)

    def test_a_forgotten_one_is_not_seen_and_keeps_its_log_until_removed(
        self, tmp_path: Path
    ) -> None:
        async def test(engine: Engine, node: str) -> None:
            attempt = Attempt(id="a.0", node=node, command=self.prints("kept"))
            await engine.start(attempt, epoch=1)
            await ended(engine, node, "a.0")
            await engine.forget(node, "a.0", epoch=1)
            await engine.forget(node, "a.0", epoch=1)
            await engine.start(attempt, epoch=1)  # it ended: it does not start again
            await asyncio.sleep(0.1)
            observation = await engine.observe(node)
            assert isinstance(observation, Seen)
            assert dict(observation.attempts) == {}
            assert await log_of(engine, node, "a.0") == b"kept\n"
            await engine.remove(node, "a.0", epoch=1)
            await engine.remove(node, "a.0", epoch=1)
            assert await engine.read_log(node, "a.0", offset=0, limit=10) is None

        self._with_engine(tmp_path, test)

    def test_what_runs_cannot_be_forgotten(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.start(Attempt(id="a.0", node=node, command=self.sleeps(600)), epoch=1)
            with pytest.raises(Conflict):
                await engine.forget(node, "a.0", epoch=1)

        self._with_engine(tmp_path, test)

    def test_who_listens_is_told_by_attempt(self, tmp_path: Path) -> None:
        port = a_free_port()

        async def test(engine: Engine, node: str) -> None:
            serves = Attempt(id="a.0", node=node, command=self.serves(port), ports=(port,))
            await engine.start(serves, epoch=1)
            await engine.start(Attempt(id="b.0", node=node, command=self.sleeps(600)), epoch=1)
            async with asyncio.timeout(PATIENCE_S):
                while self.tells_listeners and not await engine.listens(node, "a.0", port):
                    await asyncio.sleep(0.02)
            assert await engine.listens(node, "a.0", port) is not False
            for attempt, at in (("b.0", port), ("a.0", a_free_port()), ("never.0", port)):
                assert not await engine.listens(node, attempt, at)
            await engine.stop(node, "a.0", grace_ms=60_000, epoch=1)
            await ended(engine, node, "a.0")
            assert not await engine.listens(node, "a.0", port)

        self._with_engine(tmp_path, test)

    def test_a_fence_leaves_nothing_running(self, tmp_path: Path) -> None:
        async def test(engine: Engine, node: str) -> None:
            await engine.start(Attempt(id="a.0", node=node, command=self.sleeps(600)), epoch=1)
            await engine.start(Attempt(id="b.0", node=node, command=self.ignores_term()), epoch=1)
            async with asyncio.timeout(PATIENCE_S):
                while not await engine.fence(node, epoch=1):
                    await asyncio.sleep(0.1)
            observation = await engine.observe(node)
            assert isinstance(observation, Seen)
            assert all(isinstance(state, Ended) for state in observation.attempts.values())

        self._with_engine(tmp_path, test)

    def test_another_engine_finds_what_the_first_one_left(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with self.open(tmp_path) as engine:
                node = (await engine.machines())[0].id
                await engine.start(Attempt(id="done.0", node=node, command=self.exits(3)), epoch=5)
                await engine.start(
                    Attempt(id="runs.0", node=node, command=self.sleeps(0.5)), epoch=5
                )
                await engine.start(
                    Attempt(id="stays.0", node=node, command=self.sleeps(600)), epoch=5
                )
                await ended(engine, node, "done.0")
                await engine.close()
            async with self.open(tmp_path) as engine:
                try:
                    # What start returned for is seen from the first observation on.
                    first = await engine.observe(node)
                    assert isinstance(first, Seen)
                    assert set(first.attempts) == {"done.0", "runs.0", "stays.0"}
                    assert (await ended(engine, node, "done.0")).how.exit_code == 3
                    assert (await ended(engine, node, "runs.0")).how.exit_code == 0
                    observation = await engine.observe(node)
                    assert isinstance(observation, Seen)
                    assert isinstance(observation.attempts["stays.0"], Running)
                    with pytest.raises(StaleEpoch):
                        await engine.stop(node, "stays.0", grace_ms=0, epoch=4)
                    await engine.stop(node, "stays.0", grace_ms=600_000, epoch=5)
                    end = (await ended(engine, node, "stays.0")).how
                    assert (end.reason, end.exit_code) == (EndReason.STOPPED, 128 + 15)
                finally:
                    await clean_up(engine, node)

        self.run(test())

    # --- how it is tested ------------------------------------------------------------------------

    def _with_engine(self, home: Path, test: Test) -> None:
        async def main() -> None:
            async with self.open(home) as engine:
                node = (await engine.machines())[0].id
                try:
                    await test(engine, node)
                finally:
                    await clean_up(engine, node)

        self.run(main())

    async def _ignoring(self, engine: Engine, node: str, attempt: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.prints_ready and b"ready" not in await log_of(engine, node, attempt):
                await asyncio.sleep(0.02)


async def clean_up(engine: Engine, node: str) -> None:
    """Leave nothing running behind a test, also behind one that failed."""
    await engine.fence(node, epoch=1_000_000)
    await engine.close()


async def ended(engine: Engine, node: str, attempt: str) -> Ended:
    state = await until(engine, node, attempt, lambda state: isinstance(state, Ended))
    assert isinstance(state, Ended)
    return state


async def until(
    engine: Engine, node: str, attempt: str, reached: Callable[[AttemptState | None], bool]
) -> AttemptState | None:
    """Its state as soon as it is one that was waited for: looked at after every change."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for machine in await engine.machines():
                observation = await engine.observe(machine.id)
                if machine.id == node and isinstance(observation, Seen):
                    state = observation.attempts.get(attempt)
                    if reached(state):
                        return state
            await engine.changed()


async def log_of(engine: Engine, node: str, attempt: str) -> bytes:
    chunk = await engine.read_log(node, attempt, offset=0, limit=1 << 20)
    return chunk.data if chunk else b""
