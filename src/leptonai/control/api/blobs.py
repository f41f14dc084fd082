"""Files by their digest: what working directories, datasets and models are made of."""

import re
from collections.abc import AsyncGenerator
from dataclasses import replace

import msgspec

from leptonai.blobs.store import MAX_BLOB_BYTES, check_digest
from leptonai.control.api.routing import BYTES, Answer, Call, Route
from leptonai.core.access import Action, Resource
from leptonai.errors import RangeNotSatisfiable, TooLarge
from leptonai.security.permissions import require

_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


class StoredBlob(msgspec.Struct, frozen=True):
    digest: str
    size_bytes: int


async def put(call: Call) -> StoredBlob:
    """Sending a blob that is there already changes nothing, but that it is kept for another hour
    without anything that refers to it."""
    require(call.principal, Action.CREATE, Resource(kind="blob", workspace=call.workspace))
    digest = check_digest(call.path["digest"])
    if call.length is not None and call.length > MAX_BLOB_BYTES:
        raise TooLarge(
            f"a blob of {call.length} bytes", hint=f"A blob has at most {MAX_BLOB_BYTES} bytes."
        )
    await call.world.blobs.put(call.chunks(), digest)
    return StoredBlob(digest=digest, size_bytes=await call.world.blobs.size(digest))


async def head(call: Call) -> Answer:
    return about_blob(call.path["digest"], await _size(call))


async def get(call: Call) -> Answer:
    """All of it, or the one range that is asked for. A blob never changes: `If-Range` holds."""
    return await part_of_blob(call, call.path["digest"], await _size(call))


def about_blob(digest: str, length: int) -> Answer:
    """What is said of a blob, or of so many bytes of it, before its bytes."""
    headers = (
        ("content-length", str(length)),
        ("etag", f'"{digest}"'),
        ("accept-ranges", "bytes"),
    )
    return Answer(media=BYTES, headers=headers)


async def part_of_blob(call: Call, digest: str, size: int) -> Answer:
    """The blob, or the one range of it that the call asks for."""
    asked = byte_range(call.header("range"), size)
    start, end = asked or (0, size)
    pieces = _Begun(call.world.blobs.get(digest, start, end))
    await pieces.begin()
    answer = replace(about_blob(digest, end - start), stream=pieces)
    if asked is None:
        return answer
    content_range = ("content-range", f"bytes {start}-{end - 1}/{size}")
    return replace(answer, status=206, headers=(*answer.headers, content_range))


class _Begun:
    """Pieces of which the first is read before the answer begins, so that one that cannot be read
    is an answer of its own, and not one that breaks off."""

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        self._pieces = pieces
        self._first: bytes | None = None

    async def begin(self) -> None:
        self._first = await anext(self._pieces, None)

    def __aiter__(self) -> "_Begun":
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._pieces)

    async def aclose(self) -> None:
        await self._pieces.aclose()


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Where the range begins and ends that a header asks for, of so many bytes; None for all of
    them, which is also the answer to what is no single range (RFC 9110, 14.2).

    Raises:
        RangeNotSatisfiable: it begins after the end.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:  # the last so many
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if start >= size:
        raise RangeNotSatisfiable(
            f"the range begins at {start}, and the blob has {size} bytes",
            hint="Ask for all of it.",
        )
    return start, end


async def _size(call: Call) -> int:
    require(call.principal, Action.READ, Resource(kind="blob", workspace=call.workspace))
    return await call.world.blobs.size(call.path["digest"])


ROUTES = (
    Route(
        method="PUT",
        path="/blobs/{digest}",
        handler=put,
        summary="Upload bytes; they must have the digest of the path",
        raw_body=True,
        answer=StoredBlob,
    ),
    Route(
        method="HEAD",
        path="/blobs/{digest}",
        handler=head,
        summary="Whether a blob is there",
        media=BYTES,
    ),
    Route(
        method="GET",
        path="/blobs/{digest}",
        handler=get,
        summary="Download a blob, or with `Range: bytes=FIRST-LAST` a part of it",
        media=BYTES,
        ranges=True,
    ),
)
