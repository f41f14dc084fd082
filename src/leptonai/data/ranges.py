"""A range of a file's bytes."""

import os
from pathlib import Path

from leptonai.errors import InvalidRequest, NotFound


def read_range(path: Path, start: int, size: int) -> bytes:
    """All of it.

    Raises:
        NotFound: the file is not there.
        InvalidRequest: it ends before that.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"{path} has gone", hint="open or get the data again") from None
    try:
        data = os.pread(fd, size, start)
        while len(data) < size and (more := os.pread(fd, size - len(data), start + len(data))):
            data += more
    finally:
        os.close(fd)
    if len(data) != size:
        raise InvalidRequest(f"{path} has changed since", hint="open the data again")
    return data
