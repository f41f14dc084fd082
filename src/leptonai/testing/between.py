"""A program between a client and a server, that cuts their connections or slows them down."""

import contextlib
import re
import socket
import threading
import time

PIECE_BYTES = 64 << 10
MUCH_BYTES = 100_000  # a connection that brought more has something large to bring

_REQUEST = re.compile(rb"(?:GET|PUT|HEAD|POST) [^\r\n]+\r\n(?:[^\r\n]+\r\n)*")
_RANGE = re.compile(rb"range: bytes=(\d+)-", re.IGNORECASE)


class Between:
    """Hands bytes on, in both directions."""

    def __init__(self, url: str) -> None:
        """To the server at this address."""
        host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
        self._server = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.cut_after: int | None = None  # bytes to the client, of each connection
        self.cuts = 0  # how many were
        self.slow_s = 0.0  # between two pieces to the client
        self.requests: list[str] = []  # each with its first line, and where its range begins
        self.most_at_once = 0  # connections with something large
        self._at_once = 0

    def __enter__(self) -> "Between":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        _close(self._listening)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            for loop in (self._up, self._down):
                threading.Thread(target=loop, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(PIECE_BYTES):
                for head in _REQUEST.findall(data):
                    line = head.split(b" HTTP", 1)[0].decode()
                    asked = _RANGE.search(head)
                    self.requests.append(f"{line} from {asked[1].decode()}" if asked else line)
                server.sendall(data)
        _close(server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        sent, is_large = 0, False
        with contextlib.suppress(OSError):
            while data := server.recv(PIECE_BYTES):
                if not is_large and sent + len(data) > MUCH_BYTES:
                    is_large = True
                    self._at_once += 1
                    self.most_at_once = max(self.most_at_once, self._at_once)
                if self.cut_after is not None and sent + len(data) > self.cut_after:
                    client.sendall(data[: self.cut_after - sent])
                    self.cuts += 1
                    break
                time.sleep(self.slow_s)
                client.sendall(data)
                sent += len(data)
        self._at_once -= is_large
        _close(client)
        _close(server)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
