"""Which calls go together, and when: the decision, and what it makes in virtual time."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.errors import TooManyRequests
from leptonai.serving.batches import Batcher, Pieces
from leptonai.serving.batching import BatchQueue
from leptonai.serving.threads import Threads
from leptonai.testing import virtual_time


def a_queue(*calls: str, size: int = 3, wait_s: float = 0.0) -> BatchQueue[str]:
    """Of calls "client name" or "client name shape"; each comes a second after the last."""
    queue: BatchQueue[str] = BatchQueue(size, wait_s, capacity=100)
    for now_s, call in enumerate(calls):
        client, name, *shape = call.split()
        queue.put(name, client, shape[0] if shape else "", now_s)
    return queue


def batches(queue: BatchQueue[str], now_s: float = 0.0) -> list[str]:
    found: list[str] = []
    while batch := queue.take(now_s):
        found.append("".join(batch))
    return found


def test_what_has_come_goes_together_in_its_order() -> None:
    assert batches(a_queue("ann a", "ann b", "ann c", "ann d")) == ["abc", "d"]


def test_a_call_that_came_alone_goes_at_once() -> None:
    assert batches(a_queue("ann a")) == ["a"]
    assert batches(a_queue()) == []


def test_clients_take_turns_however_many_calls_one_of_them_sends() -> None:
    queue = a_queue("ann a", "ann b", "ann c", "ann d", "ann e", "bob x", "cid y", "bob z")
    assert batches(queue) == ["axy", "bzc", "de"]


def test_only_one_shape_goes_into_a_batch() -> None:
    queue = a_queue("ann a small", "ann b large", "ann c small", "ann d large")
    assert batches(queue) == ["ac", "bd"]


def test_who_floods_with_many_shapes_delays_nobody_elses() -> None:
    queue = a_queue("ann a 1", "ann b 2", "ann c 3", "bob x 4")
    assert batches(queue) == ["a", "x", "b", "c"]


def test_a_batch_that_is_not_full_waits_as_long_as_it_may() -> None:
    queue = a_queue("ann a", "ann b", wait_s=10)
    assert (batches(queue, 9), queue.due_s()) == ([], 10)
    assert batches(queue, 10) == ["ab"]


def test_a_full_batch_does_not_wait() -> None:
    queue = a_queue("ann a", "ann b", "ann c", "ann d", wait_s=10)
    assert (batches(queue, 3), queue.due_s()) == (["abc"], 13)


def test_a_cancelled_call_leaves_the_queue() -> None:
    queue = a_queue("ann a")
    waiting = queue.put("b", "ann", "", 1)
    assert (queue.discard(waiting), queue.discard(waiting), len(queue)) == (True, False, 1)
    assert batches(queue) == ["a"]


def test_calls_that_came_together_make_a_crowd_until_one_comes_alone() -> None:
    queue = a_queue()
    crowded = []
    for calls in ("a", "bc", "", "d"):
        for name in calls:
            queue.put(name, "ann", "", 0)
        queue.take(0)
        crowded.append(queue.crowded)
    assert crowded == [False, True, True, False]


@given(st.lists(st.integers(0, 3), max_size=5), st.integers(1, 3), st.sampled_from([0.0, 2.0]))
def test_only_what_would_be_a_batch_by_itself_at_once_is_let_pass(
    crowds: list[int], size: int, wait_s: float
) -> None:
    queue: BatchQueue[str] = BatchQueue(size, wait_s, capacity=100)
    for crowd in crowds:
        for _ in range(crowd):
            queue.put("earlier", "ann", "", 0)
        queue.take(wait_s)
    let_pass = queue.lets_pass
    assert let_pass == (not wait_s and not queue.crowded and len(queue) == 0)
    queue.put("this", "ann", "", wait_s)
    assert not let_pass or (queue.take(wait_s), queue.crowded) == (["this"], False)


CALLS = st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("xy")), max_size=40)


@given(CALLS, st.integers(1, 5), st.sampled_from([0.0, 2.0]))
def test_each_call_goes_once_with_its_like_and_each_clients_stay_in_order(
    calls: list[tuple[str, str]], size: int, wait_s: float
) -> None:
    queue: BatchQueue[int] = BatchQueue(size, wait_s, capacity=100)
    for number, (client, bucket) in enumerate(calls):
        queue.put(number, client, bucket, float(number))
    found: list[list[int]] = []
    while (due_s := queue.due_s()) is not None:
        found.append(queue.take(due_s))
    assert sorted(number for batch in found for number in batch) == [*range(len(calls))]
    assert all(0 < len(batch) <= size for batch in found)
    assert all(len({calls[number][1] for number in batch}) == 1 for batch in found)
    for kind in set(calls):
        order = [number for batch in found for number in batch if calls[number] == kind]
        assert order == sorted(order)


class Model:
    """Takes a second a batch, and remembers them."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    async def double(self, x: list[Any]) -> list[Any]:
        self.batches.append(x)
        await asyncio.sleep(1)
        return [ValueError("odd one") if each == 13 else 2 * each for each in x]


def a_batcher(handler: Callable[..., Any], **more: Any) -> Batcher:
    options = {"size": 8, "wait_s": 0.0, "capacity": 100, **more}
    queue: BatchQueue[Any] = BatchQueue(options["size"], options["wait_s"], options["capacity"])
    return Batcher(handler, queue, Threads(1, "test"), 1)


def call(batcher: Batcher, x: Any, client: str = "ann") -> "asyncio.Task[Any]":
    return asyncio.ensure_future(batcher.call({"x": x}, client, lambda result: result))


