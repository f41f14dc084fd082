"""What is answered, as OpenAI's clients read it: completions and chats, whole or in chunks."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leptonai.serving.language.drawing import Likely

Tokens = Sequence[tuple[int, Likely | None]]
TokenText = Callable[[int], str]


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Reply:
    """One answer: what all of its chunks have in common.

    Args:
        usage_in_chunks: the client asked for it, so chunks before the last say that they have none.
    """

    prefix: str
    object: str
    chunk_object: str

    def __init__(self, model: str, token_text: TokenText, usage_in_chunks: bool) -> None:
        self._head = {
            "id": f"{self.prefix}-{secrets.token_hex(16)}",
            "created": int(time.time()),
            "model": model,
        }
        self._token_text = token_text
        self._usage: dict[str, Any] = {"usage": None} if usage_in_chunks else {}

    def whole(self, choices: Sequence[Mapping[str, Any]], used: dict[str, int]) -> dict[str, Any]:
        return {**self._head, "object": self.object, "choices": [*choices], "usage": used}

    def chunk(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._head, "object": self.chunk_object, "choices": [choice], **self._usage}

    def last_chunk(self, used: dict[str, int]) -> dict[str, Any]:
        return {**self._head, "object": self.chunk_object, "choices": [], "usage": used}

    def beginning(self, index: int) -> dict[str, Any] | None:
        """A first choice in chunks, before there is a text."""
        return None

    def piece(self, index: int, text: str, tokens: Tokens, reason: str | None) -> dict[str, Any]:
        """A choice in a chunk."""
        raise NotImplementedError

    def choice(self, index: int, text: str, tokens: Tokens, reason: str | None) -> dict[str, Any]:
        """A whole one."""
        raise NotImplementedError


class Completion(Reply):
    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def piece(self, index: int, text: str, tokens: Tokens, reason: str | None) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(tokens),
            "finish_reason": reason,
        }

    choice = piece

    def _logprobs(self, tokens: Tokens) -> dict[str, Any] | None:
        told = [(token, likely) for token, likely in tokens if likely is not None]
        if not told:
            return None
        texts = [self._token_text(token) for token, _ in told]
        offsets = [0]
        for text in texts[:-1]:
            offsets.append(offsets[-1] + len(text))
        return {
            "tokens": texts,
            "token_logprobs": [likely.logprob for _, likely in told],
            "top_logprobs": [
                {self._token_text(token): logprob for token, logprob in likely.top}
                for _, likely in told
            ],
            "text_offset": offsets,
        }


class Chat(Reply):
    prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def beginning(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, text: str, tokens: Tokens, reason: str | None) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {"content": text} if text else {},
            "logprobs": self._logprobs(tokens),
            "finish_reason": reason,
        }

    def choice(self, index: int, text: str, tokens: Tokens, reason: str | None) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(tokens),
            "finish_reason": reason,
        }

    def _logprobs(self, tokens: Tokens) -> dict[str, Any] | None:
        told = [
            {
                **self._told(token, likely.logprob),
                "top_logprobs": [self._told(*each) for each in likely.top],
            }
            for token, likely in tokens
            if likely is not None
        ]
        return {"content": told, "refusal": None} if told else None

    def _told(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._token_text(token)
        return {"token": text, "logprob": logprob, "bytes": [*text.encode()]}
