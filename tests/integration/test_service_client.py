"""`Client` against a photon in a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.integration.test_photon_server import serving

from leptonai.client import Client, current, local
from leptonai.errors import InvalidRequest, Unavailable
from leptonai.testing.free_ports import a_free_port

SOURCE = '''
from leptonai.photon import File, HTTPException, Photon

class Everything(Photon):
    @Photon.handler
    def add(self, x: int, y: int = 1) -> int:
        """Adds."""
        return x + y

    @Photon.handler("deep/in-side")
    def deep(self, x: int) -> int:
        return x

    @Photon.handler("", method="GET")
    def root(self, who: str = "you") -> str:
        return f"hello {who}"

    @Photon.handler("both", method="GET")
    def get_both(self) -> str:
        return "get"

    @Photon.handler("both")
    def post_both(self) -> str:
        return "post"

    @Photon.handler("user/{name}", method="GET")
    def user(self, name: str) -> str:
        return name

    @Photon.handler
    def stream(self):
        yield "a"
        yield "b"

    @Photon.handler
    def size(self, file: File) -> int:
        return len(file.get_content())

    @Photon.handler
    def refuse(self) -> None:
        raise HTTPException(418, "a teapot")
'''


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("photon")
    (folder / "everything.py").write_text(SOURCE)
    with serving("leptonai.serving", "everything.py", cwd=folder) as (_, port):
        yield f"http://127.0.0.1:{port}"


def test_every_path_is_a_method(url: str) -> None:
    from leptonai.photon import File

    with Client(url) as client:
        assert client.healthz()
        assert client.add(x=1) == 2
        assert client.deep.in_side(x=7) == 7
        assert (client(), client(who="me")) == ("hello you", "hello me")
        assert (client.both(), client.both.post(), client.both.get()) == ("post", "post", "get")
        assert client.size(file=File(b"abc")) == 3
        assert {"add", "deep", "both"} <= {*dir(client)}
        assert "user/{name}" in "".join(client.paths()) and "user" not in dir(client)
        assert client.add.__doc__ == "POST /add\n\nAdds."


def test_streams_come_as_they_arrive_where_that_is_asked_for(url: str) -> None:
    with Client(url, stream=True) as client:
        assert b"".join(client.stream()) == b"ab"
        assert client.add(x=1) == 2
    with Client(url) as client:
        assert client.stream() == b"ab"


def test_errors_say_what_the_service_says(url: str) -> None:
    with Client(url) as client:
        with pytest.raises(httpx.HTTPStatusError, match=r"418 for .*: a teapot"):
            client.refuse()
        with pytest.raises(httpx.HTTPStatusError, match=r"422 for .*: x: expected `int`"):
            client.add(x="one")
        with pytest.raises(AttributeError, match="the service has no brew here; it has add"):
            client.brew()
        with pytest.raises(TypeError, match="/add takes arguments by name"):
            client.add(1)


def test_a_token_may_be_read_from_a_file(url: str) -> None:
    with Client(url, token="secret\n") as client:
        assert client.add(x=1) == 2
    with pytest.raises(InvalidRequest, match="the token has characters that no token has"):
        Client(url, token="two\nlines")


def test_a_service_that_is_not_there_is_said() -> None:
    port = a_free_port()
    assert local(port) == f"http://localhost:{port}"
    with pytest.raises(Unavailable, match="does not answer"):
        Client(local(port))


def test_the_current_workspace_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEPTON_WORKSPACE_ID", raising=False)
    assert current() == "default"
    monkeypatch.setenv("LEPTON_WORKSPACE_ID", "mine")
    assert current() == "mine"
