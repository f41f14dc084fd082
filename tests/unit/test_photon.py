"""A Photon, asked over HTTP without a network."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from msgspec import Struct

from leptonai.photon import HTTPException, Photon
from leptonai.serving import bodies as serving_bodies
from leptonai.serving import calls as serving_calls
from leptonai.serving.app import App


class Point(Struct):
    x: int
    y: int = 0


class Counter(Photon):
    """Counts."""

    def init(self) -> None:
        self.count = 0

    @Photon.handler(example={"amount": 3})
    def add(self, amount: int, times: int = 1) -> int:
        """Add to the count."""
        self.count += amount * times
        return self.count

    @Photon.handler("points/mirror")
    async def mirror(self, points: list[Point]) -> list[Point]:
        return [Point(-point.x, -point.y) for point in points]

    @Photon.handler("greet/{name}", method="GET")
    def greet(self, name: str, loud: bool = False, marks: list[str] = []) -> str:  # noqa: B006
        return (name.upper() if loud else name) + "".join(marks)

    @Photon.handler
    def reset(self) -> None:
        self.count = 0

    @Photon.handler
    def refuse(self) -> None:
        raise HTTPException(418, "this is a teapot")

    @Photon.handler
    def fail(self) -> None:
        raise RuntimeError("out of beans")


def talk(photon: Photon, say: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Let `say` use a client of the photon, and return what it returns."""

    async def run() -> Any:
        transport = httpx.ASGITransport(App(photon), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://photon") as client:
            return await say(client)

    return asyncio.run(run())


def without_detail(body: Any) -> Any:
    """An error as we say it, without what clients of FastAPI read."""
    if isinstance(body, dict) and "error" in body:
        body.pop("detail", None)
    return body


def ask(photon: Photon, path: str, json: Any = None, **more: Any) -> tuple[int, Any]:
    """The status and the JSON of the answer to one POST, or GET where there is no body."""

    async def one(client: httpx.AsyncClient) -> tuple[int, Any]:
        if json is None and not more:
            answer = await client.get(path)
        else:
            answer = await client.post(path, json=json, **more)
        return answer.status_code, without_detail(answer.json() if answer.content else None)

    return talk(photon, one)


def test_a_handler_answers_its_result_as_json() -> None:
    assert ask(Counter(), "/add", {"amount": 2, "times": 3}) == (200, 6)


def test_arguments_and_results_may_be_structured() -> None:
    answer = ask(Counter(), "/points/mirror", {"points": [{"x": 1, "y": 2}, {"x": 3}]})
    assert answer == (200, [{"x": -1, "y": -2}, {"x": -3, "y": 0}])


def test_a_get_handler_takes_its_arguments_from_the_path_and_the_query() -> None:
    assert ask(Counter(), "/greet/ann") == (200, "ann")
    assert ask(Counter(), "/greet/ann?loud=true&marks=!&marks=?") == (200, "ANN!?")


def test_none_is_answered_as_no_content() -> None:
    assert ask(Counter(), "/reset", {}) == (204, None)


def test_a_body_may_be_left_out_where_nothing_is_required() -> None:
    assert ask(Counter(), "/reset", content=b"") == (204, None)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"amount": "two"}, "amount: expected `int`, got `str`"),
        ({"amount": 1.5}, "amount: expected `int`, got `float`"),
        ({}, "Object missing required field `amount`"),
        ({"amount": 1, "amuont": 2}, "Object contains unknown field `amuont`"),
        ([1], "Expected `object`, got `array`"),
    ],
)
def test_wrong_input_is_422_and_names_the_field(body: Any, error: str) -> None:
    assert ask(Counter(), "/add", body) == (422, {"error": error})


def test_an_error_inside_a_list_says_where() -> None:
    status, body = ask(Counter(), "/points/mirror", {"points": [{"x": 1}, {"x": "a"}]})
    assert (status, body) == (422, {"error": "points[1].x: expected `int`, got `str`"})


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"amount": 1e999}', b"{} trailing"])
def test_a_body_that_is_not_json_is_422(body: bytes) -> None:
    status, answer = ask(Counter(), "/add", content=body)
    assert (status, [*answer]) == (422, ["error"])


