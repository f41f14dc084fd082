"""A file that arrives in a volume: beside its place under a name of its own, and whole or not at
all in its place. Nothing of it is held in memory but what is on its way."""

import asyncio
import fcntl
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from leptonai.beneath import HIDDEN, Beneath
from leptonai.errors import Conflict, InvalidRequest, StorageFull, TooLarge
from leptonai.spec.storage import UploadState

MAX_FILE_BYTES = 1 << 43  # 8 TiB
WRITE_BYTES = 1 << 20  # gathered before they are written
KEPT_FREE_BYTES = 64 << 20  # of the volume's disk
T = TypeVar("T")
_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is sent of a file: from `start`, of `total` bytes (None: whatever comes is all)."""

    upload: str
    start: int = 0
    total: int | None = None
    sha256: str = ""  # of the whole file


def part_of(upload: str, content_range: str, sha256: str) -> Part:
    """Raises:
    InvalidRequest: the parameters or the header are wrong.
    """
    if not _ID.fullmatch(upload):
        raise InvalidRequest(
            "the parameter upload: is no name", hint="Use 8 to 64 letters and digits of your own."
        )
    if sha256 and not _SHA256.fullmatch(sha256):
        raise InvalidRequest("the parameter sha256: is none", hint="Send 64 hexadecimal digits.")
    if not content_range:
        return Part(upload=upload, sha256=sha256)
    found = _RANGE.fullmatch(content_range)
    if found is None:
        raise InvalidRequest(
            "the header content-range: cannot be read", hint="Send bytes FIRST-LAST/TOTAL."
        )
    first, last, total = map(int, found.groups())
    if not first <= last < total:
        raise InvalidRequest(
            "the header content-range: does not fit", hint="Send bytes FIRST-LAST/TOTAL."
        )
    if total > MAX_FILE_BYTES:
        raise TooLarge(f"a file of {total} bytes", hint=f"At most {MAX_FILE_BYTES} are taken.")
    return Part(upload=upload, start=first, total=total, sha256=sha256)


async def receive(
    files: Beneath, path: str, part: Part, chunks: AsyncIterator[bytes]
) -> UploadState:
    """Take a part; when all have come and fit their digest, the file appears, or takes the place of
    the one before.

    Raises:
        Conflict: it does not go on where the last part ended, or another one is on its way.
        InvalidRequest: it is not what its digest says; nothing of it stays.
    """
    async with _opened(files, path, part.upload) as (directory, name, draft, fd):
        size = part.start
        try:
            await to_its_end(_cut, fd, size, (part.total or 0) - size)
            size = await _write(fd, size, part, chunks)
            if part.total is not None and size < part.total:
                return UploadState(received_bytes=size)
            await to_its_end(_finish, directory, name, draft, fd, part.sha256)
        except BaseException:
            if part.total is None:  # nobody goes on with it
                with suppress(FileNotFoundError):
                    os.unlink(draft, dir_fd=directory)
            raise
        return UploadState(received_bytes=size, complete=True)


def received_bytes(files: Beneath, path: str, upload: str) -> int:
    """Of an upload that is not complete."""
    draft = f"{HIDDEN}{part_of(upload, '', '').upload}"
    with files.directory_of(path) as (directory, _), suppress(FileNotFoundError):
        return os.lstat(draft, dir_fd=directory).st_size
    return 0


async def to_its_end(work: Callable[..., T], *arguments: Any) -> T:
    """In a thread, which is waited for even when this is cancelled: it uses a file that is closed
    afterwards."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


def digest_of(files: Beneath, path: str) -> tuple[str, int]:
    """The SHA-256 of a file, and how many bytes that is of. Blocks, a second for each GB or two."""
    with files.reading(path) as fd:
        return _digest(fd), os.fstat(fd).st_size


@asynccontextmanager
async def _opened(
    files: Beneath, path: str, upload: str
) -> AsyncIterator[tuple[int, str, str, int]]:
    """In threads: a volume may lie on a server that is away."""
    context = _draft(files, path, upload)
    opened = await to_its_end(context.__enter__)
    try:
        yield opened
    except BaseException as error:
        await to_its_end(context.__exit__, type(error), error, error.__traceback__)
        raise
    await to_its_end(context.__exit__, None, None, None)


@contextmanager
def _draft(files: Beneath, path: str, upload: str) -> Iterator[tuple[int, str, str, int]]:
    draft = f"{HIDDEN}{upload}"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with files.directory_of(path) as (directory, name):
        fd = os.open(draft, flags, 0o644, dir_fd=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield directory, name, draft, fd
        except BlockingIOError as error:
            raise Conflict(
                "this upload is being written by another request", hint="Wait for that one."
            ) from error
        finally:
            os.close(fd)


def _cut(fd: int, start: int, needed: int) -> None:
    """What comes goes on at `start`; what was there from there on comes again."""
    size = os.fstat(fd).st_size
    if start > size:
        raise Conflict(f"the upload goes on at {size}, not at {start}", hint="Send the rest.")
    os.ftruncate(fd, start)
    _check_room(fd, needed)


def _check_room(fd: int, needed: int) -> None:
    room = os.fstatvfs(fd)
    free = room.f_bavail * room.f_frsize
    if needed > free - KEPT_FREE_BYTES:
        raise StorageFull(
            f"the file needs {needed} bytes, and the volume has {free} left",
            hint="Free space in the volume.",
        )


async def _write(fd: int, size: int, part: Part, chunks: AsyncIterator[bytes]) -> int:
    most = MAX_FILE_BYTES if part.total is None else part.total
    held: list[bytes] = []
    waiting = 0
    async for chunk in chunks:
        held.append(chunk)
        waiting += len(chunk)
        if size + waiting > most:
            raise TooLarge(f"the file has more than {most} bytes", hint="Send what was said.")
        if waiting >= WRITE_BYTES:
            await to_its_end(_write_all, fd, size, b"".join(held))
            size, waiting = size + waiting, 0
            held.clear()
            await to_its_end(_check_room, fd, 0)
    await to_its_end(_write_all, fd, size, b"".join(held))
    return size + waiting


def _write_all(fd: int, at: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        at, view = at + written, view[written:]


def _finish(directory: int, name: str, draft: str, fd: int, sha256: str) -> None:
    if sha256 and _digest(fd) != sha256:
        os.unlink(draft, dir_fd=directory)
        raise InvalidRequest(
            "the file that arrived has another digest than was said", hint="Upload it again."
        )
    os.fsync(fd)
    os.replace(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def _digest(fd: int) -> str:
    digest, at = hashlib.sha256(), 0
    while data := os.pread(fd, WRITE_BYTES, at):
        digest.update(data)
        at += len(data)
    return digest.hexdigest()
