"""Columns as numpy arrays: written to bytes, and mapped from a file without being read."""

import contextlib
import fcntl
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leptonai.blobs import columns as layout
from leptonai.blobs.columns import PREFIX_BYTES, Head

Array = NDArray[Any]


def encode(facts: object, columns: Mapping[str, Array]) -> list[bytes | memoryview]:
    """The parts of the file, in order."""
    told = {name: (column.dtype.str[1:], column.shape) for name, column in columns.items()}
    parts: list[bytes | memoryview] = [layout.encode_head(facts, told)]
    for column in columns.values():
        data = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
        parts += [data.reshape(-1).view(np.uint8).data, layout.padding(data.nbytes)]
    return parts


def decode(data: bytes | memoryview | mmap.mmap) -> tuple[Head, dict[str, Array]]:
    """The head and the columns; they look into `data`, which must stay.

    Raises:
        InvalidRequest: it is no such file, or cut short.
    """
    view = memoryview(data)
    start = layout.head_size(view[:PREFIX_BYTES])
    head = layout.decode_head(view[:start])
    columns = {}
    for name, column in head.columns.items():
        first, end = layout.place_of(start, column, len(view))
        columns[name] = np.frombuffer(view[first:end], f"<{column.type}").reshape(column.shape)
    return head, columns


def map_file(path: Path) -> mmap.mmap:
    """Raises:
    FileNotFoundError: it has gone.
    """
    with path.open("rb") as file:
        # Goes with the mapping: who makes room leaves the file here. Some file systems have none.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def texts(values: list[str]) -> tuple[Array, Array]:
    """Texts as two columns: where each ends, and the bytes of all."""
    joined = "".join(values).encode()
    if len(joined) == sum(map(len, values)):  # all is ASCII: a character is a byte
        sizes = np.fromiter(map(len, values), np.int64, len(values))
    else:
        sizes = np.fromiter((len(value.encode()) for value in values), np.int64, len(values))
    return np.cumsum(sizes).astype(np.uint64), np.frombuffer(joined, np.uint8)


def text_at(ends: Array, data: Array, at: int) -> str:
    start = int(ends[at - 1]) if at else 0
    return data[start : int(ends[at])].tobytes().decode()