def test_clients_of_fastapi_find_their_details_in_a_422() -> None:
    async def post(client: httpx.AsyncClient) -> Any:
        return (await client.post("/points/mirror", json={"points": [{"x": "a"}]})).json()["detail"]

    assert talk(Counter(), post) == [
        {
            "loc": ["body", "points", 0, "x"],
            "msg": "expected `int`, got `str`",
            "type": "value_error",
        }
    ]


def test_an_http_exception_answers_its_status_and_detail() -> None:
    assert ask(Counter(), "/refuse", {}) == (418, {"error": "this is a teapot"})


def test_any_other_exception_is_500_and_its_traceback_goes_to_the_log_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert ask(Counter(), "/fail", {}) == (500, {"error": "out of beans"})
    (record,) = caplog.records
    assert record.exc_info and record.exc_info[0] is RuntimeError


def test_an_unknown_path_is_404_and_a_wrong_method_405() -> None:
    assert ask(Counter(), "/nowhere")[0] == 404
    assert ask(Counter(), "/add") == (
        405,
        {"error": "/add does not answer GET; it answers POST"},
    )


def test_a_body_over_the_limit_is_413(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_bodies, "MAX_BODY_BYTES", 20)
    too_long = b'{"amount": 1' + b" " * 20 + b"}"

    async def chunks() -> Any:
        yield too_long[:10]
        yield too_long[10:]

    assert ask(Counter(), "/add", content=too_long)[0] == 413
    assert ask(Counter(), "/add", content=chunks())[0] == 413


def test_init_runs_once_before_the_first_call_however_many_come_at_once() -> None:
    class Slow(Photon):
        inits = 0

        def init(self) -> None:
            self.inits += 1

        @Photon.handler
        def count(self) -> int:
            return self.inits

    async def many(client: httpx.AsyncClient) -> list[int]:
        answers = await asyncio.gather(*(client.post("/count") for _ in range(10)))
        return [answer.json() for answer in answers]

    photon = Slow()
    assert photon.inits == 0
    assert talk(photon, many) == [1] * 10


def test_every_call_fails_when_init_does() -> None:
    class Broken(Photon):
        def init(self) -> None:
            raise OSError("no weights")

        @Photon.handler
        def call(self) -> int:
            return 1

    async def twice(client: httpx.AsyncClient) -> list[int]:
        return [(await client.post("/call")).status_code for _ in range(2)]

    assert talk(Broken(), twice) == [500, 500]


class Rendezvous(Photon):
    """Its handler returns how many calls were inside at once, at most."""

    def init(self) -> None:
        self.lock = threading.Lock()
        self.inside = self.most = 0
        self.enough = threading.Event()

    @Photon.handler
    def meet(self) -> int:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside == 3:
                self.enough.set()
        self.enough.wait(timeout=self.patience_s)
        with self.lock:
            self.inside -= 1
        return self.most

    patience_s = 0.01


class RendezvousOfThree(Rendezvous):
    handler_max_concurrency = 3
    patience_s = 10


async def _meet_five_times(client: httpx.AsyncClient) -> int:
    answers = await asyncio.gather(*(client.post("/meet") for _ in range(5)))
    return max(answer.json() for answer in answers)


def test_sync_handlers_exclude_each_other_by_default() -> None:
    assert talk(Rendezvous(), _meet_five_times) == 1


def test_as_many_sync_handlers_run_at_once_as_the_class_allows() -> None:
    async def three_calls(client: httpx.AsyncClient) -> int:
        answers = await asyncio.gather(*(client.post("/meet") for _ in range(3)))
        return max(answer.json() for answer in answers)

    assert talk(RendezvousOfThree(), three_calls) == 3


