"""`BlobStore`: put and get bytes by their digest."""

import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonai.blobs.packs import Naming
from leptonai.errors import InvalidRequest, NotFound, StorageFull, TooLarge, Unavailable

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CHUNK_BYTES = 1 << 20
MAX_BLOB_BYTES = 64 << 30
SPOOL_BYTES = 8 << 20  # of a blob on its way that stay in memory
KEPT_UNUSED_S = 3_600.0  # after a blob was put or asked for: what refers to it is written later

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PATH = re.compile(r"sha256/[0-9a-f]{2}/([0-9a-f]{64})")


def check_digest(digest: str) -> str:
    """
    Raises:
        InvalidRequest: it is none.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequest(
            f"{digest!r} is not a digest", hint="a digest is sha256: and 64 hexadecimal digits"
        )
    return digest


class BlobStore:
    """A blob is written once under the name of its content, so it never changes and a writer that
    finds it there has nothing to do.

    Whoever removes what is not in use (`collect`) must do it through the same `BlobStore` as all
    who write, for it remembers what they were told.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        max_bytes: int = MAX_BLOB_BYTES,
        kept_unused_s: float = KEPT_UNUSED_S,
    ) -> None:
        """`place` is a directory, or a URL of an object store: s3://, gs://, az://, memory://."""
        self._place = place
        self._max_bytes = max_bytes
        self._kept_unused_s = kept_unused_s
        self._opened: ObjectStore | None = None
        self._wanted: dict[str, float] = {}  # when each was last put or asked for, oldest first
        self._removals: dict[str, asyncio.Event] = {}  # under way; set when it is done

    @property
    def _store(self) -> "ObjectStore":
        # On first use: importing obstore takes longer than the rest of a command line's start.
        if self._opened is None:
            from obstore.store import LocalStore, from_url

            if isinstance(self._place, Path) or "://" not in self._place:
                self._opened = LocalStore(Path(self._place).absolute(), mkdir=True)
            else:
                self._opened = from_url(self._place)
        return self._opened

    async def put(self, stream: AsyncIterator[bytes], expected_digest: str | None = None) -> str:
        """Keep all bytes of the stream, visible when all are there; returns their digest.

        Raises:
            InvalidRequest: the bytes are not those of the expected digest.
            TooLarge: there are more than `max_bytes`.
            StorageFull, Unavailable: they could not be kept.
        """
        if expected_digest is not None:
            check_digest(expected_digest)
        import obstore

        sha256, size = Naming(), 0
        # The name is known only at the end, so the bytes wait aside: in memory, then in a file.
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            try:
                async for chunk in stream:
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise TooLarge(
                            f"the blob is larger than {self._max_bytes} bytes",
                            hint="leave out what is not needed, or split it",
                        )
                    sha256.update(chunk)
                    spool.write(chunk)
            except OSError as error:
                raise _storage_error(error) from error
            digest = f"sha256:{sha256.hexdigest()}"
            if expected_digest not in (None, digest):
                raise InvalidRequest(
                    f"the bytes have the digest {digest}, not {expected_digest}",
                    hint="they changed or were cut on their way: send them again",
                )
            if not await self.exists(digest):
                spool.seek(0)
                try:
                    # A local store writes beside and renames; object stores show whole objects
                    # only.
                    await obstore.put_async(self._store, blob_path(digest), spool)
                except Exception as error:
                    raise _storage_error(error) from error
                self._want(digest)
        return digest

    async def get(self, digest: str) -> AsyncIterator[bytes]:
        """Its bytes, in pieces.

        Raises:
            NotFound: there is no such blob.
        """
        import obstore

        try:
            result = await obstore.get_async(self._store, blob_path(check_digest(digest)))
            async for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)
        except FileNotFoundError:
            raise _not_found(digest) from None
        except obstore.exceptions.BaseError as error:
            raise _storage_error(error) from error

    async def exists(self, digest: str) -> bool:
        return await self._head(digest) is not None

    async def size(self, digest: str) -> int:
        """In bytes.

        Raises:
            NotFound: there is no such blob.
        """
        head = await self._head(digest)
        if head is None:
            raise _not_found(digest)
        return int(head["size"])

    async def collect(self, in_use: Collection[str]) -> int:
        """Remove every blob that is not in use and that nobody has lately put or asked for; say how
        many.

        `in_use` may be as old as `kept_unused_s`: whoever refers to a blob was told before that it
        is there. What this process was asked is all that is known of that, so for as long after
        its start nothing may be collected.

        Raises:
            StorageFull, Unavailable: the rest is still there.
        """
        import obstore

        removed = 0
        try:
            async for listed in obstore.list(self._store, prefix="sha256"):
                for blob in listed:
                    found = _PATH.fullmatch(blob["path"])
                    if not found or f"sha256:{found[1]}" in in_use:
                        continue
                    age = datetime.now(UTC) - blob["last_modified"]
                    if age.total_seconds() >= self._kept_unused_s:
                        removed += await self._remove(f"sha256:{found[1]}")
        except obstore.exceptions.BaseError as error:
            raise _storage_error(error) from error
        return removed

    async def _remove(self, digest: str) -> bool:
        """Unless somebody wants it; who asks from now on waits, and is told that it is gone."""
        import obstore

        wanted_at = self._wanted.get(digest)
        if wanted_at is not None and time.monotonic() - wanted_at < self._kept_unused_s:
            return False
        if digest in self._removals:
            return False
        done = self._removals[digest] = asyncio.Event()
        try:
            await obstore.delete_async(self._store, blob_path(digest))
        except FileNotFoundError:
            return False
        finally:
            del self._removals[digest]
            done.set()
        return True

    async def _head(self, digest: str) -> Any:
        import obstore

        check_digest(digest)
        self._want(digest)  # first: from here on nobody begins to remove it
        if removal := self._removals.get(digest):
            await removal.wait()
        try:
            return await obstore.head_async(self._store, blob_path(digest))
        except FileNotFoundError:
            self._wanted.pop(digest, None)
            return None
        except obstore.exceptions.BaseError as error:
            raise _storage_error(error) from error

    def _want(self, digest: str) -> None:
        now_s = time.monotonic()
        self._wanted.pop(digest, None)
        self._wanted[digest] = now_s
        while now_s - self._wanted[oldest := next(iter(self._wanted))] > self._kept_unused_s:
            del self._wanted[oldest]


def blob_path(digest: str) -> str:
    """Below the store's place."""
    # Two digits a directory: no directory of a million entries.
    name = digest.removeprefix("sha256:")
    return f"sha256/{name[:2]}/{name}"


def _not_found(digest: str) -> NotFound:
    return NotFound(f"there is no blob {digest}", hint="upload it again")


def _storage_error(error: Exception) -> StorageFull | Unavailable:
    if "No space left" in str(error) or "Disk quota" in str(error):
        return StorageFull(
            "the disk of the blobs is full; nothing was kept", hint="free space, then try again"
        )
    return Unavailable(f"the blobs cannot be reached: {error}", hint="try again later")
