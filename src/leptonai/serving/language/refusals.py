"""Errors in the shape that OpenAI's clients read: ``{"error": {message, type, param, code}}``."""

import logging
import re
from typing import Any, TypeVar

import msgspec

from leptonai.errors import InvalidRequest, LeptonError, TooManyRequests
from leptonai.serving.answers import JSON, Answer

Kind = TypeVar("Kind")

_INVALID = "invalid_request_error"
_FIELD = re.compile(r"\$\.([^`]+)")  # in "`key` in `$.logit_bias`"
_MISSING_FIELD = re.compile(r"missing required field `([^`]*)`")
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")

log = logging.getLogger("leptonai.serving")


class Refused(Exception):
    """
    Args:
        param: the field that is wrong.
        code: what programs may match on.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = _INVALID,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": type, "param": param, "code": code}


def decoded(body: bytes, kind: type[Kind]) -> Kind:
    """
    Raises:
        Refused: it is not what is expected; names the field.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as wrong:
        said = str(wrong)
        unknown = _UNKNOWN_FIELD.search(said)
        if unknown:
            raise Refused(
                f"Unrecognized request argument supplied: {unknown[1]}",
                param=unknown[1],
                code="unknown_parameter",
            ) from None
        what, _, where = said.partition(" - at ")
        missing, field = _MISSING_FIELD.search(what), _FIELD.search(where)
        raise Refused(
            f"{field[1]}: {what[0].lower()}{what[1:]}" if field else what,
            param=missing[1] if missing else field[1] if field else None,
            code="missing_required_parameter" if missing else "invalid_value",
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise Refused(f"The body is not JSON: {wrong}") from None


def error_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status, and the body's ``error``."""
    if isinstance(error, Refused):
        return error.status, error.error
    if isinstance(error, TooManyRequests):
        told = Refused(error.message, type="requests", code="rate_limit_exceeded", status=429)
        return error_of(told)
    if isinstance(error, InvalidRequest):
        field, colon, _ = error.message.partition(": ")
        param = field if colon and " " not in field else None
        return error_of(Refused(error.message, param=param))
    if isinstance(error, LeptonError) and error.status < 500:
        return error_of(Refused(error.message, status=error.status))
    log.error("a request failed", exc_info=error)
    status = error.status if isinstance(error, LeptonError) else 500
    said = error.message if isinstance(error, LeptonError) else "the server failed; see its log"
    return error_of(Refused(said, status=status, type="server_error"))


def refusal(error: Exception) -> Answer:
    status, told = error_of(error)
    answer = Answer(status, JSON.encode({"error": told}))
    return answer._replace(headers=((b"retry-after", b"1"),)) if status == 429 else answer
