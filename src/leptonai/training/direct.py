"""`DirectFile`: a large file, written once from its start to its end, that disturbs nobody.

What goes through the system's cache is copied into pages that push out others, which takes more of
the processor's time than hashing it, and then all of it is written out at once. Past the cache it
takes next to nothing. There, memory and places in the file are whole pages, so all is gathered in a
buffer first.
"""

import errno
import hashlib
import mmap
import os
from pathlib import Path

import numpy as np

from leptonai.durable import PAGE_BYTES, go_past_cache

BUFFER_BYTES = 4 << 20  # hashed and written at once


class DirectFile:
    """To be closed, by `with`. It is on the disk once `finish` has returned.

    Raises:
        OSError: as of any file.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        go_past_cache(self._fd)
        # Begins at a page. Numpy lets other threads work while it copies.
        self._buffer = np.frombuffer(mmap.mmap(-1, BUFFER_BYTES), np.uint8)
        self._held = 0  # bytes in the buffer
        self._written = 0
        self._sha256 = hashlib.sha256()

    def __enter__(self) -> "DirectFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, data: memoryview) -> None:
        while data:
            taken = min(len(data), BUFFER_BYTES - self._held)
            self._buffer[self._held : self._held + taken] = np.frombuffer(data[:taken], np.uint8)
            self._held += taken
            data = data[taken:]
            if self._held == BUFFER_BYTES:
                self._flush()

    def finish(self) -> str:
        """The SHA-256 of all of it."""
        self._flush()
        os.fdatasync(self._fd)
        return self._sha256.hexdigest()

    def _flush(self) -> None:
        held, self._held = self._buffer[: self._held].data, 0
        self._sha256.update(held)
        if len(held) % PAGE_BYTES:  # the end of the file
            go_past_cache(self._fd, False)
        try:
            self._put(held)
        except OSError as failure:
            if failure.errno != errno.EINVAL:
                raise
            go_past_cache(self._fd, False)  # this file system cannot
            self._put(held)
        self._written += len(held)

    def _put(self, data: memoryview) -> None:
        at = self._written
        while data:
            count = os.pwrite(self._fd, data, at)
            at, data = at + count, data[count:]
