"""Where data comes from: `Source` is the promise, `LocalSource` a directory or a file."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from leptonai.data.walk import Listing, changed, joined, unreadable, walk
from leptonai.errors import NotFound

CHUNK_BYTES = 1 << 20


class Source(Protocol):
    """Files that can be listed and read, by many threads at once."""

    name: str  # tells it from all others: an absolute path, or a URL
    readers: int  # how many files are worth reading at once

    @property
    def root(self) -> Path | None:
        """Below which they lie, if they are this machine's."""

    def stretches(self) -> Iterator[Listing]:
        """What there is, in order, as it is found."""

    def read_into(self, path: str, buffer: memoryview) -> int:
        """Read a file whole, or as much of it as fits; returns how many bytes that were. The buffer
        has room for one byte more than was listed, so that a file that has grown is seen."""

    def chunks(self, path: str) -> Iterator[bytes | memoryview]:
        """A file's bytes in order. A piece is good until the next one is asked for."""


class LocalSource:
    def __init__(self, place: str | Path) -> None:
        """Raises:
        NotFound: there is nothing of that name.
        """
        root = Path(place).absolute()
        if not root.exists():
            raise NotFound(f"{place} does not exist", hint="check the path")
        self.name = str(root)
        self.readers = max(2, min(16, len(os.sched_getaffinity(0))))
        self._only = root.name if not root.is_dir() else ""
        self.root = root.parent if self._only else root
        self._below = f"{self.root}/"

    def list(self) -> Listing:
        """All of it."""
        return joined(self.stretches())

    def stretches(self) -> Iterator[Listing]:
        if not self._only:
            yield from walk(self.root)
            return
        status = (self.root / self._only).stat()
        stamp = [status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        yield Listing([self._only], np.array([status.st_size]), np.array([stamp]))

    def read_into(self, path: str, buffer: memoryview) -> int:
        fd = self._open(path)
        try:
            size = os.readv(fd, (buffer,))
            # Whoever asks has room for one byte more than there should be: all but it is the whole.
            while 0 < size < len(buffer) - 1 and (more := os.readv(fd, (buffer[size:],))):
                size += more
        finally:
            os.close(fd)
        return size

    def chunks(self, path: str) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        fd = self._open(path)
        try:
            while size := os.readv(fd, [buffer]):
                yield buffer[:size]
        finally:
            os.close(fd)

    def _open(self, path: str) -> int:
        try:
            return os.open(self._below + path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise changed(path) from None
        except PermissionError:
            raise unreadable(path) from None
