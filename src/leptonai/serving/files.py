"""`File` and `FileParam`: a file as an argument of a handler, in a JSON object."""

import base64
import binascii
import http.client
import io
import ipaddress
import re
import socket
import tempfile
import urllib.request
from typing import IO, Any, ClassVar

from leptonai.errors import InvalidRequest

_DATA_URL = re.compile(r"data:[^,]*;base64,")
_WEB_URL = re.compile(r"https?://[^\s/]+", re.IGNORECASE)
_DATA_PREFIX = "data:application/octet-stream;base64,"
_PARAM_PREFIX = "encoded:"


class File:
    """A file by its content, or by the URL that it is fetched from when it is needed.

    In JSON it is ``{"content": TEXT}``, where the text is a URL, ``data:…;base64,…``, or
    ``encoded:`` and base64.

    Args:
        content: bytes, an open file, a text as above, or another File.
    """

    max_bytes: ClassVar[int] = 256 << 20  # of one that is fetched
    timeout_s: ClassVar[float] = 60.0
    # What a stranger names is fetched from the public network alone: else they could read, through
    # this server, what only this server can reach.
    private_addresses: ClassVar[bool] = False

    def __init__(self, content: "IO[bytes] | bytes | str | File") -> None:
        if isinstance(content, File):
            content = content.content
        elif not isinstance(content, bytes | bytearray | memoryview | str):
            content = content.read()
        if isinstance(content, str):
            self.content: bytes | str = _checked(content)
        else:
            self.content = bytes(content)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def get_content(self) -> bytes:
        """The bytes; fetched and decoded at the first call.

        Raises:
            InvalidRequest: it cannot be fetched, or may not be.
        """
        if isinstance(self.content, str):
            if _WEB_URL.match(self.content):
                self.content = self._fetched(self.content)
            else:
                self.content = _decoded(self.content.partition(",")[2])
        return self.content

    def get_bytesio(self) -> io.BytesIO:
        return io.BytesIO(self.get_content())

    def get_temp_file(self, delete: bool = True) -> Any:
        """The bytes in a temporary file that is open at its start; it is the caller's."""
        file = tempfile.NamedTemporaryFile(mode="w+b", delete=delete)  # noqa: SIM115
        file.write(self.get_content())
        file.flush()
        file.seek(0)
        return file

    def to_wire(self) -> dict[str, str]:
        if isinstance(self.content, str):
            return {"content": self.content}
        return {"content": _DATA_PREFIX + base64.b64encode(self.content).decode()}

    @classmethod
    def from_wire(cls, value: Any) -> "File":
        content = value.get("content") if isinstance(value, dict) else value
        if not isinstance(content, str | bytes):
            raise ValueError('expected {"content": a URL, or data:…;base64,…}')
        return cls(content)

    def _fetched(self, url: str) -> bytes:
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPRedirectHandler(),
            _Web(self.private_addresses),
        ):
            opener.add_handler(handler)
        try:
            with opener.open(url, timeout=self.timeout_s) as answer:
                content: bytes = answer.read(self.max_bytes + 1)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise InvalidRequest(
                f"{url} cannot be fetched: {reason}", hint="send the file itself as data:…;base64,…"
            ) from None
        if len(content) > self.max_bytes:
            raise InvalidRequest(f"{url} has more than the {self.max_bytes} bytes that are fetched")
        return content


class FileParam:
    """As `File`, of content alone: in JSON ``{"content": "encoded:<base64>"}``."""

    def __init__(self, content: IO[bytes] | bytes) -> None:
        self.content: bytes = content if isinstance(content, bytes) else content.read()

    def __repr__(self) -> str:
        return f"FileParam({len(self.content)} bytes)"

    @property
    def file(self) -> io.BytesIO:
        return io.BytesIO(self.content)

    def to_wire(self) -> dict[str, str]:
        return {"content": _PARAM_PREFIX + base64.b64encode(self.content).decode()}

    @classmethod
    def from_wire(cls, value: Any) -> "FileParam":
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            encoded = content.startswith(_PARAM_PREFIX)
            content = _decoded(content.removeprefix(_PARAM_PREFIX)) if encoded else content.encode()
        if not isinstance(content, bytes):
            raise ValueError('expected {"content": "encoded:<base64>"}')
        return cls(content)


def _checked(text: str) -> str:
    if text.startswith(_PARAM_PREFIX):
        text = _DATA_PREFIX + text.removeprefix(_PARAM_PREFIX)
    if not (_WEB_URL.match(text) or _DATA_URL.match(text)):
        raise ValueError("expected a URL, or data:…;base64,…")
    return text


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected base64: {error}") from None


class _Web(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """HTTP and HTTPS to addresses that are looked at once the connection stands: so a name cannot
    lead to one address when it is checked, and to another when it is used."""

    def __init__(self, private_addresses: bool) -> None:
        urllib.request.HTTPHandler.__init__(self)
        urllib.request.HTTPSHandler.__init__(self)
        self._private_addresses = private_addresses

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._connecting(http.client.HTTPConnection), request)

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._connecting(http.client.HTTPSConnection), request)

    def _connecting(self, kind: Any) -> Any:
        def connection(*arguments: Any, **options: Any) -> Any:
            made = kind(*arguments, **options)
            made._create_connection = self._connect
            return made

        return connection

    def _connect(self, address: Any, *arguments: Any, **options: Any) -> socket.socket:
        connected = socket.create_connection(address, *arguments, **options)
        if not self._private_addresses:
            peer = ipaddress.ip_address(str(connected.getpeername()[0]).partition("%")[0])
            if not (getattr(peer, "ipv4_mapped", None) or peer).is_global:
                connected.close()
                raise OSError(f"{address[0]} is not a public address")
        return connected
