"""The bytes of one request towards a replica: read ahead, sent, and kept to be sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .head import LAST_CHUNK, chunk
from .limits import MAX_REPLAY_BYTES, SMALL_REPLAY_BYTES

if TYPE_CHECKING:
    from .gateway import Gateway


class Outgoing:
    """Of an `Exchange`, which knows when to send."""

    __slots__ = ("_large", "_sent", "_sent_bytes", "_unsent", "_unsent_bytes", "chunked", "kept")

    def __init__(self) -> None:
        self.chunked = False  # the body is sent in chunks
        self.kept = True  # all that was sent is still here
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._sent: list[bytes] = []
        self._sent_bytes = 0
        self._large = False  # takes one of the gateway's few places for large kept requests

    def put(self, data: bytes) -> None:
        """What was read of the body."""
        if self.chunked:
            data = chunk(data)
        self._unsent.append(data)
        self._unsent_bytes += len(data)

    def put_end(self) -> None:
        if self.chunked:
            self._unsent.append(LAST_CHUNK)
            self._unsent_bytes += len(LAST_CHUNK)

    def take(self) -> bytes:
        """All that was not yet sent."""
        unsent = self._unsent
        data = unsent[0] if len(unsent) == 1 else b"".join(unsent)
        unsent.clear()
        self._unsent_bytes = 0
        return data

    def keep(self, data: bytes, gateway: Gateway) -> None:
        """What is being sent stays here while it may have to be sent again."""
        self._sent.append(data)
        self._sent_bytes += len(data)
        if self._sent_bytes <= SMALL_REPLAY_BYTES:
            return
        if not self._large and self._sent_bytes <= MAX_REPLAY_BYTES:
            self._large = gateway.take_replay_room()
        if not self._large or self._sent_bytes > MAX_REPLAY_BYTES:
            self.kept = False
            self.forget_sent(gateway)

    def whole(self) -> bytes:
        """All that was sent, where it is kept."""
        return b"".join(self._sent)

    def forget_sent(self, gateway: Gateway) -> None:
        self._sent.clear()
        self._sent_bytes = 0
        if self._large:
            self._large = False
            gateway.give_replay_room()

    def rewind(self, gateway: Gateway) -> None:
        """All is yet to be sent."""
        self._unsent[:0] = self._sent
        self._unsent_bytes += self._sent_bytes
        self.forget_sent(gateway)
