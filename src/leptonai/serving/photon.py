"""Photon: a model server written as a class. Its handlers are methods, its state is `self`."""

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar, overload

from leptonai.serving.handlers import Declaration, Method, declare

Handler = TypeVar("Handler", bound=Callable[..., Any])


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

    One that yields is answered piece by piece: as server-sent events where the client accepts
    ``text/event-stream``, else as chunks. A `Response` is sent as it is.
    """

    handler_max_concurrency: ClassVar[int] = 1  # sync handlers, or batches, that may run at once
    handler_timeout: ClassVar[float] = 600  # seconds; a call that takes longer is answered 504

    # Whether replicas may be copies of a process in which `init` has run: see `warm_up`.
    warm_start: ClassVar[bool] = True

    # What `leptonai photon` sets up where the photon is to run.
    requirement_dependency: ClassVar[Sequence[str]] = ()  # lines for pip
    system_dependency: ClassVar[Sequence[str]] = ()  # packages that its image, or node, must have
    deployment_template: ClassVar[Mapping[str, Any]] = {}  # resource_shape, env, secret
    extra_files: ClassVar[Sequence[str]] = ()  # beside the photon's own file, relative to it

    def init(self) -> None:
        """Called once, before the first call; in no case by the constructor. Load models here."""

    def warm_up(self) -> None:
        """Called once after `init`, in each replica, before its first call.

        A further replica may be a copy of a process in which `init` has run. So what copies must
        not share belongs here: connections, threads, seeds, files to write to; and a first pass
        through the model. Where `init` leaves connections or threads behind there are no copies.
        """

    def add_background_task(
        self, function: Callable[..., Any], *arguments: Any, **named: Any
    ) -> None:
        """Have a function called without the answer waiting for it: one after the other, in a
        thread of their own. What it raises goes to the log.
        """
        _background(self).submit(_run_in_background, function, arguments, named)

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
        max_batch_size: int | None = None,
        max_wait_time: float | None = None,
        mount: bool = False,
        use_raw_args: bool = False,
        cancel_on_disconnect: float | bool = False,
    ) -> Callable[[Handler], Handler]: ...

    @staticmethod
    def handler(
        path: Any = None,
        /,
        *,
        method: Method = "POST",
        example: Any = None,
        raw: bool = False,
        max_batch_size: int | None = None,
        max_wait_time: float | None = None,
        mount: bool = False,
        use_raw_args: bool = False,
        cancel_on_disconnect: float | bool = False,
    ) -> Any:
        """Make a method answer requests.

        Args:
            path: where; the method's name unless given. ``greet/{name}`` passes on a part of it.
            method: "POST", or "GET".
            example: of an input, shown in ``/openapi.json``.
            raw: the body is no JSON: as bytes, it is the one argument.
            max_batch_size: the method gets the arguments of up to so many calls at once, each as a
                list, and returns a list of their results; an exception in it fails that call alone.
                A batch is what has arrived while the method was busy. Calls whose arrays differ in
                shape do not go together. The annotations are those of one call, or `Batch` of them.
            max_wait_time: seconds that a batch which is not full waits for more calls. It does not
                wait unless given.
            mount: the method takes nothing, and returns an ASGI or WSGI application, StaticFiles or
                another photon, which is served under the path.
            use_raw_args: the one argument is Starlette's Request.
            cancel_on_disconnect: end the call when its client hangs up: a method that is ``async``,
                or waits for its turn. (It once was the time in seconds between two looks.)
        """
        if callable(path):
            return declare(path, Declaration())
        declaration = Declaration(
            path,
            method,
            example,
            raw,
            max_batch_size,
            max_wait_time or 0.0,
            mount,
            use_raw_args,
            bool(cancel_on_disconnect),
        )
        return lambda function: declare(function, declaration)

    def launch(self, host: str | None = None, port: int | None = None) -> None:
        """Serve until SIGTERM or SIGINT, then finish the calls that were accepted.

        Args:
            host: the address to listen on: $LEPTON_BIND, or this machine only, unless given.
            port: $PORT, or 8080, unless given.
        """
        from leptonai.serving.launching import serve

        serve(self, host, port)


_BACKGROUND = "_photon_background"
_making_background = threading.Lock()

log = logging.getLogger("leptonai.serving")


def _background(photon: Photon) -> ThreadPoolExecutor:
    """Kept with the photon, whose own constructor may not know of it."""
    with _making_background:
        made: ThreadPoolExecutor | None = vars(photon).get(_BACKGROUND)
        if made is None:
            made = ThreadPoolExecutor(1, thread_name_prefix=f"{type(photon).__name__}-background")
            vars(photon)[_BACKGROUND] = made
        return made


def _run_in_background(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    try:
        result = function(*arguments, **named)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except Exception:
        log.exception("a background task failed")
