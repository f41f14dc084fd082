"""What else a Photon takes and answers: streams, files, mounts, tensors, and its bounds."""

import asyncio
import base64
import gzip
import io
import json
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save
from tests.unit.test_photon import ask, talk

from leptonai.errors import InvalidRequest
from leptonai.photon import (
    Batch,
    File,
    FileParam,
    HTTPException,
    Photon,
    PNGResponse,
    StaticFiles,
    StreamingResponse,
)
from leptonai.serving import inference
from leptonai.serving.app import App

EVENTS = {"accept": "text/event-stream"}


def post(photon: Photon, path: str, **request: Any) -> httpx.Response:
    async def one(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(path, **request)

    answer: httpx.Response = talk(photon, one)
    return answer


def get(photon: Photon, path: str, **request: Any) -> httpx.Response:
    async def one(client: httpx.AsyncClient) -> httpx.Response:
        return await client.get(path, **request)

    answer: httpx.Response = talk(photon, one)
    return answer


class Teller(Photon):
    @Photon.handler
    def count(self, to: int) -> Iterator[dict[str, int]]:
        for number in range(to):
            yield {"n": number}

    @Photon.handler
    async def words(self) -> AsyncIterator[str]:
        for word in ("one\n", "two"):
            yield word

    @Photon.handler
    def breaks(self, after: int) -> Iterator[str]:
        for _ in range(after):
            yield "fine"
        raise HTTPException(409, "no more")

    @Photon.handler(max_batch_size=4)
    def together(self, to: Batch[int]) -> Iterator[list[int | None]]:
        for number in range(max(to)):
            yield [number if number < each else None for each in to]


def test_what_yields_is_answered_piece_by_piece() -> None:
    counted = post(Teller(), "/count", json={"to": 2})
    assert (counted.headers["content-type"], counted.text) == (
        "application/x-ndjson",
        '{"n":0}\n{"n":1}\n',
    )
    assert post(Teller(), "/words").text == "one\ntwo"
    assert post(Teller(), "/together", json={"to": 3}).text == "0\n1\n2\n"


def test_a_client_that_accepts_events_gets_events() -> None:
    counted = post(Teller(), "/count", json={"to": 2}, headers=EVENTS)
    assert counted.headers["content-type"] == "text/event-stream"
    assert counted.text == 'data: {"n":0}\n\ndata: {"n":1}\n\n'
    words = post(Teller(), "/words", headers=EVENTS)
    assert words.text == "data: one\ndata: \n\ndata: two\n\n"


def test_a_stream_that_fails_says_so_where_it_still_can() -> None:
    assert ask(Teller(), "/breaks", {"after": 0}) == (409, {"error": "no more"})
    broken = post(Teller(), "/breaks", json={"after": 1}, headers=EVENTS)
    assert broken.text == 'data: fine\n\nevent: error\ndata: {"error":"no more"}\n\n'


class Painter(Photon):
    @Photon.handler
    def image(self) -> PNGResponse:
        return PNGResponse(io.BytesIO(b"\x89PNG..."))

    @Photon.handler
    def text(self) -> StreamingResponse:
        pieces = (piece for piece in ("a", "b"))
        return StreamingResponse(pieces, 201, {"X-Mine": "yes"}, media_type="text/plain")

    @Photon.handler
    def foreign(self) -> Any:
        from starlette.responses import HTMLResponse

        return HTMLResponse("<b>hello</b>")


def test_responses_are_sent_as_they_are() -> None:
    image = post(Painter(), "/image")
    assert (image.headers["content-type"], image.content) == ("image/png", b"\x89PNG...")
    text = post(Painter(), "/text")
    assert (text.status_code, text.headers["x-mine"], text.text) == (201, "yes", "ab")
    assert post(Painter(), "/foreign").text == "<b>hello</b>"


class Filer(Photon):
    @Photon.handler
    def size(self, file: File) -> int:
        return len(file.get_content())

    @Photon.handler
    def old(self, file: FileParam) -> int:
        return len(file.file.read())

    @Photon.handler
    def give(self) -> File:
        return File(b"abc")


THREE = base64.b64encode(b"abc").decode()


@pytest.mark.parametrize("content", [f"data:image/png;base64,{THREE}", f"encoded:{THREE}"])
def test_a_file_comes_as_base64_in_an_object(content: str) -> None:
    assert ask(Filer(), "/size", {"file": {"content": content}}) == (200, 3)


def test_files_go_both_ways_and_wrong_ones_are_422() -> None:
    assert ask(Filer(), "/old", {"file": {"content": f"encoded:{THREE}"}}) == (200, 3)
    octets = "data:application/octet-stream;base64,"
    assert ask(Filer(), "/give", {}) == (200, {"content": octets + THREE})
    wrong = {"file": {"content": "/etc/passwd"}}
    assert ask(Filer(), "/size", wrong) == (
        422, {"error": "file: expected a URL, or data:…;base64,…"},
    )  # fmt: skip


def test_a_strangers_url_does_not_lead_into_the_private_network() -> None:
    with pytest.raises(InvalidRequest, match=r"is not a public address|refused"):
        File("http://127.0.0.1:9/secret").get_content()
    with pytest.raises(ValueError, match="expected a URL"):
        File("file:///etc/passwd")


def test_a_url_that_cannot_be_fetched_is_its_senders_mistake() -> None:
    status, told = ask(Filer(), "/size", {"file": {"content": "http://127.0.0.1:9/secret"}})
    assert status == 422
    assert told["error"].startswith("http://127.0.0.1:9/secret cannot be fetched: ")


class Slow(Photon):
    handler_timeout = 0.05

    def init(self) -> None:
        self.release = threading.Event()

    @Photon.handler
    async def waits(self) -> int:
        await asyncio.sleep(60)
        return 1

    @Photon.handler
    def blocks(self) -> int:
        self.release.wait(60)
        return 1


def test_a_call_that_takes_too_long_is_504() -> None:
    late = (504, {"error": "handler timeout after 0.05 seconds"})
    assert ask(Slow(), "/waits", {}) == late
    slow = Slow()
    assert ask(slow, "/blocks", {}) == late
    slow.release.set()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    told = f"{scope['root_path']} {scope['path']}".encode()
    await send({"type": "http.response.body", "body": told})


class Inner(Photon):
    def init(self) -> None:
        self.greeting = "hello"

    @Photon.handler("greet/{name}", method="GET")
    def greet(self, name: str) -> str:
        return f"{self.greeting} {name}"


class Outer(Photon):
    folder = Path()

    @Photon.handler(mount=True)
    def asgi(self) -> Any:
        return asgi

    @Photon.handler(mount=True)
    def static(self) -> Any:
        return StaticFiles(directory=self.folder)

    @Photon.handler("in/side", mount=True)
    def inner(self) -> Any:
        return Inner()

    @Photon.handler(mount=True)
    def wsgi(self) -> Any:
        def application(environ: Any, start_response: Any) -> Any:
            start_response("200 OK", [("content-type", "text/plain")])
            return [f"{environ['SCRIPT_NAME']} {environ['PATH_INFO']}".encode()]

        return application

    @Photon.handler("asgi/own", method="GET")
    def own(self) -> str:
        return "mine"


def test_other_applications_are_served_under_a_path(tmp_path: Path) -> None:
    pytest.importorskip("a2wsgi")
    (tmp_path / "page.txt").write_text("a page")
    outer = Outer()
    outer.folder = tmp_path
    assert get(outer, "/asgi/x/y").text == "/asgi /asgi/x/y"
    assert get(outer, "/static/page.txt").text == "a page"
    assert get(outer, "/static/no.txt").status_code == 404
    assert get(outer, "/in/side/greet/ann").json() == "hello ann"
    assert get(outer, "/wsgi/a").text == "/wsgi /a"
    assert get(outer, "/asgi/own").json() == "mine"  # a handler wins


def test_a_mounted_photon_is_in_the_document_of_the_outer_one(tmp_path: Path) -> None:
    async def both(client: httpx.AsyncClient) -> Any:
        await client.get("/in/side/greet/ann")
        return (await client.get("/openapi.json")).json()

    pytest.importorskip("a2wsgi")
    outer = Outer()
    outer.folder = tmp_path
    document = talk(outer, both)
    assert [*document["paths"]] == ["/asgi/own", "/in/side/greet/{name}"]


class Raw(Photon):
    @Photon.handler(use_raw_args=True)
    async def length(self, request: Any) -> dict[str, Any]:
        return {"length": len(await request.body()), "query": dict(request.query_params)}

    @Photon.handler(raw=True)
    def backwards(self, body: bytes) -> str:
        return body[::-1].decode()


def test_a_handler_may_take_the_request_itself() -> None:
    answer = post(Raw(), "/length?a=1", content=b"12345")
    assert answer.json() == {"length": 5, "query": {"a": "1"}}
    assert post(Raw(), "/backwards", content=b"abc").json() == "cba"


def test_a_call_whose_client_hangs_up_is_cancelled_where_that_is_asked_for() -> None:
    cancelled = asyncio.Event()

    class Patient(Photon):
        @Photon.handler(cancel_on_disconnect=0.5)
        async def wait(self) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

    async def hang_up() -> list[Any]:
        messages = iter([{"type": "http.request", "body": b""}, {"type": "http.disconnect"}])
        sent: list[Any] = []

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/wait",
            "query_string": b"",
            "headers": [],
        }
        await App(Patient())(scope, receive, send)
        await asyncio.wait_for(cancelled.wait(), 10)
        return sent

    assert asyncio.run(hang_up()) == []


