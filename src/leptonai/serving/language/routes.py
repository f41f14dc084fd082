"""OpenAI's routes, as an ASGI application that is mounted at ``/v1``::

GET  /v1/models, /v1/models/NAME
POST /v1/completions, /v1/chat/completions   of a model that writes texts
POST /v1/embeddings                          of one that embeds them
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from leptonai.errors import TooManyRequests
from leptonai.serving.answers import JSON, Answer
from leptonai.serving.app import CLIENT_HEADER
from leptonai.serving.bodies import read_body
from leptonai.serving.calls import ClientGone
from leptonai.serving.language.refusals import Refused, refusal
from leptonai.serving.responses import Receive, Scope, Send
from leptonai.serving.streams import hung_up

MAX_REQUESTS = 1_000  # that are read, wait or are answered; one more is answered 429

Handle = Callable[[bytes, str, Send], Awaitable[Answer | None]]  # None: it has sent its answer


class Routes:
    """What all of them have in common.

    Args:
        names: by which the model may be asked; the first is its own.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._created = int(time.time())
        self._requests = 0
        self.handlers: dict[str, Handle] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"][len(scope.get("root_path", "")) :].rstrip("/")
        try:
            answer = await self._answer(scope, path, receive, send)
        except ClientGone:
            return
        except Exception as error:
            answer = refusal(error)
        if answer is not None:
            await _send(answer, send)

    async def _answer(self, scope: Scope, path: str, receive: Receive, send: Send) -> Answer | None:
        method = scope["method"]
        if path == "/models" or path.startswith("/models/"):
            if method != "GET":
                raise _not_allowed(method, path)
            return self._models(path.removeprefix("/models").removeprefix("/"))
        handle = self.handlers.get(path)
        if handle is None:
            known = ", ".join(f"/v1{each}" for each in ("/models", *self.handlers))
            raise Refused(f"there is no /v1{path} here; there is {known}", status=404)
        if method != "POST":
            raise _not_allowed(method, path)
        if self._requests >= MAX_REQUESTS:
            raise TooManyRequests(f"{self._requests} requests wait already; try again in a second")
        self._requests += 1
        try:
            return await self._handled(handle, scope, receive, send)
        finally:
            self._requests -= 1

    async def _handled(
        self, handle: Handle, scope: Scope, receive: Receive, send: Send
    ) -> Answer | None:
        """What nobody waits for any more is not computed to its end."""
        fields = dict(scope["headers"])
        body = await read_body(fields, receive)
        work = asyncio.ensure_future(handle(body, _client(scope, fields), send))
        gone = asyncio.ensure_future(hung_up(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientGone
            return work.result()
        finally:
            gone.cancel()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await work

    def _models(self, name: str) -> Answer:
        if name:
            self.check_name(name)
            return Answer(200, JSON.encode(self._model(name)))
        data = [self._model(each) for each in self._names]
        return Answer(200, JSON.encode({"object": "list", "data": data}))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "leptonai"}

    def check_name(self, name: str) -> None:
        if name not in self._names:
            raise Refused(
                f"The model `{name}` does not exist; there is {', '.join(self._names)}",
                status=404,
                param="model",
                code="model_not_found",
            )


def _client(scope: Scope, fields: Mapping[bytes, bytes]) -> str:
    """Whose turn it is: as the gateway says, else by address."""
    said = fields.get(CLIENT_HEADER) or fields.get(b"x-forwarded-for")
    peer = scope.get("client")
    return said.decode("latin-1") if said else str(peer[0]) if peer else ""


def _not_allowed(method: str, path: str) -> Refused:
    return Refused(f"/v1{path} does not answer {method}", status=405)


async def _send(answer: Answer, send: Send) -> None:
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % len(answer.body)),
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
