"""One WebSocket as sessions and forwarded connections use it."""

from typing import TypeVar

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from leptonai.errors import InvalidRequest

T = TypeVar("T")


class Gone(Exception):
    """The other side has left."""


class Channel:
    """Sending waits while the other side does not read, so a slow reader slows its program down
    and fills no memory."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    async def receive(self) -> bytes | str:
        """Raises Gone."""
        try:
            return await self._connection.recv()
        except ConnectionClosed:
            raise Gone from None

    async def until_gone(self) -> None:
        """Never returns: raises Gone, also while nobody receives."""
        await self._connection.wait_closed()
        raise Gone

    async def receive_first(self, kind: type[T]) -> T:
        """Raises:
        InvalidRequest: it is something else.
        """
        return read(await self.receive(), kind)

    async def send(self, message: bytes | msgspec.Struct) -> None:
        """Bytes as they are, a value as text. Raises Gone."""
        try:
            if isinstance(message, bytes):
                await self._connection.send(message)
            else:
                await self._connection.send(msgspec.json.encode(message).decode())
        except ConnectionClosed:
            raise Gone from None


def read(message: bytes | str, kind: type[T]) -> T:
    """
    Raises:
        InvalidRequest: it is no such value.
    """
    if isinstance(message, bytes):
        raise InvalidRequest("bytes came where words were due", hint="use a newer client")
    try:
        return msgspec.json.decode(message, type=kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidRequest(
            f"this is not understood: {error}", hint="client and pod may be of different versions"
        ) from None
