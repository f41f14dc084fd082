"""The route of a model that embeds texts."""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leptonai.errors import InvalidRequest
from leptonai.serving.answers import JSON, Answer
from leptonai.serving.batches import Batcher
from leptonai.serving.batching import BatchQueue
from leptonai.serving.language.asking import inputs_of
from leptonai.serving.language.embedding import Embedder
from leptonai.serving.language.refusals import Refused, decoded
from leptonai.serving.language.routes import Routes
from leptonai.serving.language.wire import EmbeddingRequest
from leptonai.serving.responses import Send
from leptonai.serving.threads import Threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_WAITING = 256  # requests
MAX_CALLS = 32  # requests that are computed together


class EmbeddingRoutes(Routes):
    """
    Args:
        threads: one, in which the model computes.
    """

    def __init__(self, names: Sequence[str], embedder: Embedder, threads: Threads) -> None:
        super().__init__(names)
        self._embedder = embedder
        queue: BatchQueue[Any] = BatchQueue(MAX_CALLS, 0.0, capacity=MAX_WAITING)
        self._batcher = Batcher(self._together, queue, threads, 1)
        self.handlers = {"/embeddings": self._embed}

    async def _embed(self, body: bytes, client: str, send: Send) -> Answer:
        request = decoded(body, EmbeddingRequest)
        self.check_name(request.model)
        size = self._embedder.size
        if request.dimensions is not None and request.dimensions > size:
            raise Refused(f"the embeddings have {size} dimensions", param="dimensions")
        found: Answer = await self._batcher.call({"asked": request}, client, lambda made: made)
        return found

    def _together(self, asked: Sequence[EmbeddingRequest]) -> list[Answer | Exception]:
        """In the thread: what is wrong with one request is not its neighbours' matter."""
        read: list[list[list[int]] | Exception] = []
        for request in asked:
            try:
                read.append(self._read(request))
            except (Refused, InvalidRequest) as refused:
                read.append(refused)
        texts = [text for each in read if not isinstance(each, Exception) for text in each]
        made = self._embedder.of_tokens(texts) if texts else np.empty((0, 0))
        answers: list[Answer | Exception] = []
        at = 0
        for request, each in zip(asked, read, strict=True):
            if isinstance(each, Exception):
                answers.append(each)
                continue
            found, at = made[at : at + len(each)], at + len(each)
            answers.append(self._told(request, found, sum(map(len, each))))
        return answers

    def _read(self, request: EmbeddingRequest) -> list[list[int]]:
        embedder = self._embedder
        tokens = inputs_of(request.input, embedder.tokens_of, "input", embedder.vocabulary)
        for at, each in enumerate(tokens):
            if len(each) > embedder.longest:
                raise Refused(
                    f"This model's maximum context length is {embedder.longest} tokens, and "
                    f"input[{at}] has {len(each)}.",
                    param="input",
                    code="context_length_exceeded",
                )
        return tokens

    def _told(self, request: EmbeddingRequest, found: "NDArray[Any]", tokens: int) -> Answer:
        if request.dimensions is not None:
            found = found[:, : request.dimensions]
            if self._embedder.normalises:
                lengths = np.linalg.norm(found, axis=1, keepdims=True)
                found = found / np.maximum(lengths, 1e-12)
        found = found.astype("<f4")
        told: list[Any] = (
            [base64.b64encode(each.tobytes()).decode() for each in found]
            if request.encoding_format == "base64"
            else found.tolist()
        )
        data = [
            {"object": "embedding", "index": at, "embedding": each} for at, each in enumerate(told)
        ]
        used = {"prompt_tokens": tokens, "total_tokens": tokens}
        body = {"object": "list", "data": data, "model": request.model, "usage": used}
        return Answer(200, JSON.encode(body))
