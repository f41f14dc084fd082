"""The routes of a model that writes texts: completions and chats, whole or as they are written."""

from collections.abc import Sequence
from typing import Any

from leptonai.serving.answers import JSON, Answer
from leptonai.serving.language import replies
from leptonai.serving.language.asking import wishes_of_chat, wishes_of_completion
from leptonai.serving.language.decoder import Decoder
from leptonai.serving.language.drawing import Likely
from leptonai.serving.language.generating import Generator, Texts, Wish
from leptonai.serving.language.refusals import decoded, error_of
from leptonai.serving.language.routes import Routes
from leptonai.serving.language.wire import ChatRequest, CompletionRequest
from leptonai.serving.language.writer import Writer
from leptonai.serving.responses import Send
from leptonai.serving.streams import EVENTS
from leptonai.serving.threads import Threads

Request = CompletionRequest | ChatRequest


class WritingRoutes(Routes):
    """
    Args:
        threads: one, in which the model computes.
    """

    def __init__(
        self, names: Sequence[str], writer: Writer, decoder: Decoder, threads: Threads
    ) -> None:
        super().__init__(names)
        self._writer = writer
        self._generator = Generator(decoder, threads, writer.decode)
        self._reading = Threads(1, "reading-requests")
        self.handlers = {"/completions": self._complete, "/chat/completions": self._chat}

    async def _complete(self, body: bytes, client: str, send: Send) -> Answer | None:
        request = decoded(body, CompletionRequest)
        self.check_name(request.model)
        wishes = await self._reading.run(wishes_of_completion, request, self._writer)
        reply = replies.Completion(request.model, self._writer.token_text, request.tells_usage)
        return await self._write(request, wishes, reply, client, send)

    async def _chat(self, body: bytes, client: str, send: Send) -> Answer | None:
        request = decoded(body, ChatRequest)
        self.check_name(request.model)
        wishes = await self._reading.run(wishes_of_chat, request, self._writer)
        reply = replies.Chat(request.model, self._writer.token_text, request.tells_usage)
        return await self._write(request, wishes, reply, client, send)

    async def _write(
        self,
        request: Request,
        wishes: Sequence[Wish],
        reply: replies.Reply,
        client: str,
        send: Send,
    ) -> Answer | None:
        prompt_tokens = sum(len(wish.prompt) for wish in wishes[:: request.n or 1])
        texts = self._generator.begin(wishes, client)
        try:
            if not request.stream:
                return await _whole(texts, len(wishes), prompt_tokens, reply)
            await _stream(texts, len(wishes), prompt_tokens, reply, request.tells_usage, send)
            return None
        finally:
            self._generator.abandon(texts)


async def _whole(texts: Texts, count: int, prompt_tokens: int, reply: replies.Reply) -> Answer:
    parts: list[list[str]] = [[] for _ in range(count)]
    tokens: list[list[tuple[int, Likely | None]]] = [[] for _ in range(count)]
    reasons: list[str | None] = [None] * count
    while new := await texts.more():
        for index, written in new:
            parts[index].append(written.text)
            tokens[index] += written.tokens
            reasons[index] = written.finish_reason
    choices = [
        reply.choice(index, "".join(parts[index]), tokens[index], reasons[index])
        for index in range(count)
    ]
    used = replies.usage(prompt_tokens, texts.tokens)
    return Answer(200, JSON.encode(reply.whole(choices, used)))


async def _stream(
    texts: Texts,
    count: int,
    prompt_tokens: int,
    reply: replies.Reply,
    tells_usage: bool,
    send: Send,
) -> None:
    """As server-sent events. What fails at once has a status of its own."""
    new = await texts.more()
    headers = [(b"content-type", EVENTS), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    begun = [choice for at in range(count) if (choice := reply.beginning(at)) is not None]
    events = [_event(reply.chunk(choice)) for choice in begun]
    try:
        while new:
            events += [_event(reply.chunk(reply.piece(index, *written))) for index, written in new]
            await send(_body(b"".join(events)))
            events = []
            new = await texts.more()
        if tells_usage:
            used = replies.usage(prompt_tokens, texts.tokens)
            events.append(_event(reply.last_chunk(used)))
    except Exception as error:
        _, told = error_of(error)
        events = [_event({"error": told})]
    events.append(b"data: [DONE]\n\n")
    await send(_body(b"".join(events)))
    await send({"type": "http.response.body", "body": b""})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + JSON.encode(data) + b"\n\n"


def _body(chunk: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": chunk, "more_body": True}
