"""`Shelf`: a directory of blobs on this machine, laid out as a `BlobStore` lays out its own.

So where the platform runs on this machine, its blobs are the shelf, and nothing is copied.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from leptonai.blobs.store import blob_path
from leptonai.errors import StorageFull, Unavailable

PARTIAL = "partial"  # what is being written; nothing reads it
PARTIAL_KEPT_S = 86_400.0  # of a process that was killed
DIRECT = getattr(os, "O_DIRECT", 0)
PAGE_BYTES = 4096


class Shelf:
    def __init__(self, place: Path) -> None:
        self.place = place

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
        past_cache = DIRECT and self._past_cache(DIRECT)
        if past_cache:
            try:
                write_all(self._fd, buffer[: -(-size // PAGE_BYTES) * PAGE_BYTES])
                os.ftruncate(self._fd, size)
                return
            except OSError as failure:
                if failure.errno != errno.EINVAL:
                    raise
            self._past_cache(0)  # it cannot, after all
            os.lseek(self._fd, 0, os.SEEK_SET)
        write_all(self._fd, buffer[:size])

    def _past_cache(self, flag: int) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flag)
        except OSError:
            return False
        return True

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


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns what the system says into what a person can act on."""
    try:
        yield
    except OSError as failure:
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
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


def shelf_of(*, local: bool) -> Shelf:
    """Of this machine. Where the platform runs on it with our home, its own blobs."""
    named = os.environ.get("LEPTON_HOME") or "~/.leptonai"
    home = Path(named).expanduser().absolute()
    return Shelf(home / "blobs" if local else home / "cache" / "blobs")
