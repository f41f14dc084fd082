"""Other applications under a path of a photon: ASGI, WSGI, static files."""

import inspect
from typing import Any, NamedTuple, Protocol, cast

from leptonai.serving.responses import Receive, Scope, Send


class ASGI(Protocol):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Mount(NamedTuple):
    path: str  # "/static"
    application: ASGI

    def holds(self, path: str) -> bool:
        return path == self.path or path.startswith(f"{self.path}/")

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it: `root_path` grows, and `path` stays whole."""
        root_path = scope.get("root_path", "") + self.path
        if scope["path"] == root_path:
            scope = {**scope, "path": f"{root_path}/"}  # what routers below expect of their root
        await self.application({**scope, "root_path": root_path}, receive, send)


def mounted(made: Any, path: str) -> ASGI:
    """What a handler with ``mount=True`` returned, as an ASGI application.

    Raises:
        TypeError: it is none, nor one of WSGI.
    """
    if type(made).__module__.partition(".")[0] == "gradio":
        from gradio.routes import App

        made = App.create_app(made)
    arguments = _arguments(made)
    if arguments == 3:
        application: ASGI = made
        return application
    if arguments == 2:
        try:
            from a2wsgi import WSGIMiddleware
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"the WSGI application under {path} needs a2wsgi: pip install 'openlepton[serve]'",
                name="a2wsgi",
            ) from None
        return cast(ASGI, WSGIMiddleware(made))
    raise TypeError(
        f"what is to be mounted under {path} is a {type(made).__name__}: neither an ASGI nor a "
        "WSGI application"
    )


def _arguments(application: Any) -> int:
    """3 of ASGI: scope, receive, send; 2 of WSGI: environ, start_response."""
    if not callable(application):
        return 0
    try:
        parameters = inspect.signature(application).parameters.values()
    except (TypeError, ValueError):
        return 0
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
