"""Heads that were read before: what has the same bytes again needs no reading. Pure.

A client that asks again, and a server that answers again, send the same heads for a while, but for
the length of the body. From between two messages a parser makes the same of the same bytes; so the
number after `content-length` is cut out of a head, and what is left is looked up.
"""

from __future__ import annotations

from typing import NamedTuple

from .limits import MAX_ANSWER_HEADS, MAX_KNOWN_HEAD_BYTES

MAX_LENGTH_DIGITS = 12
_NAME = b"\r\ncontent-length:"
# As servers write it. Of any other spelling nothing is learnt.
_SPELLINGS = (b"\r\ncontent-length: ", b"\r\nContent-Length: ")


class KnownRequest:
    """The head of a request that came whole, and what follows from it."""

    __slots__ = ("_after", "_before", "_has_length")

    def __init__(self, before: bytes, after: bytes, *, has_length: bool) -> None:
        self._before = before  # the number
        self._after = after
        self._has_length = has_length

    @classmethod
    def of(cls, request: bytes, *, has_length: bool) -> KnownRequest | None:
        """
        Args:
            request: as a parser saw it begin; None if it is not all of one, or cannot be known
                again.
            has_length: its head has a length.
        """
        size = request.find(b"\r\n\r\n") + 4
        if size > MAX_KNOWN_HEAD_BYTES:
            return None
        head = request[:size]
        if not has_length:
            return cls(head, b"", has_length=False) if size == len(request) else None
        at = head.lower().find(_NAME)
        if at < 0:
            return None
        start = at + len(_NAME)
        while head[start : start + 1] == b" ":
            start += 1
        known = cls(head[:start], head[head.find(b"\r", start) :], has_length=True)
        return None if known.body(request) is None else known

    def body(self, request: bytes) -> tuple[bytes | None, bytes] | None:
        """The length, as it is written, and the body of a whole request with this head; None of any
        other."""
        if not request.startswith(self._before):
            return None
        start = len(self._before)
        if not self._has_length:
            return (None, b"") if len(request) == start else None
        end = request.find(b"\r", start, start + MAX_LENGTH_DIGITS)
        length = request[start:end]
        if end < 0 or not length.isdigit() or not request.startswith(self._after, end):
            return None
        body = request[end + len(self._after) :]
        return (length, body) if int(length) == len(body) else None


class KnownAnswer(NamedTuple):
    status: int
    before: bytes  # the number, as a client gets it; b"" where it gets the answer as it came
    after: bytes


class AnswerHeads:
    """Of answers that are as long as they say, and keep their connection."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, KnownAnswer] = {}

    def of(self, answer: bytes) -> tuple[int, bytes] | None:
        """The status of a whole answer, and what a client gets of it; None if its head is new, or
        if these bytes are not exactly one answer."""
        size = answer.find(b"\r\n\r\n") + 4
        cut = _cut(answer, size)
        if cut is None:
            return None
        start, end = cut
        known = self._known.get(answer[:start] + answer[end:size])
        if known is None or int(answer[start:end]) != len(answer) - size:
            return None
        if not known.before:
            return known.status, answer
        whole = b"".join((known.before, answer[start:end], known.after, answer[size:]))
        return known.status, whole

    def learn(self, answer: bytes, status: int, ours: bytes) -> None:
        """
        Args:
            answer: as a parser saw it begin and end.
            ours: its head, as a client gets it.
        """
        size = answer.find(b"\r\n\r\n") + 4
        cut, ours_cut = _cut(answer, size), _cut(ours, len(ours))
        if size > MAX_KNOWN_HEAD_BYTES or cut is None or ours_cut is None:
            return
        start, end = cut
        if int(answer[start:end]) != len(answer) - size:
            return
        if len(self._known) >= MAX_ANSWER_HEADS:
            self._known.clear()
        same = ours == answer[:size]
        self._known[answer[:start] + answer[end:size]] = KnownAnswer(
            status,
            b"" if same else ours[: ours_cut[0]],
            b"" if same else ours[ours_cut[1] :],
        )


def _cut(answer: bytes, size: int) -> tuple[int, int] | None:
    """Where the number of the length begins and ends in a head of this size."""
    for spelling in _SPELLINGS:
        at = answer.find(spelling, 0, size)
        if at >= 0:
            start = at + len(spelling)
            end = answer.find(b"\r", start, start + MAX_LENGTH_DIGITS)
            return (start, end) if end > 0 and answer[start:end].isdigit() else None
    return None
