"""`Shelf`: a directory of blobs on this machine, laid out as a `BlobStore` lays out its own.

So where the platform runs on this machine, its blobs are the shelf, and nothing is copied.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from leptonai.blobs.packs import Naming
from leptonai.blobs.store import blob_path
from leptonai.durable import DISK_FULL, PAGE_BYTES, go_past_cache
from leptonai.errors import InvalidRequest, StorageFull, Unavailable

PARTIAL = "partial"  # what is being written; nothing reads it
PARTIAL_KEPT_S = 86_400.0  # of a process that was killed
LOOK_S = 0.02  # between two looks whether an object on its way may be gone on with
AHEAD_BYTES = 256 << 20  # fetched at most before they are asked for
CHUNK_BYTES = 1 << 20


class Shelf:
    def __init__(self, place: Path) -> None:
        self.place = place

    @property
    def ahead_bytes(self) -> int:
        """How much may be fetched before it is asked for."""
        return AHEAD_BYTES

    @property
    def most_mapped_bytes(self) -> int:
        """How much one reader may have mapped, for what is mapped stays."""
        return sys.maxsize

    def empty(self) -> int:
        """Remove what can be had again, and say how many bytes that were."""
        return 0

    def used(self, digest: str) -> None:
        """Somebody reads this object."""

    def make_room(self, size: int) -> None:
        """So much will be put here."""

    def keeping(self) -> contextlib.AbstractContextManager[None]:
        """Nothing is removed to make room before the end of this."""
        return contextlib.nullcontext()

    def path(self, digest: str) -> Path:
        return self.place / blob_path(digest)

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def partial(self) -> Path:
        """A new file's name, to be written and then kept. Also clears away what others left."""
        directory = self.place / PARTIAL
        directory.mkdir(parents=True, exist_ok=True)
        return directory / secrets.token_hex(8)

    def clear(self) -> None:
        """Remove what processes left that were killed long ago."""
        oldest = time.time() - PARTIAL_KEPT_S
        with contextlib.suppress(FileNotFoundError):
            for path in (self.place / PARTIAL).iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()

    def put(self, parts: Iterable[bytes | memoryview], digest: str = "") -> str:
        """Keep these bytes, on the disk: all of them or none; returns their digest.

        Raises:
            StorageFull, Unavailable: they could not be kept.
        """
        if not digest:
            parts = list(parts)
            sha256 = hashlib.sha256()
            for part in parts:
                sha256.update(part)
            digest = f"sha256:{sha256.hexdigest()}"
        if self.touch(digest):
            return digest
        with writing(self.place):
            partial = self.partial()
            try:
                with partial.open("xb", buffering=0) as file:
                    for part in parts:
                        write_all(file.fileno(), part)
                    os.fdatasync(file.fileno())
                self.keep(partial, digest)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        return digest

    def begin(self, digest: str) -> "Arriving":
        """The file that an object is fetched into, with what came of it before. Waits while
        another thread or process fetches it, and then finds it whole."""
        with writing(self.place):
            return Arriving(self, digest)

    @contextlib.contextmanager
    def held(self, digest: str) -> Iterator[Path]:
        """Its file, which nobody removes meanwhile.

        Raises:
            FileNotFoundError: it is not here.
        """
        with self.path(digest).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            self.used(digest)
            yield self.path(digest)

    def keep(self, partial: Path, digest: str) -> None:
        """A whole file becomes the blob of this name."""
        target = self.path(digest)
        try:
            partial.replace(target)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)

    def touch(self, digest: str) -> bool:
        """Whether it is there; if so, it counts as new for who removes old ones."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        return True


class NewBlob:
    """A blob that is being written; gone unless it is kept."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._partial: Path | None = shelf.partial()
        self._fd = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, data: bytes | memoryview) -> None:
        write_all(self._fd, data)

    def write_head(self, data: bytes) -> None:
        """Over what was written first."""
        assert os.pwrite(self._fd, data, 0) == len(data)

    def write_whole(self, buffer: memoryview, size: int) -> None:
        """All of it, past the system's cache where that can be done: that takes a tenth of the
        processor's time. The buffer begins at a page, and goes on to the end of one."""
        if go_past_cache(self._fd):
            try:
                write_all(self._fd, buffer[: -(-size // PAGE_BYTES) * PAGE_BYTES])
                os.ftruncate(self._fd, size)
                return
            except OSError as failure:
                if failure.errno != errno.EINVAL:
                    raise
            go_past_cache(self._fd, False)  # it cannot, after all
            os.lseek(self._fd, 0, os.SEEK_SET)
        write_all(self._fd, buffer[:size])

    def keep(self, digest: str) -> None:
        """It has this name, and is on the disk: also after a power cut."""
        assert self._partial is not None
        os.fdatasync(self._fd)
        self._shelf.keep(self._partial, digest)
        self._partial = None

    def close(self) -> None:
        os.close(self._fd)
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)


class Arriving:
    """An object on its way. What has come stays for who asks next, also after a kill."""

    def __init__(self, shelf: Shelf, digest: str) -> None:
        self._shelf = shelf
        self._digest = digest
        self._path = shelf.place / PARTIAL / digest.removeprefix("sha256:")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            if self._locked():
                break
            os.close(self._fd)  # another one became the object meanwhile, or was removed
            if shelf.has(digest):
                self._fd = -1
                return
        self.size, self._sha256, self._damaged = 0, Naming(), False
        while chunk := os.pread(self._fd, CHUNK_BYTES, self.size):
            self._note(chunk)

    def _locked(self) -> bool:
        """Whether the file is ours now; not, if it is no longer the one on its way.

        Not waited for in the lock itself: once it has become the object, who reads it holds a lock
        on the same file for as long as they like.
        """
        while True:
            try:
                if not os.path.samestat(os.fstat(self._fd), self._path.stat()):
                    return False
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOOK_S)
                continue
            with contextlib.suppress(FileNotFoundError):
                return os.path.samestat(os.fstat(self._fd), self._path.stat())
            return False

    @property
    def is_there(self) -> bool:
        """Somebody else fetched it."""
        return self._fd < 0

    @property
    def digest(self) -> str:
        """Of what has come; "" where that is no whole object."""
        if self._damaged:
            return ""
        try:
            return f"sha256:{self._sha256.hexdigest()}"
        except InvalidRequest:  # a pack of which more is to come
            return ""

    def write(self, data: bytes) -> None:
        with writing(self._shelf.place):
            self._shelf.make_room(len(data))
            try:
                write_all(self._fd, data)
            except OSError as failure:
                os.ftruncate(self._fd, self.size)
                if failure.errno in DISK_FULL and not self._shelf.empty():
                    self.restart()  # the room is for the others
                    raise
                write_all(self._fd, data)
        self._note(data)

    def restart(self) -> None:
        """What came was not what was asked for."""
        os.ftruncate(self._fd, 0)
        self.size, self._sha256, self._damaged = 0, Naming(), False

    def keep(self) -> None:
        """It is whole: from now on it lies on the shelf, on the disk."""
        assert self.digest == self._digest, self.digest
        with writing(self._shelf.place):
            os.fdatasync(self._fd)
            self._shelf.keep(self._path, self._digest)

    def close(self) -> None:
        if self._fd >= 0:
            if self.size == 0:
                self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def _note(self, data: bytes) -> None:
        self.size += len(data)
        if not self._damaged:
            try:
                self._sha256.update(data)
            except InvalidRequest:
                self._damaged = True


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns what the system says into what a person can act on."""
    try:
        yield
    except OSError as failure:
        if failure.errno in DISK_FULL:
            raise StorageFull(
                f"the disk of {place} is full; no version was made",
                hint="free space, then repeat the command: it goes on where it was",
            ) from failure
        if failure.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise Unavailable(
                f"{place} cannot be written to: {failure.strerror}", hint="see who owns it"
            ) from failure
        raise


def write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def shelf_of(platforms: Path | None) -> Shelf:
    """Of this machine: the platform's own blobs, where they lie here as they are; else a cache."""
    from leptonai.data.cache import Cache

    if platforms is not None:
        return Shelf(platforms)
    named = os.environ.get("LEPTON_HOME") or "~/.leptonai"
    home = Path(named).expanduser().absolute()
    return Cache(home / "cache" / "blobs")
