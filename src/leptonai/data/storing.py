"""`Storing`: what is not known of a source is read, hashed, packed and stored, while it is listed.

Threads each take a pack from its files to the disk. On several cores, many small files are read by
processes of their own (`readers.py`).
"""

import contextlib
import hashlib
import mmap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import accumulate
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np

from leptonai.blobs.packs import MAX_MEMBERS, encode_head, head_size, name_of_head
from leptonai.data.columns import Array
from leptonai.data.progress import Progress
from leptonai.data.readers import Memory, Readers
from leptonai.data.seen import AT_BITS, UNKNOWN, Object, Places, Seen, nothing_known
from leptonai.data.shelf import NewBlob, Shelf, writing
from leptonai.data.source import Source
from leptonai.data.walk import Listing, changed, joined

PACK_BYTES = 16 << 20  # at most, of small files together
PACKED_BELOW_BYTES = 1 << 20  # a larger file has a pack of its own
BUFFERED_BYTES = 192 << 20  # at most, of all packs that are being read
THREADS_MORE = 2  # than readers: they wait for the disk
MANY_FILES = 2_048  # found at once: worth processes that read them, which cost 30 ms of CPU each
HEARD_S = 0.2  # how long Ctrl-C may go unheard


class Stored(NamedTuple):
    listing: Listing
    known: Places  # of all files
    read_bytes: int  # that were not known to be unchanged
    objects: dict[str, int]  # that were new: how large each is


class _Work(NamedTuple):
    """Files for one pack."""

    number: int  # of the pack among the objects
    files: Array  # numbers among all files
    listing: Listing  # of these alone


class _Done(NamedTuple):
    """What became of them."""

    work: _Work
    digests: bytes  # 32 of each file
    places: list[int]  # of each file, as `Places` has them
    object: Object | None  # None where nothing was new

    def own(self) -> Array:
        """Which of them lie in this very pack; others in one that has the same content."""
        return np.flatnonzero(np.array(self.places) >> AT_BITS == self.work.number)


