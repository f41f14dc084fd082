"""A port that is kept for Envoy, which binds it itself."""

import socket

import pytest

from leptonai.errors import Unavailable
from leptonai.listening import bind, reserve


def test_connections_that_have_ended_do_not_keep_a_port() -> None:
    listening = bind("127.0.0.1", 0, "--port")
    port = listening.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as client:
        listening.setblocking(True)
        server, _ = listening.accept()
        listening.close()
        server.close()  # first, so that it is this side that waits
        assert client.recv(1) == b""
    with reserve("127.0.0.1", port, "--port") as reserved:
        assert reserved.getsockname()[1] == port


def test_whoever_listens_keeps_a_port() -> None:
    with bind("127.0.0.1", 0, "--port") as listening:
        port = listening.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port} of 127.0.0.1 cannot be used"):
            reserve("127.0.0.1", port, "--port")