def test_background_tasks_do_not_hold_up_the_answer() -> None:
    done = threading.Event()
    release = threading.Event()

    class Busy(Photon):
        @Photon.handler
        def start(self) -> str:
            self.add_background_task(self.work, 2, times=3)
            return "started"

        async def work(self, number: int, times: int) -> None:
            release.wait(10)
            self.result = number * times
            done.set()

    busy = Busy()
    assert ask(busy, "/start", {}) == (200, "started")
    release.set()
    assert done.wait(10)
    assert busy.result == 6


def test_a_local_deployment_token_closes_everything_but_health(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEPTON_LOCAL_DEPLOYMENT_TOKEN", "s3cret")
    photon = Inner()
    assert get(photon, "/greet/ann").status_code == 403
    assert get(photon, "/openapi.json").status_code == 403
    assert get(photon, "/healthz").status_code == 200
    right = {"authorization": "Bearer s3cret"}
    assert get(photon, "/greet/ann", headers=right).json() == "hello ann"


def test_pages_of_the_allowed_origins_may_read_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"origin": "https://page.example"}
    allowed = "access-control-allow-origin"
    assert get(Inner(), "/greet/ann", headers=page).headers[allowed] == "*"
    assert allowed not in get(Inner(), "/greet/ann").headers
    monkeypatch.setenv("LEPTON_ALLOW_ORIGINS", "https://other.example")
    assert allowed not in get(Inner(), "/greet/ann", headers=page).headers


