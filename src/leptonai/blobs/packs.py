"""Packs: files as one blob, which is named by the digests of the files. So nothing is hashed twice.

    8 bytes   what kind of blob this is
    4 bytes   how many members it has, little-endian
    4 bytes   the size of the head: of everything before the first member
    sizes     8 bytes a member
    digests   32 bytes a member: their SHA-256
    zeros     to the end of the head
    members   one after the other, and nothing more

**The name of a blob is the SHA-256 of its bytes; of a pack, that of its head.** The head says how
large each member is and what it hashes to, so here, too, a name has one content: two packs of one
name would need two inputs of one SHA-256. Nor can a pack and another blob share a name, for what
begins as a pack is a whole one, or it has no name and is never kept.
"""

import hashlib
import struct
from collections.abc import Sequence

from leptonai.errors import InvalidRequest

MAGIC = b"\0LEPTONP"  # no text, tar, or file of columns begins so
MAX_MEMBERS = 65_536
ALIGN_BYTES = 64

_PREFIX = struct.Struct("<8sII")
_MEMBER_BYTES = 8 + 32
_MAX_HEAD_BYTES = 4 << 20


def head_size(members: int) -> int:
    """Enough for so many."""
    assert members <= MAX_MEMBERS, members
    return -(-(_PREFIX.size + members * _MEMBER_BYTES) // ALIGN_BYTES) * ALIGN_BYTES


def encode_head(sizes: Sequence[int], digests: Sequence[bytes], head_bytes: int) -> bytes:
    """Of members in order; `head_bytes` may be more than they need."""
    prefix = _PREFIX.pack(MAGIC, len(sizes), head_bytes)
    head = prefix + struct.pack(f"<{len(sizes)}Q", *sizes) + b"".join(digests)
    assert len(head) <= head_bytes, (len(sizes), head_bytes)
    return head.ljust(head_bytes, b"\0")


def name_of_head(head: bytes) -> str:
    return f"sha256:{hashlib.sha256(head).hexdigest()}"


class Naming:
    """Finds the name of a blob whose bytes come piece by piece. Used as `hashlib.sha256()` is."""

    def __init__(self) -> None:
        self._start = bytearray()  # until it is known what this is
        self._rest: _Members | hashlib._Hash | None = None  # takes what follows

    def update(self, data: bytes | memoryview) -> None:
        if self._rest is None:
            self._start += data
            data = self._begin()
        if self._rest is not None:
            self._rest.update(data)

    def hexdigest(self) -> str:
        """Raises:
        InvalidRequest: these bytes begin as a pack, but are no whole one.
        """
        if self._rest is None:
            if self._start.startswith(MAGIC):
                raise _damaged()
            return hashlib.sha256(self._start).hexdigest()
        return self._rest.hexdigest()

    def _begin(self) -> bytes:
        """Once enough is there: says who takes the rest, and returns what is for them."""
        start = self._start
        if len(start) < _PREFIX.size:
            return b""
        magic, count, head_bytes = _PREFIX.unpack_from(start)
        if magic != MAGIC:
            self._rest = hashlib.sha256()
            return bytes(start)
        if count > MAX_MEMBERS or not head_size(count) <= head_bytes <= _MAX_HEAD_BYTES:
            raise _damaged()
        if len(start) < head_bytes:
            return b""
        self._rest = _Members(bytes(start[:head_bytes]), count)
        return bytes(start[head_bytes:])


class _Members:
    """What follows the head of a pack, checked against it."""

    def __init__(self, head: bytes, count: int) -> None:
        self._head = head
        self._sizes = struct.unpack_from(f"<{count}Q", head, _PREFIX.size)
        at = _PREFIX.size + 8 * count
        self._digests = [head[at + 32 * member : at + 32 * member + 32] for member in range(count)]
        self._member = -1  # that comes in
        self._left_bytes = 0
        self._sha256 = hashlib.sha256()
        self._next()

    def update(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            piece = rest[: self._left_bytes]
            if not piece:
                raise _damaged()  # it goes on after its last member
            self._sha256.update(piece)
            self._left_bytes -= len(piece)
            if not self._left_bytes:
                self._check()
                self._next()
            rest = rest[len(piece) :]

    def hexdigest(self) -> str:
        if self._left_bytes or self._member < len(self._sizes):
            raise _damaged()
        return hashlib.sha256(self._head).hexdigest()

    def _next(self) -> None:
        """The next member that has bytes."""
        while not self._left_bytes and self._member < len(self._sizes):
            self._member += 1
            self._sha256 = hashlib.sha256()
            if self._member < len(self._sizes):
                self._left_bytes = self._sizes[self._member]
                if not self._left_bytes:
                    self._check()

    def _check(self) -> None:
        if self._sha256.digest() != self._digests[self._member]:
            raise _damaged()


def _damaged() -> InvalidRequest:
    return InvalidRequest(
        "the bytes begin as a pack, but are not a whole one",
        hint="they changed or were cut on their way: send them again",
    )