def test_calls_beyond_the_bound_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_calls, "MAX_QUEUE", 2)

    class Held(Photon):
        held = 0

        @Photon.handler
        async def hold(self) -> int:
            self.held += 1
            if self.held == 2:
                both_held.set()
            await release.wait()
            return 1

    both_held, release = asyncio.Event(), asyncio.Event()

    async def three(client: httpx.AsyncClient) -> tuple[int, list[tuple[int, str | None]]]:
        held = [asyncio.ensure_future(client.post("/hold")) for _ in range(2)]
        await both_held.wait()
        waiting = (await client.get("/queue-length")).json()
        turned_away = await client.post("/hold")
        release.set()
        answers = [*await asyncio.gather(*held), turned_away]
        statuses = [(answer.status_code, answer.headers.get("retry-after")) for answer in answers]
        return waiting, statuses

    assert talk(Held(), three) == (2, [(200, None), (200, None), (429, "1")])


class Doubler(Counter):
    reset = None  # type: ignore[assignment]

    @Photon.handler(example={"amount": 3})
    def add(self, amount: int, times: int = 2) -> int:
        return amount * times

    def fail(self) -> None:
        return None

    @Photon.handler("refuse")
    def accept(self) -> str:
        return "welcome"


def test_handlers_are_inherited_and_the_child_wins() -> None:
    assert ask(Doubler(), "/add", {"amount": 2}) == (200, 4)
    assert ask(Doubler(), "/points/mirror", {"points": []}) == (200, [])
    assert ask(Doubler(), "/fail", {}) == (204, None)
    assert ask(Doubler(), "/refuse", {}) == (200, "welcome")
    assert ask(Doubler(), "/reset", {})[0] == 404


def test_two_handlers_of_one_class_cannot_share_a_path() -> None:
    class Twice(Photon):
        @Photon.handler("same")
        def one(self) -> int:
            return 1

        @Photon.handler("/same/")
        def two(self) -> int:
            return 2

    with pytest.raises(TypeError, match="Twice: one and two both answer POST /same"):
        App(Twice())


def test_a_signature_that_no_request_can_fill_is_refused_at_the_start() -> None:
    class Greedy(Photon):
        @Photon.handler
        def take(self, *everything: int) -> int:
            return 1

    class Opaque(Photon):
        @Photon.handler
        def take(self, thing: threading.Event) -> int:
            return 1

    with pytest.raises(TypeError, match=r"Greedy\.take cannot be served: \*everything"):
        App(Greedy())
    with pytest.raises(TypeError, match=r"POST /take takes what cannot come as JSON"):
        App(Opaque())


class Open(Photon):
    @Photon.handler
    def take(self, x: int, **more: int) -> dict[str, int]:
        return {"x": x, **more}

    @Photon.handler("look/{x}", method="GET")
    def look(self, x: int, **more: int) -> dict[str, int]:
        return {"x": x, **more}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"x": 1}, (200, {"x": 1})),
        ({"x": 1, "y": 2}, (200, {"x": 1, "y": 2})),
        ({"y": 2}, (422, {"error": "Object missing required field `x`"})),
        ({"x": 1, "y": "2"}, (422, {"error": "y: expected `int`, got `str`"})),
        ({"x": 1, "self": 2}, (422, {"error": "self: an argument cannot be called so"})),
    ],
)
def test_a_handler_of_any_arguments_gets_those_that_come(body: Any, answer: Any) -> None:
    assert ask(Open(), "/take", body) == answer


def test_arguments_of_any_name_come_in_a_query_too() -> None:
    assert ask(Open(), "/look/1?y=2") == (200, {"x": 1, "y": 2})
    document = ask(Open(), "/openapi.json")[1]
    assert "additionalProperties" not in document["components"]["schemas"]["Open_takePostInput"]


def test_a_batch_has_no_arguments_of_any_name() -> None:
    class Both(Photon):
        @Photon.handler(max_batch_size=2)
        def take(self, **more: int) -> list[int]:
            return []

    with pytest.raises(TypeError, match="a batch has the same arguments for each call"):
        App(Both())


