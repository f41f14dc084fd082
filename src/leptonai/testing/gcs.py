"""A small double of Google Cloud Storage: enough of its XML API to list and read, with ETags,
ranges and preconditions as the real one has them; and faults on request."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

WRITTEN = "2024-01-02T03:04:05.000Z"
WRITTEN_HTTP = "Tue, 02 Jan 2024 03:04:05 GMT"


@dataclass
class Bucket:
    name: str
    objects: dict[str, bytes]
    environment: Mapping[str, str]  # that makes a client talk to it
    forbidden: bool = False  # answers 403 to everything
    cut_after: int | None = None  # bytes of the next answer, then the connection is closed
    seen: list[str] = field(default_factory=list)  # method, path and Range of each request


@contextmanager
def gcs(name: str, objects: dict[str, bytes]) -> Iterator[Bucket]:
    bucket = Bucket(name, dict(objects), {})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            bucket.seen.append(
                f"{self.command} {unquote(path)} {self.headers.get('Range', '')}".strip()
            )
            _, found, key = [unquote(part) for part in (path + "/").split("/", 2)]
            key = key.removesuffix("/")
            if bucket.forbidden:
                self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            elif found != bucket.name:
                self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            elif "list-type" in query:
                self._answer(200, _listing(bucket, query.get("prefix", [""])[0]))
            elif key not in bucket.objects:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            else:
                self._object(bucket.objects[key])

        do_HEAD = do_GET  # noqa: N815

        def _object(self, data: bytes) -> None:
            tag = _tag(data)
            wanted = self.headers.get("If-Match")
            if wanted not in (None, "*", tag):
                self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            start, end, status = 0, len(data), 200
            headers = {"ETag": tag, "Last-Modified": WRITTEN_HTTP}
            if asked := self.headers.get("Range", "").removeprefix("bytes="):
                first, _, last = asked.partition("-")
                start, end, status = int(first), int(last) + 1 if last else len(data), 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            self._answer(status, data[start:end], headers)

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for header, value in headers.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            cut, bucket.cut_after = bucket.cut_after, None
            self.wfile.write(body[:cut])
            if cut is not None and cut < len(body):
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    key = {
        "gcs_base_url": f"http://127.0.0.1:{server.server_port}",
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    bucket.environment = {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key)}
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listing(bucket: Bucket, prefix: str) -> bytes:
    entries = "".join(
        f"<Contents><Key>{escape(key)}</Key>"
        f"<LastModified>{WRITTEN}</LastModified><ETag>{escape(_tag(data))}</ETag>"
        f"<Size>{len(data)}</Size></Contents>"
        for key, data in sorted(bucket.objects.items())
        if key.startswith(prefix)
    )
    return (
        f'<?xml version="1.0"?><ListBucketResult><Name>{bucket.name}</Name>'
        f"<Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>{entries}"
        "</ListBucketResult>"
    ).encode()


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
