"""Calls that no task waits for: they end as those that one awaits, and keep the same bounds."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from leptonai.photon import Batch, HTTPException, Photon, Response
from leptonai.serving import calls as serving_calls
from leptonai.serving.answers import Answer
from leptonai.serving.app import App
from leptonai.serving.calls import TasklessCall
from leptonai.serving.incoming import Received
from leptonai.serving.threads import Call, Threads


class Nobody:
    """A connection."""

    peer = ("10.0.0.7", 1)

    async def gone(self) -> None:
        await asyncio.Event().wait()


class Kinds(Photon):
    def init(self) -> None:
        self.go_on = threading.Event()
        self.ran: list[int] = []

    @Photon.handler
    def plain(self, x: int) -> Any:
        return self._result(x)

    @Photon.handler(max_batch_size=4)
    def batched(self, x: Batch[int]) -> list[Any]:
        return [self._result(each) for each in x]

    @Photon.handler(max_batch_size=4)
    async def batched_on_the_loop(self, x: Batch[int]) -> list[Any]:
        return [self._result(each) for each in x]

    @Photon.handler("got", method="GET")
    def got(self, x: int) -> int:
        return x

    @Photon.handler
    async def on_the_loop(self, x: int) -> int:
        return x

    @Photon.handler
    def counted(self, x: int) -> Iterator[int]:
        yield x

    @Photon.handler(cancel_on_disconnect=True)
    def watched(self, x: int) -> int:
        return x

    @Photon.handler
    def holds(self, x: int) -> int:
        self.ran.append(x)
        self.go_on.wait(10)
        return x

    @Photon.handler(max_batch_size=4)
    def holds_batches(self, x: Batch[int]) -> Batch[int]:
        self.ran += x
        self.go_on.wait(10)
        return x

    def _result(self, x: int) -> Any:
        if x == 13:
            raise HTTPException(418, "this is a teapot")
        if x == 14:
            raise RuntimeError("out of beans")
        return None if x == 0 else {"x": x}


class Impatient(Kinds):
    handler_timeout = 0.05


def a_request(path: str, body: bytes = b"", method: str = "POST", **fields: str) -> Received:
    named = {name.encode(): value.encode() for name, value in fields.items()}
    request = Received(Nobody(), method, path.encode(), named)
    if body:
        request.add(body)
    return request


def begin(
    app: App, request: Received
) -> "tuple[TasklessCall | None, asyncio.Future[tuple[Any, BaseException | None]]]":
    told: asyncio.Future[tuple[Any, BaseException | None]] = asyncio.Future()

    def tell(result: Any, error: BaseException | None) -> None:
        assert not told.done(), "it ended twice"
        told.set_result((result, error))

    call = app.begin(request, time.perf_counter(), tell)
    assert not told.done(), "it ended before it was known to have begun"
    return call, told


def in_app(use: Callable[[App, Kinds], Coroutine[Any, Any, Any]], kind: type[Kinds] = Kinds) -> Any:
    async def run() -> Any:
        photon = kind()
        app = App(photon)
        await app.init()
        try:
            return await use(app, photon)
        finally:
            photon.go_on.set()

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["/plain", "/batched", "/batched_on_the_loop"])
@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"x":1}', {}),
        (b'{"x":1}', {"origin": "http://pages"}),
        (b'{"x":1}', {"accept": "application/msgpack"}),
        (b'{"x":0}', {}),
        (b'{"x":13}', {}),
        (b'{"x":14}', {}),
        (b'{"x":"one"}', {}),
        (b"{", {}),
    ],
)
def test_it_is_answered_as_one_that_a_task_awaits(
    path: str, body: bytes, fields: dict[str, str]
) -> None:
    async def both(app: App, _: Kinds) -> tuple[Any, Any]:
        call, told = begin(app, request := a_request(path, body, **fields))
        assert call is not None
        taskless = app.told(request, *await told)
        return taskless, await app.answer(a_request(path, body, **fields), time.perf_counter())

    taskless, awaited = in_app(both)
    assert taskless == awaited


def test_a_get_takes_its_arguments_from_the_query() -> None:
    async def one(app: App, _: Kinds) -> Any:
        _, told = begin(app, a_request("/got?x=7", method="GET"))
        return await told

    assert in_app(one) == (Answer(200, b"7"), None)


@pytest.mark.parametrize("path", ["/on_the_loop", "/counted", "/watched", "/nowhere", "/healthz"])
def test_what_waits_for_more_than_a_result_needs_a_task(path: str) -> None:
    async def one(app: App, _: Kinds) -> Any:
        return begin(app, a_request(path, b'{"x":1}'))[0]

    assert in_app(one) is None


def test_before_init_and_without_the_token_it_needs_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    async def before() -> Any:
        return begin(App(Kinds()), a_request("/plain", b'{"x":1}'))[0]

    async def without(app: App, _: Kinds) -> list[bool]:
        right = a_request("/plain", b'{"x":1}', authorization="Bearer secret")
        wrong = a_request("/plain", b'{"x":1}', authorization="Bearer guess")
        return [begin(app, request)[0] is not None for request in (right, wrong)]

    assert asyncio.run(before()) is None
    monkeypatch.setenv("LEPTON_LOCAL_DEPLOYMENT_TOKEN", "secret")
    assert in_app(without) == [True, False]


@pytest.mark.parametrize("path", ["/holds", "/holds_batches"])
def test_one_that_is_late_is_given_up_and_does_not_run_any_more(path: str) -> None:
    async def two(app: App, photon: Kinds) -> Any:
        calls = [begin(app, a_request(path, b'{"x":%d}' % x))[1] for x in (1, 2)]
        errors = [error for _, error in await asyncio.gather(*calls)]
        photon.go_on.set()
        await begin(app, a_request(path, b'{"x":3}'))[1]  # the thread is free again
        return errors, photon.ran, app.waiting

    errors, ran, left = in_app(two, Impatient)
    assert [str(error) for error in errors] == ["504: handler timeout after 0.05 seconds"] * 2
    assert (2 in ran, left) == (False, 0)


@pytest.mark.parametrize("path", ["/holds", "/holds_batches"])
def test_one_that_is_cancelled_says_so_and_does_not_run_any_more(path: str) -> None:
    async def two(app: App, photon: Kinds) -> Any:
        _, first = begin(app, a_request(path, b'{"x":1}'))
        call, second = begin(app, a_request(path, b'{"x":2}'))
        assert call is not None
        call.cancel("the server ends")
        assert not second.done()
        _, error = await second
        photon.go_on.set()
        await first
        call.cancel()  # once more, of one that is over
        await asyncio.sleep(0)
        return type(error), photon.ran, app.waiting

    assert in_app(two) == (asyncio.CancelledError, [1], 0)


def test_calls_beyond_the_bound_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_calls, "MAX_QUEUE", 2)

    async def three(app: App, photon: Kinds) -> list[int]:
        asked = [a_request("/holds", b'{"x":%d}' % x) for x in (1, 2, 3)]
        told = [begin(app, request)[1] for request in asked]
        refused = app.told(asked[2], *await told[2])
        photon.go_on.set()
        return [app.told(asked[0], *await told[0]).status, refused.status]

    assert in_app(three) == [200, 429]


def test_a_result_that_sends_itself_or_comes_in_pieces_goes_on_in_a_task() -> None:
    class Odd(Photon):
        @Photon.handler
        def own(self) -> Any:
            return Response(b"abc")

        @Photon.handler
        def pieces(self) -> Any:
            return iter(["a", "b"])

        @Photon.handler
        def broken(self) -> Any:
            return (1 // nothing for nothing in [0])

    async def run() -> list[Any]:
        app = App(Odd())
        await app.init()
        found = []
        for path in ("/own", "/pieces", "/broken"):
            began_s = time.perf_counter()
            _, told = begin(app, request := a_request(path))
            found.append(await app.begun(app.told(request, *await told), request, began_s))
        return [*found, app.waiting]

    own, pieces, broken, left = asyncio.run(run())
    assert type(own).__name__ == "Response"
    assert type(pieces).__name__ == "Stream"
    assert (broken.status, left) == (500, 0)


def test_work_is_done_in_the_order_in_which_it_was_asked_for() -> None:
    done: list[int] = []

    async def some() -> None:
        threads = Threads(1, "test")
        hold = threading.Event()
        first = threads.run(hold.wait, 10)
        for x in range(3):
            threads.submit_soon(Call(lambda x: done.append(x), {"x": x}, str, lambda *_: None))
        last = threads.run(done.append, 3)
        hold.set()
        await asyncio.gather(first, last)
        threads.stop()

    asyncio.run(some())
    assert done == [0, 1, 2, 3]
