"""`BlobStore`: put and get bytes by their digest, in a directory or a bucket."""

import asyncio
import contextlib
import re
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.blobs import frames, ownership, places
from leptonai.blobs.packs import Naming
from leptonai.errors import (
    Conflict,
    InvalidRequest,
    LeptonError,
    NotFound,
    StorageFull,
    TooLarge,
    Unavailable,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# Of a blob that is read, in one request: none takes long, however slow the reader is.
PIECE_BYTES = 2 << 20
MAX_BLOB_BYTES = 64 << 30
SPOOL_BYTES = 8 << 20  # of a blob on its way that stay in memory
KEPT_UNUSED_S = 3_600.0  # after a blob was put or asked for: what refers to it is written later

# Names: obstore is not imported to tell them. The first is the system's own.
NOT_ALLOWED = ("PermissionError", "PermissionDeniedError", "UnauthenticatedError")

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
        key: bytes | None = None,
        max_bytes: int = MAX_BLOB_BYTES,
        kept_unused_s: float = KEPT_UNUSED_S,
    ) -> None:
        """`place` is a directory, or a URL of an object store: s3://, gs://, az://, memory://.
        With a key, blobs are encrypted; their digests and sizes are those of the plain bytes."""
        self._place = place
        self._key = key
        self._max_bytes = max_bytes
        self._kept_unused_s = kept_unused_s
        self._opened: ObjectStore | None = None
        # When each that is there was last put or asked for, oldest first.
        self._wanted: dict[str, float] = {}
        self._asked: Counter[str] = Counter()  # being put or asked for: how often at this moment
        self._removals: dict[str, asyncio.Event] = {}  # under way; set when it is done

    @property
    def _store(self) -> "ObjectStore":
        # On first use: importing obstore takes longer than the rest of a command line's start.
        if self._opened is None:
            if isinstance(self._place, str) and places.is_url(self._place):
                self._opened = places.open_url(self._place)
            else:
                self._opened = places.open_directory(Path(self._place))
        return self._opened

    async def is_empty(self) -> bool:
        """Whether no blob lies here."""
        import obstore

        with _speaking():
            async for listed in obstore.list(self._store, prefix="sha256", chunk_size=1):
                return not listed
        return True

    async def claim(self, *, platform: str, encrypt: bool, alone: bool) -> bool:
        """Note down whose blobs these are, and say whether they are encrypted.

        Args:
            platform: an id that no other platform has.
            alone: nobody else could come to this place, so nothing needs to be noted while the
                blobs are plain.

        Raises:
            Conflict: they are another's, or there are plain ones and `encrypt` is asked.
            Unavailable: the place cannot be reached.
        """
        import obstore

        with _speaking():
            found = await self._mark()
            mark = ownership.decide(
                found,
                platform=platform,
                encrypt=encrypt,
                empty=await self.is_empty(),
                place=str(self._place),
            )
            if mark != found and (mark.encrypted or not alone):
                mode: Any = "create" if found is None else "overwrite"
                try:
                    await obstore.put_async(
                        self._store, ownership.MARK, msgspec.json.encode(mark), mode=mode
                    )
                except obstore.exceptions.AlreadyExistsError:
                    raise Conflict(
                        f"another platform takes {self._place} at this moment",
                        hint="name another place",
                    ) from None
        return mark.encrypted

    async def _mark(self) -> ownership.Mark | None:
        import obstore

        try:
            result = await obstore.get_async(self._store, ownership.MARK)
            return msgspec.json.decode(bytes(await result.bytes_async()), type=ownership.Mark)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            raise Conflict(
                f"{ownership.MARK} in {self._place} cannot be read", hint="restore it"
            ) from None

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
        sealing = None if self._key is None else frames.Sealing(self._key)
        # The name is known only at the end, so the bytes wait aside: in memory, then in a file.
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            try:
                spool.write(bytes(frames.HEAD_BYTES if sealing else 0))
                async for chunk in stream:
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise TooLarge(
                            f"the blob is larger than {self._max_bytes} bytes",
                            hint="leave out what is not needed, or split it",
                        )
                    sha256.update(chunk)
                    spool.write(sealing.feed(chunk) if sealing else chunk)
                digest = f"sha256:{sha256.hexdigest()}"
                if sealing:
                    last, head = sealing.end(digest)
                    spool.write(last)
                    spool.seek(0)
                    spool.write(head)
            except OSError as error:
                raise _storage_error(error) from error
            if expected_digest not in (None, digest):
                raise InvalidRequest(
                    f"the bytes have the digest {digest}, not {expected_digest}",
                    hint="they changed or were cut on their way: send them again",
                )
            with self._asking(digest):
                if not await self.exists(digest):
                    spool.seek(0)
                    try:
                        # A local store writes beside and renames; object stores show whole
                        # objects only.
                        await obstore.put_async(self._store, blob_path(digest), spool)
                    except Exception as error:
                        raise _storage_error(error) from error
                    self._want(digest)
        return digest

    async def get(
        self, digest: str, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Its bytes from `start` to before `end`, in pieces.

        Raises:
            NotFound: there is no such blob.
            Internal: it is encrypted, and not as it was written.
        """
        with _speaking(digest):
            if self._key is not None:
                size = await self._stored_size(digest)
                opened = self._opened_frames(self._key, digest, frames.plain_size(size), start, end)
                async for piece in opened:
                    yield piece
                return
            at, last = start, await self._stored_size(digest) if end is None else end
            while at < last:
                yield await self._range(digest, at, min(last, at + PIECE_BYTES))
                at += PIECE_BYTES

    async def _opened_frames(
        self, key: bytes, digest: str, size: int, start: int, end: int | None
    ) -> AsyncIterator[bytes]:
        head = await self._range(digest, 0, frames.HEAD_BYTES)
        opening = frames.Opening(key, head, digest, size)
        last = size if end is None else min(end, size)
        frame, count = start // frames.FRAME_BYTES, frames.frame_count(last)
        while start < last and frame < count:
            some = min(count - frame, PIECE_BYTES // frames.FRAME_BYTES)
            stop = min(frames.sealed_place(frame + some), _sealed_size(size))
            sealed = memoryview(await self._range(digest, frames.sealed_place(frame), stop))
            each = frames.SEALED_FRAME_BYTES
            plain = b"".join(
                opening.open(frame + number, bytes(sealed[number * each : (number + 1) * each]))
                for number in range(some)
            )
            begins = frame * frames.FRAME_BYTES
            yield plain[max(0, start - begins) : last - begins]
            frame += some

    async def _range(self, digest: str, start: int, end: int) -> bytes:
        import obstore

        path = blob_path(check_digest(digest))
        data = bytes(await obstore.get_range_async(self._store, path, start=start, end=end))
        if len(data) != end - start:
            raise Unavailable(f"the blob {digest} is cut short", hint="restore it from a backup")
        return data

    async def _stored_size(self, digest: str) -> int:
        import obstore

        head = await obstore.head_async(self._store, blob_path(check_digest(digest)))
        return int(head["size"])

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
        size = int(head["size"])
        return size if self._key is None else frames.plain_size(size)

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
        with _speaking():
            async for listed in obstore.list(self._store, prefix="sha256"):
                for blob in listed:
                    found = _PATH.fullmatch(blob["path"])
                    if not found or f"sha256:{found[1]}" in in_use:
                        continue
                    age = datetime.now(UTC) - blob["last_modified"]
                    if age.total_seconds() >= self._kept_unused_s:
                        removed += await self._remove(f"sha256:{found[1]}")
        return removed

    async def _remove(self, digest: str) -> bool:
        """Unless somebody wants it; who asks from now on waits, and is told that it is gone."""
        import obstore

        # It may be younger than the list that it was found on.
        if digest in self._asked or digest in self._removals:
            return False
        wanted_at = self._wanted.get(digest)
        if wanted_at is not None and time.monotonic() - wanted_at < self._kept_unused_s:
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
        with self._asking(digest):
            if removal := self._removals.get(digest):
                await removal.wait()
            try:
                head = await obstore.head_async(self._store, blob_path(digest))
            except FileNotFoundError:
                return None
            except obstore.exceptions.BaseError as error:
                raise _storage_error(error) from error
            self._want(digest)
            return head

    @contextlib.contextmanager
    def _asking(self, digest: str) -> Iterator[None]:
        """Meanwhile nobody begins to remove it."""
        self._asked[digest] += 1
        try:
            yield
        finally:
            self._asked[digest] -= 1
            if not self._asked[digest]:
                del self._asked[digest]

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


def _sealed_size(size: int) -> int:
    return frames.HEAD_BYTES + size + frames.frame_count(size) * frames.TAG_BYTES


@contextlib.contextmanager
def _speaking(digest: str = "") -> Iterator[None]:
    """Turns what the place says into what a person can act on."""
    import obstore

    try:
        yield
    except LeptonError:
        raise
    except FileNotFoundError as error:
        if digest:
            raise _not_found(digest) from None
        raise _storage_error(error) from error
    except (obstore.exceptions.BaseError, OSError) as error:
        raise _storage_error(error) from error


def _not_found(digest: str) -> NotFound:
    return NotFound(f"there is no blob {digest}", hint="upload it again")


def _storage_error(error: Exception) -> StorageFull | Unavailable:
    text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    if "No space left" in str(error) or "Disk quota" in str(error):
        return StorageFull(
            "the disk of the blobs is full; nothing was kept", hint="free space, then try again"
        )
    if type(error).__name__ in NOT_ALLOWED:
        return Unavailable(
            f"the blobs may not be reached with the platform's credentials: {text}",
            hint="let its user read and write there; for a bucket, start it with AWS_*, GOOGLE_* "
            "or AZURE_* variables that may list, read, write and delete",
        )
    return Unavailable(f"the blobs cannot be reached: {text}", hint="try again later")
