"""Photon: a model server written as a class. Its handlers are methods, its state is `self`."""

import os
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, overload

from leptonai.serving.handlers import Declaration, Method, declare

Handler = TypeVar("Handler", bound=Callable[..., Any])

DEFAULT_PORT = 8080
DRAIN_S = 30  # how long a stopping server waits for the calls it has accepted
KEEP_ALIVE_S = 1_800  # longer than any client's pool keeps a connection, so that they close first


class HTTPException(Exception):  # the name that its users know
    """Raised by a handler to answer `status_code` with ``{"error": detail}``."""

    def __init__(self, status_code: int, detail: Any = "") -> None:
        super().__init__(f"{status_code}: {detail}")
        self.status_code = status_code
        self.detail = detail


class Photon:
    """A server whose decorated methods answer HTTP requests::

        class Counter(Photon):
            def init(self):
                self.count = 0

            @Photon.handler
            def add(self, amount: int) -> int:
                self.count += amount
                return self.count

        Counter().launch()  # POST /add {"amount": 2} answers 2

    A handler's arguments are the members of the JSON object in the body, or, with method="GET", the
    query; they are checked against the annotations, and 422 says which one is wrong. Its result is
    answered as JSON, None as 204. `HTTPException` answers what it says, any other exception 500.

    Plain methods run in threads, `handler_max_concurrency` of them at a time; ``async`` ones run on
    the event loop. A subclass inherits the handlers of its parents, and its own win; a handler is
    taken out by setting its name to None.
    """

    handler_max_concurrency: ClassVar[int] = 1  # sync handlers that may run at once

    def init(self) -> None:
        """Called once, before the first call; in no case by the constructor. Load models here."""

    @overload
    @staticmethod
    def handler(path: Handler, /) -> Handler: ...

    @overload
    @staticmethod
    def handler(
        path: str | None = None,
        /,
        *,
        method: Method = "POST",
        example: Any = None,
        raw: bool = False,
    ) -> Callable[[Handler], Handler]: ...

    @staticmethod
    def handler(
        path: Any = None,
        /,
        *,
        method: Method = "POST",
        example: Any = None,
        raw: bool = False,
    ) -> Any:
        """Make a method answer requests.

        Args:
            path: where; the method's name unless given. ``greet/{name}`` passes on a part of it.
            method: "POST", or "GET".
            example: of an input, shown in ``/openapi.json``.
            raw: the body is no JSON: as bytes, it is the one argument.
        """
        if callable(path):
            return declare(path, Declaration())
        return lambda function: declare(function, Declaration(path, method, example, raw))

    def launch(self, host: str | None = None, port: int | None = None) -> None:
        """Serve until SIGTERM or SIGINT, then finish the calls that were accepted.

        Args:
            host: the address to listen on: $LEPTON_BIND, or this machine only, unless given.
            port: $PORT, or 8080, unless given.
        """
        import uvicorn

        from leptonai.serving.app import App

        uvicorn.run(
            App(self),
            host=host or os.environ.get("LEPTON_BIND") or "127.0.0.1",
            port=int(os.environ.get("PORT") or DEFAULT_PORT) if port is None else port,
            http="httptools",
            loop="uvloop",
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
