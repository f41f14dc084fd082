"""What the event loop of the simulation promises."""

import asyncio
import time

import pytest

from leptonai.testing.virtual_time import (
    Deadlock,
    Livelock,
    ProcessClock,
    VirtualClock,
    run,
)


def test_a_day_passes_at_once():
    async def main() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run(main()) == pytest.approx(86_400)
    assert time.monotonic() - began < 10


def test_what_sleeps_wakes_in_the_order_of_time():
    async def main() -> list[str]:
        order: list[str] = []

        async def wake(name: str, after_s: float) -> None:
            await asyncio.sleep(after_s)
            order.append(f"{name}@{asyncio.get_running_loop().time():g}")

        await asyncio.gather(wake("c", 3), wake("a", 1), wake("b", 2))
        return order

    assert run(main()) == ["a@1", "b@2", "c@3"]


def test_time_outs_work():
    async def main() -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 60)
        return asyncio.get_running_loop().time()

    assert run(main()) == 60


def test_a_deadlock_is_told_with_the_tasks_that_wait():
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"waiting:\n  Task-\d+ at .*main"):
        run(main())


def test_what_spins_is_told():
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_soon(again)

        again()
        await asyncio.Event().wait()

    with pytest.raises(Livelock, match=r"spinning at 0\.000 s"):
        run(main())


def test_threads_are_refused():
    async def main() -> None:
        await asyncio.to_thread(int)

    with pytest.raises(AssertionError, match="thread"):
        run(main())


def test_an_error_in_a_forgotten_task_is_not_lost():
    async def fail() -> None:
        raise ValueError("nobody looks")

    async def main() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(1)
        del task

    with pytest.raises(ValueError, match="nobody looks"):
        run(main())


def test_a_process_does_not_see_its_machines_clock_being_set_back():
    async def main() -> list[int]:
        machine = VirtualClock(1_000_000)
        first = ProcessClock(machine)
        await asyncio.sleep(1)
        machine.set_forward(-60_000)
        second = ProcessClock(machine)
        return [first.now_ms(), machine.now_ms(), second.now_ms()]

    assert run(main()) == [1_001_000, 941_000, 941_000]
