"""`Seen`: what earlier commits of a source found out, so that what has not changed is not read.

Only hints: a lost or damaged file costs time and nothing else.
"""

import contextlib
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from leptonai.data.columns import Array, decode, encode, texts
from leptonai.data.walk import Listing
from leptonai.errors import InvalidRequest

# A file that was written to within this time before it was read may change again without its times
# showing it: they tick, on some file systems every 2 s.
UNSETTLED_NS = 2_000_000_000
NEVER = -1  # a stamp that no file has
FRAME_HEAD_BYTES = 12
STALE_FACTOR = 2  # a journal with so many more rows than there are files is written anew
AT_BITS = 40
UNKNOWN = -1


class Object(NamedTuple):
    digest: str
    size: int  # in bytes


@dataclass(frozen=True)
class Places:
    """What is known of the files of a listing: what they are, and where that lies.

    A place is one number: of an object among `objects`, shifted by `AT_BITS`, and where in it.
    """

    digests: NDArray[np.uint8]  # [N, 32]
    places: NDArray[np.int64]  # [N]; UNKNOWN of a file that must be read
    objects: list[Object]


class Seen:
    """One journal for each source: a frame for each pack that was finished, and one for the whole
    once much of it is stale."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._frames: list[dict[str, Array]] = []
        with contextlib.suppress(FileNotFoundError, InvalidRequest, OSError):
            self._load(path.read_bytes())

    def _load(self, data: bytes) -> None:
        at = 0
        while len(data) - at > FRAME_HEAD_BYTES:
            size = int.from_bytes(data[at : at + 8], "little")
            crc = int.from_bytes(data[at + 8 : at + FRAME_HEAD_BYTES], "little")
            frame = memoryview(data)[at + FRAME_HEAD_BYTES : at + FRAME_HEAD_BYTES + size]
            if len(frame) < size or zlib.crc32(frame) != crc:
                return  # written by a process that was killed
            self._frames.append(decode(frame)[1])
            at += FRAME_HEAD_BYTES + size

    @property
    def is_empty(self) -> bool:
        """Nothing is known."""
        return not self._frames

    def match(
        self, listing: Listing, kept: Callable[[str], bool]
    ) -> tuple[Places, Iterator[tuple[bytes, int]]]:
        """What is known of the files that have not changed; and the place of any content that
        earlier commits found, where its object is still `kept`."""
        found = nothing_known(len(listing.paths))
        number_of = {path: number for number, path in enumerate(listing.paths)}
        numbers_of_objects: dict[str, int] = {}
        contents: list[tuple[Array, Array]] = []
        for frame in self._frames:
            objects = []  # of this frame → ours
            for name, size in zip(
                _hex(frame["object_digest"]), frame["object_size"].tolist(), strict=True
            ):
                if name not in numbers_of_objects:
                    numbers_of_objects[name] = len(found.objects) if kept(name) else UNKNOWN
                    if numbers_of_objects[name] != UNKNOWN:
                        found.objects.append(Object(name, size))
                objects.append(numbers_of_objects[name])
            lies_in = np.array(objects, np.int64)[frame["object"]]
            here = np.flatnonzero(lies_in >= 0)
            places = (lies_in[here] << AT_BITS) + frame["at"][here].astype(np.int64)
            digests = frame["digest"][here]
            contents.append((digests, places))
            paths = _texts(frame["path_end"], frame["path"])
            numbers = np.fromiter(map(number_of.get, paths, repeat(-1)), np.int64, len(paths))[here]
            listed = numbers >= 0
            numbers, digests, places = numbers[listed], digests[listed], places[listed]
            same = listing.sizes[numbers] == frame["size"][here][listed]
            same &= (listing.stamps[numbers] == frame["stamp"][here][listed]).all(axis=1)
            # Also to UNKNOWN: a younger frame says that it changed.
            found.places[numbers] = np.where(same, places, UNKNOWN)
            found.digests[numbers] = digests
        return found, _pairs(contents)

    def add(self, listing: Listing, files: Array, known: Places, *, began_ns: int) -> None:
        """Append what is known of these files."""
        if len(files):
            with self._path.open("ab", buffering=0) as journal:
                journal.write(_frame(listing, files, known, began_ns))

    def tidy(self, listing: Listing, known: Places, *, began_ns: int) -> None:
        """Write the whole anew, if much of what was there is stale."""
        rows = sum(len(frame["size"]) for frame in self._frames)
        if rows <= STALE_FACTOR * len(listing.paths):
            return
        # Two commits at once, of two processes or two threads, each write their own.
        fresh = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}.new")
        fresh.write_bytes(_frame(listing, np.arange(len(listing.paths)), known, began_ns))
        fresh.replace(self._path)


def nothing_known(files: int) -> Places:
    return Places(np.zeros((files, 32), np.uint8), np.full(files, UNKNOWN, np.int64), [])


def used_objects(places: NDArray[np.int64]) -> tuple[list[int], Array]:
    """The objects that are used, in the order of their first use; and [N]: which of these each
    file lies in."""
    used, first, each = np.unique(places >> AT_BITS, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(used), np.uint32)
    rank[order] = np.arange(len(used))
    return used[order].tolist(), rank[each.reshape(-1)]


def now_ns() -> int:
    return time.time_ns()


def _frame(listing: Listing, files: Array, known: Places, began_ns: int) -> bytes:
    some = listing.only(files)
    stamps = some.stamps.copy()
    stamps[stamps[:, :2].max(axis=1) > began_ns - UNSETTLED_NS] = NEVER
    ends, data = texts(some.paths)
    numbers, lies_in = used_objects(known.places[files])
    objects = [known.objects[number] for number in numbers]
    columns = {
        "path_end": ends,
        "path": data,
        "size": some.sizes,
        "stamp": stamps,
        "digest": known.digests[files],
        "object": lies_in,
        "at": (known.places[files] & ((1 << AT_BITS) - 1)).astype(np.uint64),
        **object_columns(objects),
    }
    payload = b"".join(encode(msgspec.Raw(b"{}"), columns))
    crc = zlib.crc32(payload)
    return len(payload).to_bytes(8, "little") + crc.to_bytes(4, "little") + payload


def object_columns(objects: list[Object]) -> dict[str, Array]:
    digests = "".join(object.digest.removeprefix("sha256:") for object in objects)
    return {
        "object_digest": np.frombuffer(bytes.fromhex(digests), np.uint8).reshape(-1, 32),
        "object_size": np.array([object.size for object in objects], np.uint64),
    }


def _pairs(contents: list[tuple[Array, Array]]) -> Iterator[tuple[bytes, int]]:
    for digests, places in contents:
        data = digests.tobytes()
        for row, place in enumerate(places.tolist()):
            yield data[32 * row : 32 * row + 32], place


def _texts(ends: Array, data: Array) -> list[str]:
    joined, start, found = data.tobytes(), 0, []
    for end in ends.tolist():
        found.append(joined[start:end].decode())
        start = end
    return found


def _hex(digests: Array) -> list[str]:
    text = digests.tobytes().hex()
    return [f"sha256:{text[at : at + 64]}" for at in range(0, len(text), 64)]
