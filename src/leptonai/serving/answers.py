"""What is sent back: results of handlers, and what went wrong."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from leptonai.errors import InvalidRequest, LeptonError, TooManyRequests

log = logging.getLogger("leptonai.serving")


class Answer(NamedTuple):
    """Whole, and encoded."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


NOTHING = Answer(204, b"")


def is_sent_piece_by_piece(result: Any) -> bool:
    return isinstance(result, Iterator | AsyncIterator)


def _is_value(kind: type) -> bool:
    """What is of this type is to be encoded: no stream, and no response, which can send itself."""
    sends_itself = any("__call__" in vars(base) for base in kind.__mro__)
    return not (sends_itself or issubclass(kind, Iterator | AsyncIterator))


is_value: Callable[[Any], bool] = lru_cache(maxsize=256)(_is_value)


def as_plain(value: Any) -> Any:
    """Arrays and tensors, of whichever library, as lists; their scalars as numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "to_wire"):
        return value.to_wire()
    raise TypeError(f"the handler returned a {type(value).__name__}, which cannot be sent")


JSON = msgspec.json.Encoder(enc_hook=as_plain)


def in_json(result: Any) -> Any:
    """A result, as what is sent. Streams and responses are still to be sent as what they are."""
    if result is None:
        return NOTHING
    return Answer(200, JSON.encode(result)) if is_value(type(result)) else result


def problem(status: int, error: Any, **more: Any) -> Answer:
    return Answer(status, JSON.encode({"error": error, **more}))


def refusal(error: Exception) -> Answer | None:
    """What an error says itself; None of one that nobody foresaw."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and hasattr(error, "detail"):  # our HTTPException, or Starlette's
        named: Mapping[str, str] = getattr(error, "headers", None) or {}
        headers = tuple((name.lower().encode(), value.encode()) for name, value in named.items())
        return problem(status, error.detail)._replace(headers=headers)
    if not isinstance(error, LeptonError):
        return None
    if isinstance(error, InvalidRequest):
        return problem(422, error.message, detail=_detail(error))
    answer = problem(error.status, error.message)
    if isinstance(error, TooManyRequests):
        return answer._replace(headers=((b"retry-after", b"1"),))
    return answer


def failure(error: Exception, method: str, what: str) -> Answer:
    """What an error says itself; of one that nobody foresaw what it is, and the log has it all."""
    known = refusal(error)
    if known is not None:
        return known
    log.error("%s %s failed", method, what, exc_info=error)
    return problem(500, str(error) or type(error).__name__)


def _detail(error: InvalidRequest) -> list[dict[str, Any]]:
    """As clients of FastAPI read it."""
    where, colon, what = error.message.partition(": ")
    if not colon or not where or " " in where:
        where, what = "", error.message
    steps = where.replace("[", ".").replace("]", "").split(".")
    loc = ["body", *(int(step) if step.isdecimal() else step for step in steps if step)]
    return [{"loc": loc, "msg": what, "type": "value_error"}]
