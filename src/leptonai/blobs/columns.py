"""Columns of numbers as bytes: a head that says what they are, then each as it lies in memory.

    8 bytes   what kind of file this is
    8 bytes   the size of the head, little-endian
    head      JSON: facts, and of each column its type, shape and place
    columns   each at a multiple of 64 bytes, little-endian

So a reader maps the file, and value i of a column is there without anything being decoded. Needs no
numpy: who wants only the facts, or one column as bytes, has them.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from leptonai.errors import InvalidRequest

MAGIC = b"LEPTONC1"
PREFIX_BYTES = 16
ALIGN_BYTES = 64
MAX_HEAD_BYTES = 16 << 20
ITEM_BYTES = {"u1": 1, "i4": 4, "u4": 4, "f4": 4, "i8": 8, "u8": 8}


class Column(msgspec.Struct, frozen=True, array_like=True):
    type: str  # of `ITEM_BYTES`
    shape: tuple[int, ...]
    at: int  # bytes after the head's end, rounded up

    @property
    def size(self) -> int:
        return ITEM_BYTES[self.type] * math.prod(self.shape)


class Head(msgspec.Struct, frozen=True):
    facts: msgspec.Raw
    columns: dict[str, Column]


def encode_head(facts: object, columns: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """All that comes before the first column."""
    placed, at = {}, 0
    for name, (type, shape) in columns.items():
        placed[name] = Column(type, shape, at)
        at += _aligned(placed[name].size)
    body = msgspec.json.encode(Head(msgspec.Raw(msgspec.json.encode(facts)), placed))
    head = MAGIC + len(body).to_bytes(8, "little") + body
    return head.ljust(_aligned(len(head)), b" ")


def head_size(prefix: bytes | memoryview) -> int:
    """How many bytes come before the first column, by the first `PREFIX_BYTES`.

    Raises:
        InvalidRequest: this is no such file.
    """
    size = int.from_bytes(prefix[8:PREFIX_BYTES], "little")
    if len(prefix) < PREFIX_BYTES or bytes(prefix[:8]) != MAGIC or size > MAX_HEAD_BYTES:
        raise _damaged("it does not begin as one")
    return _aligned(PREFIX_BYTES + size)


def decode_head(data: bytes | memoryview) -> Head:
    """Raises:
    InvalidRequest: this is no such file.
    """
    size = int.from_bytes(data[8:PREFIX_BYTES], "little")
    head_size(data[:PREFIX_BYTES])
    try:
        head = msgspec.json.decode(data[PREFIX_BYTES : PREFIX_BYTES + size], type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise _damaged(str(wrong)) from wrong
    for name, column in head.columns.items():
        known = column.type in ITEM_BYTES and min((*column.shape, column.at)) >= 0
        if not known or column.at % ALIGN_BYTES:
            raise _damaged(f"of its column {name!a}")
    return head


def place_of(head_bytes: int, column: Column, total_bytes: int) -> tuple[int, int]:
    """Where a column begins and ends in the file.

    Raises:
        InvalidRequest: the file ends before it does.
    """
    start = head_bytes + column.at
    if start + column.size > total_bytes:
        raise _damaged("it is cut short")
    return start, start + column.size


def padding(size: int) -> bytes:
    return bytes(_aligned(size) - size)


def facts_as(head: Head, kind: type[Any]) -> Any:
    """Raises:
    InvalidRequest: these are other facts.
    """
    try:
        return msgspec.json.decode(head.facts, type=kind)
    except msgspec.DecodeError as wrong:
        raise _damaged(str(wrong)) from wrong


def _aligned(size: int) -> int:
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES


def _damaged(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"the file of columns cannot be read: {why}", hint="fetch it, or make it, again"
    )
