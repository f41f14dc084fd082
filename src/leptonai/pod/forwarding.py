"""A connection to a port of the pod, through one WebSocket."""

import asyncio
import contextlib

from leptonai.errors import InvalidRequest
from leptonai.pod.channel import Channel, read
from leptonai.pod.place import Place
from leptonai.spec.pods import CHUNK_BYTES, SSH_PORT, ForwardControl

CONNECT_S = 5.0
LOOPBACK = "127.0.0.1"


async def forward(channel: Channel, place: Place, asked: str) -> None:
    """Until both sides have ended, or one is gone. Raises Gone."""
    try:
        port = port_of(place, asked)
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, port, limit=CHUNK_BYTES)
    except InvalidRequest as error:
        await channel.send(ForwardControl(error=error.message))
        return
    except (OSError, TimeoutError):
        await channel.send(ForwardControl(error=f"nothing in the pod listens on port {asked[:20]}"))
        return
    both = asyncio.ensure_future(_both(channel, reader, writer))
    gone = asyncio.ensure_future(channel.until_gone())
    try:
        await asyncio.wait((both, gone), return_when=asyncio.FIRST_COMPLETED)
        (both if both.done() else gone).result()
    except OSError:  # the program in the pod has broken it off
        await channel.send(ForwardControl(error="the connection was reset"))
    finally:
        for task in (both, gone):
            task.cancel()
        await asyncio.gather(both, gone, return_exceptions=True)
        if gone.done() and not gone.cancelled():
            writer.transport.abort()  # what is still to be written is nobody's any more
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def port_of(place: Place, asked: str) -> int:
    """Where a port of the pod is on its node: those that it named are elsewhere, others are not.

    Raises:
        InvalidRequest: it is no port.
    """
    text = str(SSH_PORT) if asked == "ssh" else asked
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise InvalidRequest(f"{asked[:20]!r} is no port", hint="use 1 to 65535")
    return place.ports.get(int(text), int(text))


async def _both(
    channel: Channel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    tasks = [asyncio.create_task(each) for each in (_out(channel, reader), _in(channel, writer))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _out(channel: Channel, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(CHUNK_BYTES):
        await channel.send(data)
    await channel.send(ForwardControl(end=True))


async def _in(channel: Channel, writer: asyncio.StreamWriter) -> None:
    while True:
        message = await channel.receive()
        if isinstance(message, bytes):
            writer.write(message)
            await writer.drain()
        elif read(message, ForwardControl).end:
            with contextlib.suppress(OSError):
                writer.write_eof()
            return
