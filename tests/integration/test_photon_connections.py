"""A photon's own connections, asked byte by byte."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from gateway_world import PATIENCE_S, Wire

from leptonai.serving.bodies import MAX_BODY_BYTES
from leptonai.serving.connection import MAX_PIPELINED
from leptonai.testing.free_ports import a_free_port

PHOTON = """
import asyncio
from leptonai.photon import HTTPException, Photon, Response

async def pages(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        said = await receive()
        await send({"type": "websocket.send", "text": said["text"].upper()})
        return
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%s %d" % (scope["path"].encode(), size)})

class Talker(Photon):
    handler_max_concurrency = 2

    def init(self):
        self.left = 0

    @Photon.handler
    async def echo(self, x: int) -> int:
        return x

    @Photon.handler
    def threaded(self, x: int) -> int:
        return x

    @Photon.handler(max_batch_size=8)
    def batched(self, x: int) -> int:
        return x

    @Photon.handler(method="GET")
    async def nothing(self) -> None:
        return None

    @Photon.handler(method="GET")
    async def large(self) -> str:
        return "x" * 3_000_000

    @Photon.handler(method="GET")
    def counted(self):
        for n in range(3):
            yield f"{n};"

    @Photon.handler(method="GET")
    def breaks(self):
        yield "begun"
        raise RuntimeError("out of beans")

    @Photon.handler(method="GET")
    async def own(self):
        return Response(b"abc", headers={"X-Own": "1"})

    @Photon.handler(method="GET")
    async def wicked(self):
        raise HTTPException(400, "no", headers={"x-bad": "a\\r\\nset-cookie: b"})

    @Photon.handler(raw=True)
    async def size(self, body: bytes) -> int:
        return len(body)

    @Photon.handler(method="GET")
    async def takes_long(self) -> None:
        await asyncio.sleep(0.2)
        self.left += 1

    @Photon.handler(method="GET", cancel_on_disconnect=True)
    async def waits(self) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            self.left += 1

    @Photon.handler(method="GET")
    async def how_many_left(self) -> int:
        return self.left

    @Photon.handler(use_raw_args=True)
    async def itself(self, request):
        return len(await request.body())

    @Photon.handler(mount=True)
    def pages(self):
        return pages

Talker().launch()
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = a_free_port()
    log = tmp_path_factory.mktemp("photon") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", PHOTON],
            env={**os.environ, "PORT": str(port)},
            stdout=file,
            stderr=file,
        )
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < give_up, log.read_text()
            time.sleep(0.02)
    yield port
    process.terminate()
    process.wait(PATIENCE_S)
    said = log.read_text()
    broken = re.findall(r"GET /breaks broke off", said)
    assert said.count("Traceback") == len(broken), said


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    wire = Wire(socket.create_connection(("127.0.0.1", port)))
    yield wire
    wire.close()


def post(path: str, body: bytes, *lines: str) -> bytes:
    return request("POST", path, f"Content-Length: {len(body)}", *lines) + body


def request(method: str, path: str, *lines: str) -> bytes:
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: photon", *lines])
    return head.encode() + b"\r\n\r\n"


def answer(wire: Wire) -> tuple[int, bytes]:
    first, headers = wire.read_head()
    return int(first.split(" ")[1]), wire.read_body(headers)


@pytest.mark.parametrize("handler", ["echo", "threaded", "batched"])
def test_answers_follow_each_other_on_one_connection(wire: Wire, handler: str) -> None:
    for x in range(3):
        wire.send(post(f"/{handler}", b'{"x":%d}' % x))
        first, headers = wire.read_head()
        assert first == "HTTP/1.1 200 OK"
        assert set(headers) == {"date", "content-type", "content-length"}
        assert wire.read_body(headers) == b"%d" % x


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_request_may_come_in_pieces(wire: Wire, cut: int) -> None:
    asked = post("/echo", b'{"x":7}')
    for piece in (asked[:cut], asked[cut:-2], asked[-2:]):
        wire.send(piece)
        time.sleep(0.02)  # so that it is read alone, most of the time; either way it must work
    assert answer(wire) == (200, b"7")


def test_pipelined_requests_are_answered_in_their_order(wire: Wire) -> None:
    names = ("threaded", "echo", "batched", "echo")
    wire.send(b"".join(post(f"/{name}", b'{"x":%d}' % n) for n, name in enumerate(names)))
    assert [answer(wire) for _ in names] == [(200, b"%d" % n) for n in range(len(names))]


def test_too_many_pipelined_requests_are_answered_in_part_and_then_closed(wire: Wire) -> None:
    wire.send(post("/echo", b'{"x":1}') * (2 * MAX_PIPELINED + 2))
    answers = wire.read_to_end().split(b"HTTP/1.1 200")[1:]
    assert MAX_PIPELINED <= len(answers) <= MAX_PIPELINED + 2
    assert b"connection: close" in answers[-1] and b"connection" not in answers[-2]


def test_chunks_come_and_go(wire: Wire) -> None:
    wire.send(request("POST", "/size", "Transfer-Encoding: chunked"))
    wire.send(b"3\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n")
    assert answer(wire) == (200, b"5")
    wire.send(request("GET", "/counted"))
    assert answer(wire) == (200, b"0;1;2;")
    wire.send(request("GET", "/own"))
    assert answer(wire) == (200, b"abc")


