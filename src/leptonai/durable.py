"""Files that are on the disk as a whole, or are not there."""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
PAGE_BYTES = 4_096  # past the cache, memory and places in the file are whole ones
_DIRECT = getattr(os, "O_DIRECT", 0)  # only Linux has it


def go_past_cache(descriptor: int, wanted: bool = True) -> bool:
    """Have what is written to a file go past the system's cache, where that can be done; returns
    whether it does. A file system that refuses only then does so with EINVAL at the first write."""
    flag = _DIRECT if wanted else 0
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flag)
    except OSError:
        return False
    return flag != 0


def sync(path: Path) -> None:
    """What was written to a file, or which names a directory holds, survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside it, which takes its place once it is on the disk as a whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        yield beside
        sync(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)
