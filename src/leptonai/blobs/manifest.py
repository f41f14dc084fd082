"""What the platform must know of a dataset's manifest: which objects hold its bytes."""

from leptonai.blobs.columns import PREFIX_BYTES, decode_head, head_size, place_of
from leptonai.blobs.store import BlobStore
from leptonai.errors import InvalidRequest, TooLarge

OBJECTS = "object_digest"  # the first column, so that it can be read without the rest
DIGEST_BYTES = 32
MAX_OBJECTS = 2_000_000  # of one version


async def objects_of(blobs: BlobStore, manifest: str) -> tuple[str, ...]:
    """The digests of the objects that a version lies in. Reads no more than the manifest's
    beginning.

    Raises:
        NotFound: there is no such blob.
        InvalidRequest, TooLarge: it is no manifest.
    """
    data = bytearray()
    needed, start = PREFIX_BYTES, -1
    stream = blobs.get(manifest)
    try:
        async for chunk in stream:
            data += chunk
            if needed == PREFIX_BYTES and len(data) >= needed:
                needed = head_size(bytes(data[:PREFIX_BYTES]))
            if start < 0 and len(data) >= needed > PREFIX_BYTES:
                start, needed = _place(bytes(data[:needed]), needed)
            if start >= 0 and len(data) >= needed:
                break
    finally:
        await stream.aclose()
    if start < 0 or len(data) < needed:
        raise InvalidRequest(
            f"{manifest} is not the manifest of a dataset", hint="commit the dataset again"
        )
    digests = memoryview(data)[start:needed].tobytes().hex()
    step = 2 * DIGEST_BYTES
    return tuple(f"sha256:{digests[at : at + step]}" for at in range(0, len(digests), step))


def _place(head_data: bytes, head_bytes: int) -> tuple[int, int]:
    column = decode_head(head_data).columns.get(OBJECTS)
    if column is None or len(column.shape) != 2 or column.size != column.shape[0] * DIGEST_BYTES:
        raise InvalidRequest("the manifest names no objects", hint="commit the dataset again")
    if column.shape[0] > MAX_OBJECTS:
        raise TooLarge(
            f"a version of {column.shape[0]} objects; {MAX_OBJECTS} are allowed",
            hint="divide the dataset",
        )
    return place_of(head_bytes, column, head_bytes + column.at + column.size)
