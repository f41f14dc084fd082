"""How a gateway asks the control plane: one request a connection, with its own token."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from leptonai.errors import InvalidRequest, Unavailable

from .asking import FAILURES, ask

__all__ = ["FAILURES", "ControlPlane"]

ANSWER_S = 45.0  # for one answer; the control plane holds a poll for about 30 s
MAX_ANSWER_BYTES = 64 * 1024 * 1024


class ControlPlane:
    def __init__(self, url: str, token_file: Path) -> None:
        """
        Raises:
            InvalidRequest: the URL is no address of a control plane.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise InvalidRequest(
                f"{url!r} is no address of a control plane", hint="use http://HOST:PORT"
            )
        self._host = parts.hostname
        self._port = parts.port or 80
        self._base = parts.path.rstrip("/")
        self._token_file = token_file

    async def get(self, path: str) -> bytes | None:
        """The answer's body; None where there is none."""
        return await self._ask("GET", path, b"")

    async def post(self, path: str, body: bytes) -> None:
        await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: bytes) -> bytes | None:
        token = self._token_file.read_text().strip()  # each time: it may have been replaced
        headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
        if body:
            headers["content-type"] = "application/json"
        status, answer = await ask(
            method,
            self._host,
            self._port,
            self._base + path,
            headers=headers,
            body=body,
            within_s=ANSWER_S,
            most_bytes=MAX_ANSWER_BYTES,
        )
        if status == 204:
            return None
        if status != 200:
            raise Unavailable(f"it answered with status {status}")
        return answer
