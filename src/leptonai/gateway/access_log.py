"""A line of JSON for each request, in a file of its own; bounded, and written in bundles."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from leptonai.log_files import open_log

if TYPE_CHECKING:
    from .gateway import Gateway

FLUSH_S = 0.5
MAX_LINES = 20_000  # that wait to be written; more are only counted

_encode = msgspec.json.Encoder().encode


class AccessLog:
    def __init__(self, gateway: Gateway, path: Path) -> None:
        self._gateway = gateway
        self._path = path
        self._lines: list[bytes] = []
        self._skipped = 0
        self._flush: asyncio.TimerHandle | None = None

    def write(self, **fields: object) -> None:
        if len(self._lines) >= MAX_LINES:
            self._skipped += 1
            return
        self._lines.append(_encode(fields))
        if self._flush is None:
            self._flush = self._gateway.loop.call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._skipped:
            self._lines.append(_encode({"message": f"{self._skipped} lines were not written"}))
            self._skipped = 0
        lines, self._lines = self._lines, []
        try:
            with open_log(self._path) as file:
                file.write(b"\n".join((*lines, b"")))
        except OSError as error:
            self._gateway.log(f"the access log cannot be written: {error}", file=str(self._path))
