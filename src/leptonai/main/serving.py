"""The API served, and what runs beside it, until the platform is to stop."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

DRAIN_S = 2  # for requests under way when the platform stops


async def serve_until_stopped(
    app: Any,
    listening: socket.socket,
    plane: Any,
    beside: list[Coroutine[Any, Any, None]],
    serving: Callable[[], None],
) -> None:
    """Serve the API, and stop at SIGTERM or SIGINT, or when it or what runs beside it ends."""
    import uvicorn

    from leptonai.control.api.connections import BoundedConnection

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they are ours

    server = Server(
        uvicorn.Config(
            app,
            http=BoundedConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody is believed about who he is
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    loop = asyncio.get_running_loop()
    closing: list[asyncio.Task[None]] = []

    def stop() -> None:
        server.should_exit = True
        app.stop()
        closing.append(asyncio.create_task(plane.routes.close()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    api = asyncio.create_task(server.serve(sockets=[listening]))
    others = [asyncio.create_task(each) for each in beside]
    while not server.started and not api.done():  # noqa: ASYNC110 - the server has no event
        await asyncio.sleep(0.001)
    if not api.done():
        serving()
    finished, _ = await asyncio.wait([api, *others], return_when=asyncio.FIRST_COMPLETED)
    stop()
    await asyncio.gather(api, *closing)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in finished:
        task.result()
