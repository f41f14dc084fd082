"""`Seen`: what earlier commits of a source found out, so that what has not changed is not read.

Only hints: a lost or damaged file costs time and nothing else.
"""

import contextlib
import secrets
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from leptonai.data.columns import Array, decode, encode, texts
from leptonai.data.walk import Listing
from leptonai.errors import InvalidRequest

# A file that was written to within this time before it was read may change again without its times
# showing it: they tick, on some file systems every 2 s.
UNSETTLED_NS = 2_000_000_000
NEVER = -1  # a stamp that no file has
FRAME_HEAD_BYTES = 12
MAX_FRAME_BYTES = 4 << 30


class Place(NamedTuple):
    """Where the bytes of a file lie."""

    object: str  # digest
    size: int  # of the object, in bytes
    at: int


class Seen:
    """One journal for each source: a frame for each pack that was finished, and one for the whole
    at the end."""

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

    def match(
        self, listing: Listing, kept: Callable[[str], bool]
    ) -> tuple[dict[int, tuple[bytes, Place]], dict[bytes, Place]]:
        """The files of the listing that have not changed, by number, with their digests; and where
        any content lies that is still `kept`."""
        unchanged: dict[int, tuple[bytes, Place]] = {}
        known: dict[bytes, Place] = {}
        number_of = (
            {path: number for number, path in enumerate(listing.paths)} if self._frames else {}
        )
        stamps = [tuple(stamp) for stamp in listing.stamps.tolist()] if self._frames else []
        sizes = listing.sizes.tolist()
        is_kept: dict[str, bool] = {}
        for frame in self._frames:
            objects = _hex(frame["object_digest"])
            for name in objects:
                if name not in is_kept:
                    is_kept[name] = kept(name)
            digests, path_data, start = frame["digest"].tobytes(), frame["path"].tobytes(), 0
            object_sizes = frame["object_size"].tolist()
            for row, (end, size, stamp, object, at) in enumerate(
                zip(
                    frame["path_end"].tolist(),
                    frame["size"].tolist(),
                    frame["stamp"].tolist(),
                    frame["object"].tolist(),
                    frame["at"].tolist(),
                    strict=True,
                )
            ):
                path, start = path_data[start:end].decode(), end
                number = number_of.get(path)
                if not is_kept[objects[object]]:
                    continue
                digest = digests[32 * row : 32 * row + 32]
                place = known.get(digest)
                if place is None:
                    place = known[digest] = Place(objects[object], object_sizes[object], at)
                if number is None:
                    continue
                if sizes[number] == size and stamps[number] == tuple(stamp):
                    unchanged[number] = (digest, place)
                else:
                    unchanged.pop(number, None)  # a younger frame says that it changed
        return unchanged, known

    def add(
        self,
        listing: Listing,
        files: Sequence[int],
        digests: Sequence[bytes],
        places: Sequence[Place],
        *,
        began_ns: int,
    ) -> None:
        """Append what one pack holds."""
        if files:
            with self._path.open("ab", buffering=0) as journal:
                journal.write(_frame(listing, files, digests, places, began_ns))

    def replace(
        self,
        listing: Listing,
        digests: Sequence[bytes],
        places: Sequence[Place],
        *,
        began_ns: int,
    ) -> None:
        """The whole, in the place of all that was said before."""
        # Two commits at once, of two processes or two threads, each write their own.
        fresh = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}.new")
        fresh.write_bytes(_frame(listing, range(len(digests)), digests, places, began_ns))
        fresh.replace(self._path)


def now_ns() -> int:
    return time.time_ns()


def _frame(
    listing: Listing,
    files: Sequence[int],
    digests: Sequence[bytes],
    places: Sequence[Place],
    began_ns: int,
) -> bytes:
    chosen = np.asarray(files, np.int64)
    stamps = listing.stamps[chosen].copy()
    stamps[stamps[:, :2].max(axis=1) > began_ns - UNSETTLED_NS] = NEVER
    ends, data = texts([listing.paths[file] for file in files])
    objects = {place.object: place.size for place in places}
    number_of = {object: number for number, object in enumerate(objects)}
    columns = {
        "path_end": ends,
        "path": data,
        "size": listing.sizes[chosen],
        "stamp": stamps,
        "digest": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        "object": np.array([number_of[place.object] for place in places], np.uint32),
        "at": np.array([place.at for place in places], np.uint64),
        "object_digest": np.frombuffer(
            bytes.fromhex("".join(object.removeprefix("sha256:") for object in objects)), np.uint8
        ).reshape(-1, 32),
        "object_size": np.array(list(objects.values()), np.uint64),
    }
    payload = b"".join(encode(msgspec.Raw(b"{}"), columns))
    crc = zlib.crc32(payload)
    return len(payload).to_bytes(8, "little") + crc.to_bytes(4, "little") + payload


def _hex(digests: Array) -> list[str]:
    text = digests.tobytes().hex()
    return [f"sha256:{text[at : at + 64]}" for at in range(0, len(text), 64)]
