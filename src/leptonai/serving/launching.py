"""A photon as the server of this process."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import uvicorn

from leptonai.serving.app import App
from leptonai.serving.connection import Connections
from leptonai.serving.handlers import mounts

if TYPE_CHECKING:
    from leptonai.serving.photon import Photon

DEFAULT_PORT = 8080
DRAIN_S = 30  # how long a stopping server waits for the calls it has accepted
KEEP_ALIVE_S = 1_800  # longer than any client's pool keeps a connection, so that they close first
FAILED_TO_START = 3  # exit code, as uvicorn's own


def serve(
    photon: "Photon",
    host: str | None,
    port: int | None,
    *,
    initialised: bool = False,
    ready: Callable[[], None] | None = None,
) -> None:
    """Until SIGTERM or SIGINT; then the calls that were accepted are finished.

    Args:
        initialised: its `init` has run.
        ready: called once it listens.
    """
    app = App(photon, initialised=initialised)
    config = uvicorn.Config(
        app,
        host=host or os.environ.get("LEPTON_BIND") or "127.0.0.1",
        port=int(os.environ.get("PORT") or DEFAULT_PORT) if port is None else port,
        http=Connections(app, KEEP_ALIVE_S),  # type: ignore[arg-type]  # it calls it, and no more
        loop="uvloop",
        ws="auto" if mounts(photon) else "none",
        lifespan="on",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = _Server(config, ready)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(FAILED_TO_START)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: object = None) -> None:
        await super().startup(sockets=sockets)  # type: ignore[arg-type]
        if self.started and self._ready is not None:
            self._ready()
