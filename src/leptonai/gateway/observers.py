"""What looks at an answer as it passes: the tokens that it took, and a digest to compare by."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Protocol

from .ratelimits import Allowance

TAIL_BYTES = 4_096  # of an answer, in which its usage stands
# Inside of a JSON string every quote is escaped, so no text that a model wrote looks like this.
_TOTAL = re.compile(rb'"total_tokens"\s*:\s*(\d{1,12})')


class Observer(Protocol):
    def body(self, data: bytes) -> None: ...
    def end(self) -> None:
        """The answer is complete, or broke off."""
        ...


class Usage:
    """Takes the tokens of an answer from its caller's allowance: what its `usage` says, and where
    a stream has none, one for each event."""

    __slots__ = ("_allowance", "_events", "_tail")

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._tail = b""
        self._events = 0

    def body(self, data: bytes) -> None:
        self._events += data.count(b"data:")
        self._tail = (self._tail + data)[-TAIL_BYTES:]

    def end(self) -> None:
        said = _TOTAL.findall(self._tail)
        self._allowance.use(int(said[-1]) if said else self._events)


class Digest:
    """Of an answer's body."""

    __slots__ = ("_hash",)

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)

    def body(self, data: bytes) -> None:
        self._hash.update(data)

    def end(self) -> None:
        return None

    @property
    def value(self) -> bytes:
        return self._hash.digest()
