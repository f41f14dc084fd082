"""Files by their digest: what working directories, datasets and models are made of."""

import msgspec

from leptonai.blobs.store import MAX_BLOB_BYTES, check_digest
from leptonai.control.api.routing import BYTES, Answer, Call, Route
from leptonai.core.access import Action, Resource
from leptonai.errors import TooLarge
from leptonai.security.permissions import require


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
    return Answer(media=BYTES, headers=await _headers(call))


async def get(call: Call) -> Answer:
    headers = await _headers(call)
    return Answer(stream=call.world.blobs.get(call.path["digest"]), media=BYTES, headers=headers)


async def _headers(call: Call) -> tuple[tuple[str, str], ...]:
    require(call.principal, Action.READ, Resource(kind="blob", workspace=call.workspace))
    digest = call.path["digest"]
    size = await call.world.blobs.size(digest)
    return (("content-length", str(size)), ("etag", f'"{digest}"'))


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