class Storing:
    """To be used once."""

    def __init__(
        self,
        source: Source,
        shelf: Shelf,
        seen: Seen,
        *,
        began_ns: int,
        kept: Callable[[str], bool],
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._shelf = shelf
        self._seen = seen
        self._began_ns = began_ns
        self._kept = kept
        self._progress = progress
        self._threads = source.readers + THREADS_MORE
        beside_bytes = head_size(MAX_MEMBERS) + PACKED_BELOW_BYTES
        self._pack_bytes = min(PACK_BYTES, BUFFERED_BYTES // self._threads - beside_bytes)
        self._objects: list[Object] = []
        self._claims = _Claims()
        self._cutting = _Cutting(self._pack_bytes)
        self._rooms = _Rooms(source, self._threads, beside_bytes + self._pack_bytes)
        self._ended: SimpleQueue[_Done | BaseException] = SimpleQueue()
        self._read_bytes: dict[int, int] = {}  # of works that have not ended, by number
        self._ended_bytes = self._total_bytes = 0
        self._done: list[_Done] = []
        self._stopped = threading.Event()

    def all(self) -> Stored:
        """Raises:
        InvalidRequest: a file cannot be read, or changes meanwhile.
        StorageFull: there is no room.
        """
        listings, knowns, count = [], [], 0
        with ThreadPoolExecutor(self._threads, "lepton-commit") as pool:
            try:
                for listing, known in self._found():
                    new = np.flatnonzero(known.places == UNKNOWN)
                    sizes = listing.sizes[new]
                    self._total_bytes += int(sizes.sum())
                    if int((sizes < PACKED_BELOW_BYTES).sum()) >= MANY_FILES:
                        self._rooms.share()
                    for files, some in self._cutting.add(new + count, listing.only(new)):
                        self._begin(pool, files, some)
                    listings.append(listing)
                    knowns.append(known)
                    count += len(listing.paths)
                    while self._hear(wait=False):
                        pass
                for files, some in self._cutting.rest():
                    self._begin(pool, files, some)
                while self._read_bytes:
                    self._hear(wait=True)
            finally:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                self._rooms.close()
        return self._summed(joined(listings), knowns)

    def _found(self) -> Iterator[tuple[Listing, Places]]:
        """What the source holds, and what is known of it: at once as it is listed, where nothing
        is."""
        if self._seen.is_empty:
            for stretch in self._source.stretches():
                yield stretch, nothing_known(len(stretch.paths))
            return
        listing = joined(self._source.stretches())
        known, contents = self._seen.match(listing, self._kept)
        self._objects = known.objects
        if (known.places == UNKNOWN).any():
            self._claims.known(contents)
        yield listing, known

    def _begin(self, pool: ThreadPoolExecutor, files: Array, listing: Listing) -> None:
        number = len(self._objects)
        self._objects.append(Object("", 0))
        self._read_bytes[number] = 0
        pool.submit(self._work, _Work(number, files, listing))

    def _hear(self, *, wait: bool) -> bool:
        """Whether there was news of a pack that ended."""
        # With a time limit, for only between waits is Ctrl-C heard at once.
        try:
            each = self._ended.get(wait, HEARD_S)
        except Empty:
            heard = False
        else:
            heard = True
            if isinstance(each, BaseException):
                raise each
            self._learn(each)
        if self._progress is not None and (heard or wait):
            self._progress(self._ended_bytes + sum(self._read_bytes.values()), self._total_bytes)
        return heard

    def _learn(self, done: _Done) -> None:
        number, _, listing = done.work
        self._ended_bytes += self._read_bytes.pop(number)
        self._done.append(done)
        if done.object is not None:
            self._objects[number] = done.object
        known = Places(_rows(done.digests), np.array(done.places), self._objects)
        with writing(self._shelf.place):
            self._seen.add(listing, done.own(), known, began_ns=self._began_ns)

    def _summed(self, listing: Listing, knowns: list[Places]) -> Stored:
        digests = np.concatenate([known.digests for known in knowns])
        places = np.concatenate([known.places for known in knowns])
        known = Places(digests, places, self._objects)
        left = [np.empty(0, np.int64)]  # their content another pack, or commit, holds
        for done in self._done:
            files = done.work.files
            known.places[files] = done.places
            known.digests[files] = _rows(done.digests)
            left.append(np.delete(files, done.own()))
        with writing(self._shelf.place):
            self._seen.add(listing, np.concatenate(left), known, began_ns=self._began_ns)
        new = [done.object for done in self._done if done.object is not None]
        return Stored(listing, known, self._ended_bytes, {each.digest: each.size for each in new})

    # --- in threads ------------------------------------------------------------------------------

    def _work(self, work: _Work) -> None:
        try:
            with writing(self._shelf.place):
                is_large = work.listing.sizes[0] >= PACKED_BELOW_BYTES
                done = self._large(work) if is_large else self._pack(work)
            if done is not None:
                self._ended.put(done)
        except BaseException as failure:
            self._ended.put(failure)

    def _pack(self, work: _Work) -> _Done | None:
        room = self._rooms.mine()
        sizes: list[int] = work.listing.sizes.tolist()
        start = head_size(len(sizes))
        joined_digests = self._rooms.read(room, work.listing.paths, sizes, start)
        if joined_digests:
            self._read_bytes[work.number] = sum(sizes)
        elif not (joined_digests := self._read(work, room.memory[start:], sizes)):
            return None
        digests = [joined_digests[at : at + 32] for at in range(0, len(joined_digests), 32)]
        places, new = self._claims.claim(digests, sizes, (work.number << AT_BITS) + start)
        stored = None
        if new:
            end = _close_up(room.memory, start, sizes, new)
            head = encode_head([sizes[at] for at in new], [digests[at] for at in new], start)
            room.memory[:start] = head
            stored = Object(name_of_head(head), end)
            if not self._shelf.touch(stored.digest):
                with closing(NewBlob(self._shelf)) as blob:
                    blob.write_whole(room.memory, end)
                    blob.keep(stored.digest)
        return _Done(work, joined_digests, places, stored)

    def _read(self, work: _Work, room: memoryview, sizes: list[int]) -> bytes:
        """Nothing if it is not wanted any more."""
        read_into, sha256, stopped = self._source.read_into, hashlib.sha256, self._stopped.is_set
        digests = []
        start = 0
        for name, size in zip(work.listing.paths, sizes, strict=True):
            if stopped():
                return b""
            end = start + size
            if read_into(name, room[start : end + 1]) != size:
                raise changed(name)
            digests.append(sha256(room[start:end]).digest())
            self._read_bytes[work.number] = start = end
        return b"".join(digests)

    def _large(self, work: _Work) -> _Done | None:
        name, size, start = work.listing.paths[0], 0, head_size(1)
        sha256, place = hashlib.sha256(), (work.number << AT_BITS) + start
        with closing(NewBlob(self._shelf)) as blob:
            blob.write(bytes(start))
            for chunk in self._source.chunks(name):
                if self._stopped.is_set():
                    return None
                sha256.update(chunk)
                blob.write(chunk)
                size += len(chunk)
                self._read_bytes[work.number] = size
            if size != work.listing.sizes[0]:
                raise changed(name)
            digest, stored = sha256.digest(), None
            places, new = self._claims.claim([digest], [size], place)
            if new:
                head = encode_head([size], [digest], start)
                stored = Object(name_of_head(head), start + size)
                if not self._shelf.touch(stored.digest):
                    blob.write_head(head)
                    blob.keep(stored.digest)
        return _Done(work, digest, places, stored)


def _close_up(memory: memoryview, start: int, sizes: list[int], kept: Sequence[int]) -> int:
    """Members one behind the other, without those that are not kept; returns where they end."""
    if len(kept) == len(sizes):
        return start + sum(sizes)
    starts = list(accumulate(sizes, initial=start))
    end = start
    for member in kept:
        at, size = starts[member], sizes[member]
        memory[end : end + size] = memory[at : at + size]
        end += size
    return end


class _Claims:
    """Where each content lies: where who had it first put it."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def known(self, contents: Iterable[tuple[bytes, int]]) -> None:
        self._places.update(contents)

    def claim(
        self, digests: list[bytes], sizes: list[int], place: int
    ) -> tuple[list[int], Sequence[int]]:
        """The place of each; and which of them are new, and lie from `place` on, one behind the
        other."""
        claims = self._places
        with self._lock:
            if len(set(digests)) == len(digests) and claims.keys().isdisjoint(digests):
                places = list(accumulate(sizes[:-1], initial=place))
                claims.update(zip(digests, places, strict=True))
                return places, range(len(digests))
            places, new = [], []
            for number, (digest, size) in enumerate(zip(digests, sizes, strict=True)):
                if digest not in claims:
                    claims[digest] = place
                    place += size
                    new.append(number)
                places.append(claims[digest])
            return places, new


class _Cutting:
    """Neighbours together, so that reading in order reads packs in order."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._left = (np.empty(0, np.int64), joined([]))  # for the next pack

    def add(self, files: Array, listing: Listing) -> Iterator[tuple[Array, Listing]]:
        files = np.concatenate([self._left[0], files])
        listing = joined([self._left[1], listing])
        is_small = listing.sizes < PACKED_BELOW_BYTES
        for large in np.flatnonzero(~is_small).tolist():
            yield files[[large]], listing.only([large])
        small = np.flatnonzero(is_small)
        ends = np.cumsum(listing.sizes[small])
        pack = small[:0]
        end = 0
        while end < len(small):
            if len(pack):
                yield files[pack], listing.only(pack)
            begin, most = end, self._most_bytes + (int(ends[end - 1]) if end else 0)
            end = max(begin + 1, int(np.searchsorted(ends, most, side="right")))
            end = min(end, begin + MAX_MEMBERS)
            pack = small[begin:end]
        self._left = files[pack], listing.only(pack)

    def rest(self) -> Iterator[tuple[Array, Listing]]:
        if len(self._left[0]):
            yield self._left


class _Room(NamedTuple):
    """For a pack, its head, and the byte that shows that a file has grown."""

    memory: memoryview
    at: int  # where in the memory that is shared; -1 in one's own


class _Rooms:
    """A room for each thread, in memory that is shared with processes once there are some."""

    def __init__(self, source: Source, count: int, size: int) -> None:
        self._root, self._readers_wanted = source.root, source.readers
        self._count, self._size = count, size
        self._mine = threading.local()
        self._shared: Memory | None = None
        self._readers: Readers | None = None
        self._taken = iter(range(count))

    def share(self) -> None:
        """From now on have processes read, if there can be some."""
        if self._root is None or self._readers is not None:
            return
        try:
            self._shared = Memory(self._count, self._size)
        except OSError:
            self._root = None
            return
        self._readers = Readers(self._root, self._shared, self._readers_wanted)

    def mine(self) -> _Room:
        room: _Room | None = getattr(self._mine, "room", None)
        if self._shared is not None and (room is None or room.at < 0):
            at = next(self._taken) * self._shared.room_bytes
            room = _Room(self._shared.room(at), at)
        elif room is None:
            room = _Room(_own_memory(self._size), -1)
        self._mine.room = room
        return room

    def read(self, room: _Room, paths: list[str], sizes: list[int], start: int) -> bytes:
        if self._readers is None or room.at < 0:
            return b""
        return self._readers.read(paths, sizes, room.at + start)

    def close(self) -> None:
        if self._readers is not None:
            self._readers.close()
        if self._shared is not None:
            self._shared.close()


def _own_memory(size: int) -> memoryview:
    """Its pages are taken when they are first written to: large ones, for writing past the
    system's cache looks each page up."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # where the system has none
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def _rows(digests: bytes) -> Array:
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)