def test_a_client_of_http_1_0_gets_no_chunks_and_the_end(wire: Wire) -> None:
    wire.send(b"GET /counted HTTP/1.0\r\n\r\n")
    head, _, body = wire.read_to_end().partition(b"\r\n\r\n")
    assert b"chunked" not in head and b"connection: close" in head
    assert body == b"0;1;2;"


def test_a_stream_that_breaks_off_is_seen_to(wire: Wire) -> None:
    wire.send(request("GET", "/breaks"))
    assert not wire.read_to_end().endswith(b"0\r\n\r\n")


def test_nothing_and_heads_have_no_body(wire: Wire) -> None:
    wire.send(request("GET", "/nothing") + request("HEAD", "/healthz") + request("HEAD", "/echo"))
    assert wire.read_head()[0] == "HTTP/1.1 204 No Content"
    assert wire.read_head()[0] == "HTTP/1.1 200 OK"
    assert wire.read_head()[0] == "HTTP/1.1 405 Method Not Allowed"
    wire.send(post("/echo", b'{"x":1}'))
    assert answer(wire) == (200, b"1")


def test_a_client_is_told_to_continue_before_it_sends_its_body(wire: Wire) -> None:
    wire.send(request("POST", "/size", "Content-Length: 3", "Expect: 100-continue"))
    assert wire.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
    wire.send(b"abc")
    assert answer(wire) == (200, b"3")


def test_a_large_body_is_refused_before_it_comes(wire: Wire) -> None:
    wire.send(request("POST", "/size", f"Content-Length: {MAX_BODY_BYTES + 1}") + b"x" * 100_000)
    assert answer(wire)[0] == 413
    assert wire.at_end()


def test_a_large_answer_comes_whole_to_who_reads_slowly(wire: Wire) -> None:
    wire.send(request("GET", "/large") + post("/echo", b'{"x":1}'))
    status, body = answer(wire)
    assert (status, len(body)) == (200, 3_000_002)
    assert answer(wire) == (200, b"1")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"this is not HTTP\r\n\r\n", 400),
        (request("GET", "/healthz", "Content-Length: 1", "Content-Length: 2"), 400),
        (request("POST", "/echo", "Content-Length: 1", "Transfer-Encoding: chunked"), 400),
        (request("POST", "/echo", "Content-Length: -1"), 400),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 400_000, 431),
    ],
)
def test_what_cannot_be_understood_is_refused_and_the_connection_ends(
    wire: Wire, sent: bytes, status: int
) -> None:
    wire.send(post("/echo", b'{"x":5}'))
    assert answer(wire) == (200, b"5")
    wire.send(sent)
    assert answer(wire)[0] == status
    assert wire.at_end()


def test_an_answer_comes_before_the_refusal_of_what_followed(wire: Wire) -> None:
    wire.send(post("/threaded", b'{"x":5}') + b"\x00\x01 nonsense\r\n\r\n")
    assert answer(wire) == (200, b"5")
    assert answer(wire)[0] == 400
    assert wire.at_end()


def test_no_header_begins_another_one(wire: Wire) -> None:
    wire.send(request("GET", "/wicked"))
    first, headers = wire.read_head()
    assert first.startswith("HTTP/1.1 500") and "set-cookie" not in headers


@pytest.mark.parametrize("path", ["/waits", "/takes_long"])
def test_a_client_may_leave_before_its_answer(port: int, path: str) -> None:
    def left() -> int:
        wire = Wire(socket.create_connection(("127.0.0.1", port)))
        wire.send(request("GET", "/how_many_left"))
        count = int(answer(wire)[1])
        wire.close()
        return count

    before = left()
    leaver = Wire(socket.create_connection(("127.0.0.1", port)))
    leaver.send(request("GET", path))
    leaver.close()
    give_up = time.monotonic() + PATIENCE_S
    while left() == before:
        assert time.monotonic() < give_up


def test_mounted_applications_and_raw_requests_have_all_of_asgi(wire: Wire) -> None:
    wire.send(post("/echo", b'{"x":1}'))
    assert answer(wire) == (200, b"1")
    wire.send(post("/pages/a", b"x" * 300_000))
    assert answer(wire) == (200, b"/pages/a 300000")
    wire.send(post("/itself", b"abc"))
    assert answer(wire) == (200, b"3")
    wire.send(post("/echo", b'{"x":2}'))  # goes on where it is now
    assert answer(wire) == (200, b"2")


def test_a_request_for_all_of_asgi_behind_another_is_to_be_sent_again(wire: Wire) -> None:
    wire.send(post("/echo", b'{"x":1}') + post("/pages", b""))
    first, headers = wire.read_head()
    assert first == "HTTP/1.1 200 OK" and headers["connection"] == "close"
    assert wire.read_body(headers) == b"1"
    assert wire.at_end()


def test_a_websocket_reaches_a_mounted_application(wire: Wire) -> None:
    wire.send(
        request(
            "GET",
            "/pages/socket",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
    )
    assert wire.read_head()[0].startswith("HTTP/1.1 101")
    masked = bytes(each ^ 7 for each in b"hello")
    wire.send(b"\x81\x85\x07\x07\x07\x07" + masked)
    assert wire.read(7) == b"\x81\x05HELLO"
