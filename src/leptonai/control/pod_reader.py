"""Asks pods how they are: one HTTP request, whose answer may take a while."""

import asyncio
import contextlib

import msgspec

from leptonai.errors import Unavailable
from leptonai.spec.pods import PodReport

ANSWER_WITHIN_S = 60.0  # a pod answers after half of it, if nothing has changed
MAX_ANSWER_BYTES = 256 << 10


class HttpPodReader:
    async def report(
        self, host: str, port: int, key: str, *, after: int, watch_cpu: bool
    ) -> PodReport:
        path = f"/report?after={after}&cpu={int(watch_cpu)}"
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return msgspec.json.decode(await _get(host, port, path, key), type=PodReport)
        except (OSError, TimeoutError, ValueError, EOFError) as error:
            raise Unavailable(
                f"the pod does not tell how it is: {error}", hint="it is asked again"
            ) from error


async def _get(host: str, port: int, path: str, key: str) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_ANSWER_BYTES)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        status = head.split(b" ", 2)[1]
        body = await reader.read(MAX_ANSWER_BYTES)
        while chunk := await reader.read(MAX_ANSWER_BYTES):
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise ValueError("its answer is too long")
        if status != b"200":
            raise ValueError(f"it answers {status.decode('ascii', 'replace')}")
        return body
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