def test_a_person_who_is_lost_finds_the_documentation_and_a_program_404() -> None:
    lost = get(Inner(), "/no/where", headers={"accept": "text/html"})
    assert (lost.status_code, lost.headers["location"]) == (307, "../docs")
    assert get(Inner(), "/no/where").status_code == 404
    page = get(Inner(), "/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "openapi.json" in page.text and "http" not in page.text.replace("http-equiv", "")


class Sums(Photon):
    @Photon.handler
    def add(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> Any:
        return {"sum": a + b}

    @Photon.handler(max_batch_size=8)
    def double(self, x: Batch[NDArray[np.int64]]) -> Batch[Any]:
        return [2 * each for each in x]


def as_npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_arrays_come_as_json_msgpack_npy_or_safetensors_and_go_as_they_are_asked_for() -> None:
    a, b = np.array([1, 2], np.float32), np.array([3, 4], np.float32)
    assert ask(Sums(), "/add", {"a": [1, 2], "b": [3, 4]}) == (200, {"sum": [4, 6]})
    packed = post(
        Sums(),
        "/add",
        content=msgspec.msgpack.encode({"a": [1, 2], "b": [3, 4]}),
        headers={"content-type": "application/msgpack", "accept": "application/msgpack"},
    )
    assert msgspec.msgpack.decode(packed.content) == {"sum": [4, 6]}
    tensors = post(
        Sums(),
        "/add",
        content=save({"a": a, "b": b}),
        headers={
            "content-type": "application/x-safetensors",
            "accept": "application/x-safetensors",
        },
    )
    np.testing.assert_array_equal(load(tensors.content)["sum"], a + b)
    doubled = post(
        Sums(),
        "/double",
        content=as_npy(np.array([[1, 2]])),
        headers={"content-type": "application/x-npy", "accept": "application/x-npy"},
    )
    np.testing.assert_array_equal(np.load(io.BytesIO(doubled.content)), [[2, 4]])


@pytest.mark.parametrize(
    ("content", "kind", "error"),
    [
        (
            b'{"a": [1, [2]], "b": [1]}',
            "json",
            "a: expected an array, got lists of differing",
        ),
        (b'{"a": ["x"], "b": [1]}', "json", "a: expected an array of numbers, got others"),
        (b"garbage", "x-npy", "the body is not application/x-npy"),
        (b"garbage", "x-safetensors", "the body is not application/x-safetensors"),
        (as_npy(np.ones(2)), "x-npy", "one array in application/x-npy fills one argument"),
        (b"\xc1", "msgpack", "the body is not application/msgpack"),
    ],
)
def test_bodies_that_are_no_arrays_are_422(content: bytes, kind: str, error: str) -> None:
    answer = post(Sums(), "/add", content=content, headers={"content-type": f"application/{kind}"})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(error)


def test_pickled_arrays_are_refused() -> None:
    content = as_npy(np.array([{}], dtype=object))
    headers = {"content-type": "application/x-npy"}
    assert post(Sums(), "/double", content=content, headers=headers).status_code == 422


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/add", b'{"a": %s}'),
        ("/v2/models/add/infer", b'{"inputs": [%s]}'),
        (
            "/v2/models/add/infer",
            b'{"inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "data": %s}]}',
        ),
    ],
)
def test_a_body_that_is_too_deep_is_the_callers_mistake(path: str, content: bytes) -> None:
    answer = post(Sums(), path, content=content % (b"[" * 100_000 + b"]" * 100_000))
    assert answer.status_code == 422, answer.text


