"""Files by their digest: what working directories, datasets and models are made of."""

from collections.abc import AsyncIterator

import msgspec

from leptonai.control.api.routing import BYTES, Answer, Call, Route
from leptonai.control.requests import DIGEST
from leptonai.core.access import Action, Resource
from leptonai.errors import InvalidRequest, NotFound, TooLarge
from leptonai.security.permissions import require

MAX_BLOB_BYTES = 64 << 30


class StoredBlob(msgspec.Struct, frozen=True):
    digest: str
    size_bytes: int


async def put(call: Call) -> StoredBlob:
    """Sending a blob that is there already changes nothing."""
    require(call.principal, Action.CREATE, Resource(kind="blob", workspace=call.workspace))
    digest = _digest(call)
    if call.length is not None and call.length > MAX_BLOB_BYTES:
        raise TooLarge(
            f"a blob of {call.length} bytes", hint=f"A blob has at most {MAX_BLOB_BYTES} bytes."
        )
    await call.world.blobs.write(digest, call.chunks(), max_bytes=MAX_BLOB_BYTES)
    size = await call.world.blobs.size(digest)
    return StoredBlob(digest=digest, size_bytes=size or 0)


async def head(call: Call) -> Answer:
    digest, size = await _existing(call)
    return Answer(media=BYTES, headers=_headers(digest, size))


async def get(call: Call) -> Answer:
    digest, size = await _existing(call)
    stream: AsyncIterator[bytes] = call.world.blobs.read(digest)
    return Answer(stream=stream, media=BYTES, headers=_headers(digest, size))


def _headers(digest: str, size: int) -> tuple[tuple[str, str], ...]:
    return (("content-length", str(size)), ("etag", f'"{digest}"'))


async def _existing(call: Call) -> tuple[str, int]:
    require(call.principal, Action.READ, Resource(kind="blob", workspace=call.workspace))
    digest = _digest(call)
    size = await call.world.blobs.size(digest)
    if size is None:
        raise NotFound(f"there is no blob {digest}", hint="Upload it with PUT to the same path.")
    return digest, size


def _digest(call: Call) -> str:
    digest = call.path["digest"]
    if not DIGEST.fullmatch(digest):
        raise InvalidRequest(
            f"{digest[:100]!r} is no digest",
            hint="It looks like sha256: followed by 64 hex digits.",
        )
    return digest


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
        summary="Download a blob",
        media=BYTES,
    ),
)