def test_handlers_stay_plain_methods() -> None:
    counter = Counter()
    counter.init()
    assert (counter.add(2), counter.add(amount=3)) == (2, 5)


def test_arrays_are_answered_as_lists() -> None:
    import numpy as np

    class Arrays(Photon):
        @Photon.handler
        def ones(self) -> dict[str, Any]:
            return {"array": np.ones((2, 2)), "number": np.float32(0.5)}

    assert ask(Arrays(), "/ones", {}) == (200, {"array": [[1, 1], [1, 1]], "number": 0.5})


@pytest.mark.parametrize("path", ["/healthz", "/livez"])
def test_it_says_that_it_is_well(path: str) -> None:
    assert ask(Counter(), path) == (200, {"status": "ok"})


def test_a_handler_of_a_path_that_every_photon_has_wins() -> None:
    class Frank(Photon):
        @Photon.handler("healthz", method="GET")
        def health(self) -> str:
            return "not so well"

    assert ask(Frank(), "/healthz") == (200, "not so well")


def test_metrics_count_requests_by_handler_method_and_status() -> None:
    async def some(client: httpx.AsyncClient) -> str:
        await client.post("/add", json={"amount": 1})
        await client.post("/add", json={"amount": "x"})
        await client.get("/greet/ann")
        await client.get("/no/such/path")
        await client.request("BREW", "/no/such/path")
        return (await client.get("/metrics")).text

    lines = talk(Counter(), some).splitlines()
    assert [line for line in lines if line.startswith("http_requests_total")] == [
        'http_requests_total{handler="/add",method="POST",status="200"} 1',
        'http_requests_total{handler="/add",method="POST",status="422"} 1',
        'http_requests_total{handler="/greet/{name}",method="GET",status="200"} 1',
        'http_requests_total{handler="none",method="GET",status="404"} 1',
        'http_requests_total{handler="none",method="other",status="404"} 1',
    ]
    of_add = 'http_request_duration_seconds_bucket{handler="/add",method="POST",le="+Inf"} 2'
    assert of_add in lines


def test_the_openapi_document_describes_every_handler() -> None:
    status, document = ask(Counter(), "/openapi.json")
    assert status == 200
    assert (document["openapi"], document["info"]["title"]) == ("3.1.0", "Counter")
    assert {path: [*methods] for path, methods in document["paths"].items()} == {
        "/add": ["post"],
        "/points/mirror": ["post"],
        "/greet/{name}": ["get"],
        "/reset": ["post"],
        "/refuse": ["post"],
        "/fail": ["post"],
    }
    schemas = document["components"]["schemas"]
    assert schemas["Counter_addPostInput"] == {
        "title": "Counter_addPostInput",
        "type": "object",
        "properties": {"amount": {"type": "integer"}, "times": {"type": "integer", "default": 1}},
        "required": ["amount"],
        "additionalProperties": False,
    }
    assert schemas["Counter_points_mirrorPostOutput"] == {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Point"},
    }
    add = document["paths"]["/add"]["post"]
    assert add["description"] == "Add to the count."
    assert add["requestBody"]["content"]["application/json"] == {
        "schema": {"$ref": "#/components/schemas/Counter_addPostInput"},
        "example": {"amount": 3},
    }
    greet = document["paths"]["/greet/{name}"]["get"]
    assert [(p["name"], p["in"], p["required"]) for p in greet["parameters"]] == [
        ("name", "path", True),
        ("loud", "query", False),
        ("marks", "query", False),
    ]
    assert [*document["paths"]["/reset"]["post"]["responses"]] == ["204", "422"]


@pytest.mark.parametrize("method", ["PUT", "get"])
def test_a_handler_with_another_method_is_refused(method: Any) -> None:
    with pytest.raises(ValueError, match=f"method={method!r}"):

        @Photon.handler(method=method)
        def handler() -> None: ...
