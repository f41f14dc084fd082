"""Metric points on their way: batches of columns, and files of batches.

A point is (key, step, value, time). A batch holds, for each key, three columns of 8-byte numbers as
they lie in memory, little-endian; so nothing is parsed a point, and NaN is a value like others.
Needs no numpy.
"""

import re
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path

import msgspec

from leptonai.errors import InvalidRequest, TooLarge
from leptonai.spec.runs import MAX_STEP, check_key

ITEM_BYTES = 8
MAX_BATCH_POINTS = 50_000
MAX_BATCH_BYTES = 2 << 20
MAX_BATCH_KEYS = 2_000
MAX_STREAM = 1 << 20
MAX_NUMBER = (1 << 62) - 1
FRAME_HEAD_BYTES = 8

_WRITER = re.compile(r"[0-9a-f]{16}")


class Series(msgspec.Struct, frozen=True, array_like=True):
    """Points of one key in the order in which they were logged."""

    key: str
    steps: bytes  # int64
    values: bytes  # float64
    times: bytes  # int64, milliseconds since 1970

    @property
    def count(self) -> int:
        return len(self.steps) // ITEM_BYTES


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What a writer sends at once, in order; one that is sent twice is stored once.

    `stream` is the rank whose training these points are about: a resume supersedes points of its
    own stream. Negative ones are measurements of a machine, which nothing supersedes.
    """

    writer: str  # 16 hexadecimal digits: of one stream of one process, drawn anew by each
    sequence: int  # counts the writer's batches, from 1
    stream: int
    series: tuple[Series, ...] = ()
    resume: int | None = None  # the training went on from this step before these points

    @property
    def count(self) -> int:
        return sum(each.count for each in self.series)


def encode_batch(batch: Batch) -> bytes:
    return msgspec.msgpack.encode(batch)


def decode_batch(raw: bytes) -> Batch:
    """Raises:
    InvalidRequest, TooLarge: nobody should store this.
    """
    try:
        batch = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise _malformed(str(wrong)) from None
    if not _WRITER.fullmatch(batch.writer):
        raise _malformed("its writer is not 16 hexadecimal digits")
    if not 0 < batch.sequence <= MAX_NUMBER:
        raise _malformed("its sequence is out of bounds")
    if abs(batch.stream) > MAX_STREAM or abs(batch.resume or 0) > MAX_STEP:
        raise _malformed("its stream or its step is out of bounds")
    if len(batch.series) > MAX_BATCH_KEYS or batch.count > MAX_BATCH_POINTS:
        raise TooLarge(
            f"a batch of {batch.count} points of {len(batch.series)} keys",
            hint=f"At most {MAX_BATCH_POINTS} points of {MAX_BATCH_KEYS} keys: send several.",
        )
    for each in batch.series:
        check_key(each.key)
        sizes = {len(each.steps), len(each.values), len(each.times)}
        if len(sizes) != 1 or sizes.pop() != each.count * ITEM_BYTES or not each.count:
            raise _malformed(f"the columns of {each.key!a} are not equally long")
        for column in (each.steps, each.times):
            numbers = array("q", column)
            if min(numbers) < -MAX_STEP or max(numbers) > MAX_STEP:
                raise _malformed(f"{each.key!a} has a step or a time beyond 2⁵³")
    if len({each.key for each in batch.series}) < len(batch.series):
        raise _malformed("it has a key twice")
    return batch


_decode = msgspec.msgpack.Decoder(Batch).decode


def frame(body: bytes) -> bytes:
    """A batch as it stands in a file: after a crash it is whole, or it is the last and is left."""
    head = len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little")
    return head + body


def frames(path: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """The batches of a file from an offset on, each with the offset after it; up to the first that
    is not whole."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        while len(head := file.read(FRAME_HEAD_BYTES)) == FRAME_HEAD_BYTES:
            size = int.from_bytes(head[:4], "little")
            if size > MAX_BATCH_BYTES:
                return
            body = file.read(size)
            if len(body) < size or zlib.crc32(body) != int.from_bytes(head[4:], "little"):
                return
            offset += FRAME_HEAD_BYTES + size
            yield body, offset


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"the batch of points cannot be read: {why}", hint="use the SDK: leptonai.run.log"
    )