def test_a_lone_call_takes_no_longer_than_the_model() -> None:
    async def alone() -> tuple[int, float]:
        batcher = a_batcher(Model().double)
        return await call(batcher, 3), asyncio.get_running_loop().time()

    assert virtual_time.run(alone()) == (6, 1)


def test_a_batch_is_what_arrived_while_the_model_was_busy() -> None:
    async def some() -> list[list[Any]]:
        model = Model()
        batcher = a_batcher(model.double)
        first = call(batcher, 1)
        await asyncio.sleep(0.5)
        more = [call(batcher, each) for each in (3, 4, 5)]
        assert await asyncio.gather(first, *more) == [2, 6, 8, 10]
        return model.batches

    assert virtual_time.run(some()) == [[1], [3, 4, 5]]


def test_a_model_that_is_free_starts_at_once_and_for_a_crowd_when_the_loop_has_seen_it() -> None:
    async def some() -> list[list[Any]]:
        model = Model()
        batcher = a_batcher(model.double)
        for calls in ((1, 2, 3), (4, 5)):  # each time they come together, and the model is free
            await asyncio.gather(*[call(batcher, each) for each in calls])
        return model.batches

    assert virtual_time.run(some()) == [[1], [2, 3], [4, 5]]


def test_a_wait_time_gathers_what_comes_within_it() -> None:
    async def some() -> tuple[list[list[Any]], float]:
        model = Model()
        batcher = a_batcher(model.double, wait_s=5.0)
        first = call(batcher, 1)
        await asyncio.sleep(4)
        assert await asyncio.gather(first, call(batcher, 2)) == [2, 4]
        return model.batches, asyncio.get_running_loop().time()

    assert virtual_time.run(some()) == ([[1, 2]], 6)


def test_an_exception_of_one_call_fails_that_call_alone() -> None:
    async def some() -> list[Any]:
        batcher = a_batcher(Model().double)
        calls = [call(batcher, each) for each in (1, 13, 2)]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, failed, last = virtual_time.run(some())
    assert (first, str(failed), last) == (2, "odd one", 4)


async def _too_few(x: list[Any]) -> list[Any]:
    return x[:-1]


async def _raises(x: list[Any]) -> list[Any]:
    raise OSError("no model")


async def _a_text(x: list[Any]) -> Any:
    return "abc"


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (_too_few, "the handler gave 1 results for a batch of 2 calls"),
        (_raises, "no model"),
        (_a_text, "a batched handler gives a list, of one result a call; it gave a str"),
    ],
)
def test_what_fails_as_a_whole_fails_every_call(handler: Any, error: str) -> None:
    async def two() -> list[Any]:
        batcher = a_batcher(handler, wait_s=1.0)
        calls = [call(batcher, 1), call(batcher, 2)]
        return await asyncio.gather(*calls, return_exceptions=True)

    assert [str(failed) for failed in virtual_time.run(two())] == [error] * 2


def test_a_cancelled_call_does_not_reach_the_model() -> None:
    async def some() -> list[list[Any]]:
        model = Model()
        batcher = a_batcher(model.double)
        first = call(batcher, 1)
        await asyncio.sleep(0.5)
        second, third = call(batcher, 2), call(batcher, 3)
        await asyncio.sleep(0.1)
        second.cancel()
        assert await asyncio.gather(first, third) == [2, 6]
        return model.batches

    assert virtual_time.run(some()) == [[1], [3]]


def test_more_calls_than_may_wait_are_turned_away() -> None:
    async def some() -> list[Any]:
        batcher = a_batcher(Model().double, capacity=2)
        running = call(batcher, 1)
        await asyncio.sleep(0.5)
        calls = [call(batcher, each) for each in (2, 3, 4)]
        return await asyncio.gather(running, *calls, return_exceptions=True)

    *answered, refused = virtual_time.run(some())
    assert answered == [2, 4, 6]
    assert isinstance(refused, TooManyRequests)


def test_arrays_of_equal_shape_go_together() -> None:
    shapes: list[tuple[int, ...]] = []

    async def total(x: list[Any]) -> Any:
        shapes.append(np.stack(x).shape)
        return np.stack(x).sum(axis=1)

    async def some() -> list[Any]:
        batcher = a_batcher(total, wait_s=1.0)
        calls = [call(batcher, np.ones(length)) for length in (2, 3, 2)]
        return await asyncio.gather(*calls)

    assert virtual_time.run(some()) == [2, 3, 2]
    assert shapes == [(2, 2), (1, 3)]


def test_a_handler_that_yields_lists_streams_to_each_call() -> None:
    def count(x: list[int]) -> Iterator[list[Any]]:
        for step in range(max(x)):
            yield [step if step < each else None for each in x]

    async def some() -> list[list[int]]:
        batcher = a_batcher(count)
        streams: list[Pieces] = await asyncio.gather(*[call(batcher, each) for each in (1, 3)])
        return [[piece async for piece in stream] for stream in streams]

    assert asyncio.run(some()) == [[0], [0, 1, 2]]


def test_a_stream_that_nobody_takes_any_more_ends_the_handler() -> None:
    closed = asyncio.Event()

    async def for_ever(x: list[int]) -> Any:
        try:
            while True:
                yield x
                await asyncio.sleep(1)
        finally:
            closed.set()

    async def some() -> int:
        batcher = a_batcher(for_ever)
        stream: Pieces = await call(batcher, 7)
        piece: int = await anext(stream)
        await stream.aclose()
        await closed.wait()
        return piece

    assert virtual_time.run(some()) == 7
