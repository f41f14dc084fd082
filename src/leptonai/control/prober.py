"""Asks servers whether they are there."""

import asyncio
import contextlib

PROBE_TIMEOUT_S = 2.0
MAX_STATUS_LINE = 1024  # bytes


class TcpProber:
    """Opens a connection; with a path, sends GET and reads the status."""

    async def answers(self, host: str, port: int, path: str) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await _ask(host, port, path)
        except (OSError, TimeoutError, ValueError):
            return False


async def _ask(host: str, port: int, path: str) -> bool:
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_STATUS_LINE)
    try:
        if not path:
            return True
        request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        status_line = await reader.readline()
        version, status, *_ = status_line.split()
        return version.startswith(b"HTTP/1.") and 200 <= int(status) < 400
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
