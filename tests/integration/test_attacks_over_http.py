"""What people who may do nothing, or little, try over HTTP."""

import contextlib
import socket
import threading
import time

import pytest
import uvicorn
from api_world import a_job, with_api

from leptonai.control.api import connections
from leptonai.control.api.connections import MAX_HEAD_BYTES, BoundedConnection
from leptonai.control.api.routes import ROUTES

PATIENCE_S = 60.0
ROLES = ("gateway", "job")
TOLD_TO_EVERYBODY = {"/openapi.json"}
ITS_OWN = {"GET": {"/api/v2/workspaces/{workspace}/tokens"}}  # masked
GATEWAYS_OWN = {"/internal/routes", "/internal/traffic", "/metrics"}
PARTS = {
    "workspace": "ws",
    "name": "x",
    "replica": "x",
    "digest": "sha256:" + "0" * 64,
    "group": "local",
    "node": "local",
    "reference": "x",
}


@with_api
async def test_the_tokens_of_machines_open_nothing_that_is_not_theirs(api):
    mine = (await api.call("POST", "/jobs", json=a_job("mine"), who="ana")).json()["metadata"]["id"]
    other = (await api.call("POST", "/jobs", json=a_job(), who="ana")).json()["metadata"]["id"]
    api.tokens["job"] = api.job_tokens.of("ws", mine)
    for route in ROUTES:
        path = route.full_path
        for part, value in {**PARTS, "id": other}.items():
            path = path.replace(f"{{{part}}}", value)
        for who in ROLES:
            answer = await api.http.request(
                route.method,
                path,
                json={} if route.body is not None else None,
                headers={"authorization": f"Bearer {api.tokens[who]}"},
            )
            where = (who, route.method, route.full_path, answer.text)
            if route.full_path in TOLD_TO_EVERYBODY or (
                who == "gateway" and route.full_path in GATEWAYS_OWN
            ):
                continue
            if route.full_path in ITS_OWN.get(route.method, ()):
                assert all("..." in token["masked_value"] for token in answer.json()), where
            elif answer.status_code == 200:  # a list of nothing, or of what is its own
                assert route.method == "GET", where
                assert other not in answer.text, where
            else:
                assert answer.status_code in (400, 401, 403, 404), where
    assert (await api.call("GET", f"/jobs/{other}", who="ana")).status_code == 200


@with_api
async def test_a_line_end_does_not_belong_to_a_path(api):
    assert (await api.call("GET", "/jobs%0A")).status_code == 404


@with_api
async def test_a_token_in_a_path_is_not_written_down(api):
    token = api.tokens["admin"]
    await api.call("DELETE", f"/jobs/{token}")
    audit = api.audit.read_text()
    assert ("lepton_***" in audit, token in audit) == (True, False)


@with_api
async def test_a_model_has_the_size_of_its_blob(api):
    digest = await api.add_blob(b"weights")
    model = {"metadata": {"name": "m"}, "spec": {"digest": digest, "size_bytes": 1, "format": "f"}}
    answer = await api.call("POST", "/models", json=model)
    assert answer.json()["message"] == "spec.size_bytes: 1, and the blob has 7"


# --- connections ---------------------------------------------------------------------------------


async def application(scope, receive, send):
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    names = b",".join(name for name, _ in scope["headers"])
    await send({"type": "http.response.body", "body": names})


@pytest.fixture
def port(monkeypatch):
    """Of a server whose connections are bounded."""
    monkeypatch.setattr(connections, "HEAD_S", 1.0)
    config = uvicorn.Config(application, http=BoundedConnection, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


def answer_to(port, first, rest=b"", *, times=0):
    """What comes back until the server closes; `rest` is sent again and again before."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        received = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(first)
            for _ in range(times):
                connection.sendall(rest)
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65_536):
                received += data
        return received


HEAD = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
ENDLESS = {
    "a path": b"GET /",
    "a header": HEAD + b"x: ",
    "the size of a chunk": CHUNKED + b"1;",
}


@pytest.mark.parametrize("part", ENDLESS)
def test_nobody_sends_a_head_without_end(port, part):
    # So much more than the kernel's buffers hold that it is cut off while it is being sent.
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(ENDLESS[part])
        with pytest.raises(ConnectionError):
            for _ in range(1_000):
                connection.sendall(b"a" * MAX_HEAD_BYTES)


def test_who_says_nothing_or_half_a_head_is_hung_up_on(port):
    for first in (b"", b"GET / HT", HEAD):
        assert answer_to(port, first) == b""  # within its own patience


def test_a_body_may_be_large_and_slow(port):
    first = HEAD + b"content-length: %d\r\n\r\n" % (8 * MAX_HEAD_BYTES)
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(first)
        for _ in range(8):
            time.sleep(0.1)
            connection.sendall(b"a" * MAX_HEAD_BYTES)
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_what_follows_a_body_is_no_header(port):
    answer = answer_to(port, CHUNKED + b"1\r\na\r\n0\r\nauthorization: Bearer x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"host,connection,transfer-encoding" in answer
    assert b"authorization" not in answer
