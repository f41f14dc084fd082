"""How a browser gets into JupyterLab: by a link once, then by a cookie, from pages of ours."""

import secrets
import time

import pytest
from gateway_world import WORKSPACE_TOKEN, Cloud, a_route, sha256

from leptonai.core.doors import COOKIE, TICKET_S, cookie, ticket

KEY = "the-key-of-the-pod"
BASE = "/lab/default/e/"


@pytest.fixture
def lab(cloud: Cloud):
    replica = cloud.replica()
    cloud.routes.clear()
    cloud.publish(
        a_route(
            "e",
            at="lab",
            upstreams=(replica.upstream("r1"),),
            token_sha256=[sha256("owner")],
            workspace_tokens=False,
            credential="token of-jupyter",
            browser_key=KEY,
            keeps_prefix=True,
        )
    )
    return cloud, replica


def a_ticket(key: str = KEY, *, in_s: int = TICKET_S) -> str:
    return ticket(key, int(time.time()) + in_s, secrets.token_hex(16))


def a_cookie(key: str = KEY) -> dict[str, str]:
    word = cookie(key, int(time.time()) + 60, secrets.token_hex(16))
    return {"cookie": f"other=1; {COOKIE.decode()}={word}"}


def status(cloud: Cloud, path: str, method: str = "GET", **headers: str) -> int:
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return cloud.gateway.ask(path, None, *lines, method=method)[0]


def test_a_link_lets_one_browser_in_once(lab) -> None:
    cloud, replica = lab
    path = f"{BASE}.login?ticket={a_ticket()}"
    code, headers, _ = cloud.gateway.ask(path, None)
    assert (code, headers["location"]) == (303, BASE)
    given = headers["set-cookie"]
    assert "HttpOnly" in given and f"Path={BASE};" in given and "SameSite=Lax" in given
    assert status(cloud, path) == 403
    kept = given.partition(";")[0]
    assert status(cloud, f"{BASE}lab/tree?a=1", cookie=kept) == 200
    seen = replica.requests[-1]
    assert seen.line == f"GET {BASE}lab/tree?a=1 HTTP/1.1"
    assert seen.headers["authorization"] == "token of-jupyter"


@pytest.mark.parametrize(
    "word",
    [
        a_ticket("another-key"),
        a_ticket(in_s=-1),
        cookie(KEY, int(time.time()) + 60, "0" * 32),
        "",
        "x",
        ticket(KEY, 1_000_000_000, "0" * 32),
    ],
)
def test_other_links_let_nobody_in(lab, word: str) -> None:
    cloud, replica = lab
    assert status(cloud, f"{BASE}.login?ticket={word}") == 403
    assert status(cloud, f"{BASE}.login?ticket={a_ticket()}", "POST") == 403
    assert replica.requests == []


def test_a_link_from_before_the_gateway_began_may_have_been_used(lab) -> None:
    cloud, _ = lab
    old = ticket(KEY, int(time.time()) + TICKET_S - 3_000, secrets.token_hex(16))
    assert status(cloud, f"{BASE}.login?ticket={old}") == 403


def test_a_cookie_opens_its_own_pod_to_pages_of_ours(lab) -> None:
    cloud, replica = lab
    ours = a_cookie()
    assert status(cloud, BASE, **ours) == 200
    assert status(cloud, BASE, "POST", **ours, origin="http://gateway.test") == 200
    count = len(replica.requests)
    assert status(cloud, BASE, **a_cookie("another-pod's")) == 401
    assert status(cloud, BASE, cookie=f"{COOKIE.decode()}={a_ticket()}") == 401
    # Another page can have a browser send the cookie, but not this origin.
    assert status(cloud, BASE, "POST", **ours) == 401
    assert status(cloud, BASE, "POST", **ours, origin="http://127.0.0.1:1") == 401
    assert status(cloud, BASE, **ours, origin="https://evil.example") == 401
    assert status(cloud, BASE, "DELETE", **ours, origin="null") == 401
    upgrade = {"connection": "Upgrade", "upgrade": "websocket"}
    assert status(cloud, BASE, **ours, **upgrade) == 401
    assert len(replica.requests) == count


def test_tokens_of_the_workspace_open_no_pod_of_another(lab) -> None:
    cloud, replica = lab
    assert cloud.gateway.ask(BASE, token="owner")[0] == 200
    code, _, body = cloud.gateway.ask(BASE, token=WORKSPACE_TOKEN)
    assert (code, b"only its owner" in body) == (403, True)
    assert len(replica.requests) == 1
    assert b"owner" not in repr(replica.requests[-1].headers).encode()


def test_only_where_there_is_a_door_a_cookie_opens_anything(cloud: Cloud) -> None:
    cloud.endpoint(cloud.replica(), token_sha256=[sha256("owner")], workspace_tokens=False)
    assert status(cloud, "/e/default/e/", **a_cookie("")) == 401
    assert status(cloud, "/e/default/e/", **a_cookie()) == 401