INFER = {
    "id": "7",
    "inputs": [
        {"name": "a", "shape": [2], "datatype": "FP32", "data": [1, 2]},
        {"name": "b", "shape": [2], "datatype": "FP32", "data": [3, 4]},
    ],
}


def test_the_open_inference_protocol_in_json() -> None:
    assert get(Sums(), "/v2/health/live").json() == {"live": True}
    assert get(Sums(), "/v2/models/add/ready").status_code == 200
    assert get(Sums(), "/v2/models/nothing/ready").status_code == 404
    assert get(Sums(), "/v2/models/add").json()["inputs"][0] == {
        "name": "a",
        "datatype": "FP32",
        "shape": [-1],
    }
    assert post(Sums(), "/v2/models/add/infer", json=INFER).json() == {
        "model_name": "add",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "sum", "shape": [2], "datatype": "FP32", "data": [4, 6]}],
    }


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5_000, "-1", "x"])
def test_a_head_of_no_possible_length_is_refused(length: str) -> None:
    headers = {"inference-header-content-length": length}
    answer = post(Sums(), "/v2/models/add/infer", json=INFER, headers=headers)
    assert answer.status_code == 422, answer.text


def test_the_open_inference_protocol_with_tensors_as_bytes() -> None:
    x = np.array([[1, 2, 3]], np.int64)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": [1, 3],
                    "datatype": "INT64",
                    "parameters": {"binary_data_size": x.nbytes},
                }
            ],
            "outputs": [{"name": "output", "parameters": {"binary_data": True}}],
        }
    ).encode()
    answer = post(
        Sums(),
        "/v2/models/double/infer",
        content=head + x.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"] == [
        {
            "name": "output",
            "shape": [1, 3],
            "datatype": "INT64",
            "parameters": {"binary_data_size": 24},
        }
    ]
    np.testing.assert_array_equal(np.frombuffer(answer.content[length:], "<i8"), [2, 4, 6])


# As tritonclient 2.73 sends it, for infer("add", …, request_id="r1").
OF_TRITONCLIENT = (
    b'{"id":"r1","inputs":[{"name":"a","shape":[1,2],"datatype":"FP32",'
    b'"parameters":{"binary_data_size":8}},{"name":"b","shape":[1,2],"datatype":"FP32",'
    b'"parameters":{"binary_data_size":8}}],"outputs":[{"name":"sum",'
    b'"parameters":{"binary_data":true}}]}'
    b"\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@"
)


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("identity", bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_a_request_of_tritons_client_is_understood(encoding: str, encode: Any) -> None:
    answer = post(
        Sums(),
        "/v2/models/add/infer",
        content=encode(OF_TRITONCLIENT),
        headers={"Inference-Header-Content-Length": "245", "Content-Encoding": encoding},
    )
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["id"] == "r1"
    np.testing.assert_array_equal(np.frombuffer(answer.content[length:], "<f4"), [4, 6])


def test_a_small_body_that_becomes_a_huge_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MAX_UNPACKED_BYTES", 1000)
    bomb = gzip.compress(b" " * 1_000_000)
    headers = {"Content-Encoding": "gzip"}
    answer = post(Sums(), "/v2/models/add/infer", content=bomb, headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"datatype": "FP31"}, "a: FP31 is not read"),
        ({"shape": [3]}, "a: cannot reshape array"),
        ({"shape": [-2]}, "a: its shape is not one"),
        ({"name": "c"}, "add has no input c; it has a, b"),
        ({"data": ["x", "y"]}, "a: could not convert"),
        ({"parameters": {"binary_data_size": 99}}, "a: binary_data_size is not what follows"),
    ],
)
def test_wrong_tensors_are_named(change: dict[str, Any], error: str) -> None:
    first, second = INFER["inputs"]
    assert isinstance(first, dict)
    answer = post(Sums(), "/v2/models/add/infer", json={"inputs": [{**first, **change}, second]})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(error)


def test_batched_calls_over_http_are_answered_each_with_its_own() -> None:
    async def many(client: httpx.AsyncClient) -> list[Any]:
        calls = [client.post("/double", json={"x": [each]}) for each in range(20)]
        return [answer.json() for answer in await asyncio.gather(*calls)]

    assert talk(Sums(), many) == [[2 * each] for each in range(20)]


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_size": 0},
        {"max_batch_size": True},
        {"max_wait_time": 1.0},
        {"max_batch_size": 2, "mount": True},
        {"max_batch_size": 2, "max_wait_time": -1.0},
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the handler handler"):

        @Photon.handler(**options)
        def handler() -> None: ...
