"""`commit`: a source becomes a version, on this machine's shelf.

Files are put into packs: small ones together, each large one alone. A pack is named by the digests
of what it holds, so every byte is read once and hashed once. What is there already is not written
again, a commit that was interrupted goes on where it was, two at once do not disturb each other,
and a version is there when its manifest is: last.
"""

import contextlib
import hashlib
import mmap
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from leptonai.blobs.packs import MAX_MEMBERS, encode_head, head_size, name_of_head
from leptonai.data.columns import Array, texts
from leptonai.data.kinds import Kind, describe, kind_of
from leptonai.data.manifest import Facts, Manifest
from leptonai.data.seen import (
    AT_BITS,
    UNKNOWN,
    Object,
    Places,
    Seen,
    now_ns,
    object_columns,
    used_objects,
)
from leptonai.data.shelf import NewBlob, Shelf, writing
from leptonai.data.source import Source, changed
from leptonai.data.walk import Listing
from leptonai.errors import NotFound

if TYPE_CHECKING:
    from leptonai.data.version import Fetch

PACK_BYTES = 16 << 20  # at most, of small files together
PACKED_BELOW_BYTES = 1 << 20  # a larger file has a pack of its own
BUFFERED_BYTES = 192 << 20  # at most, of all packs that are being read
READERS_MORE = 1  # than the processor needs: one of them waits for the disk
HEARD_S = 0.2  # how long Ctrl-C may go unheard

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class Committed(NamedTuple):
    digest: str  # of the manifest
    manifest: Manifest
    read_bytes: int  # that were not known to be unchanged
    stored_bytes: int  # that were new
    stored_objects: int


class _Done(NamedTuple):
    """What became of the files of one pack."""

    number: int  # of the pack
    files: Array
    digests: bytes  # 32 of each file
    places: list[int]  # of each file, as `Places` has them
    object: Object | None  # None where nothing was new


def commit(
    source: Source,
    shelf: Shelf,
    *,
    kind: Kind | None = None,
    lineage: dict[str, str] | None = None,
    kept: Callable[[str], bool] | None = None,
    fetch: "Fetch | None" = None,
    progress: Progress | None = None,
) -> Committed:
    """Read what changed, store what is new, and say what the version is.

    Args:
        kind: what the data is; None to find out.
        lineage: what it was made from: role → reference.
        kept: whether an object is stored already, and is worth being referred to; asked about what
            earlier commits of this source stored. By default, whether the shelf has it.
        fetch: brings what is kept elsewhere, if it has to be looked into.

    Raises:
        NotFound: the source holds no files.
        InvalidRequest: something in it is not as its kind has to be; says the file and the row.
        StorageFull: no version was made; what was stored is there for the next try.
    """
    began_ns = now_ns()
    shelf.clear()
    listing = source.list()
    if not listing.paths:
        raise NotFound(f"{source.name} holds no files", hint="check the path")
    kind = kind or kind_of(listing)
    journal = shelf.place / "seen" / hashlib.sha256(source.name.encode()).hexdigest()[:32]
    with writing(shelf.place):
        journal.parent.mkdir(parents=True, exist_ok=True)
    seen = Seen(journal)
    known, contents = seen.match(listing, kept or shelf.touch)
    done = _Storing(source, shelf, listing, seen, began_ns).all(known, contents, progress)
    columns = _columns(listing, known)
    bare = Manifest(Facts(type=kind), columns)
    described = describe(kind, listing, lambda file: _content(shelf, bare, file, fetch))
    facts = Facts(
        type=kind,
        schema=described.schema,
        classes=described.classes,
        splits=described.splits,
        header=described.header,
        lineage=lineage or {},
    )
    manifest = Manifest.of(facts, columns | described.columns)
    digest = shelf.put(manifest.parts())
    with writing(shelf.place):
        seen.tidy(listing, known, began_ns=began_ns)
    new = {each.object.digest: each.object.size for each in done if each.object is not None}
    read = sum(int(listing.sizes[each.files].sum()) for each in done)
    return Committed(digest, manifest, read, sum(new.values()), len(new))


class _Storing:
    """Reads, hashes and packs, many files at once."""

    def __init__(
        self, source: Source, shelf: Shelf, listing: Listing, seen: Seen, began_ns: int
    ) -> None:
        self._source = source
        self._shelf = shelf
        self._listing = listing
        self._seen = seen
        self._began_ns = began_ns
        # Content → place, of whoever came first. A dict, for `setdefault` is one step.
        self._claims: dict[bytes, int] = {}
        self._first_object = 0  # the number of the first pack's
        self._pack_bytes = PACK_BYTES
        self._stopped = threading.Event()
        self._buffers = threading.local()

    def all(
        self,
        known: Places,
        contents: Iterable[tuple[bytes, int]],
        progress: Progress | None,
    ) -> list[_Done]:
        """Read what is unknown, and make it known."""
        files = np.flatnonzero(known.places == UNKNOWN)
        if not len(files):
            return []
        self._claims.update(contents)
        self._first_object = len(known.objects)
        readers = self._source.readers + READERS_MORE
        beside_bytes = head_size(MAX_MEMBERS) + PACKED_BELOW_BYTES
        self._pack_bytes = min(PACK_BYTES, BUFFERED_BYTES // readers - beside_bytes)
        works = list(_works(files, self._listing.sizes, self._pack_bytes))
        known.objects.extend([Object("", 0)] * len(works))
        total_bytes = int(self._listing.sizes[files].sum())
        self._read_bytes = [0] * len(works)
        waiting = deque(enumerate(works))
        ended: SimpleQueue[_Done | BaseException] = SimpleQueue()
        done: list[_Done] = []
        readers = min(readers, len(works))
        with ThreadPoolExecutor(readers, "lepton-commit") as pool:
            for _ in range(readers):
                pool.submit(self._read_on, waiting, ended)
            try:
                while len(done) < len(works):
                    # With a time limit, for only between waits is Ctrl-C heard at once.
                    try:
                        each = ended.get(timeout=HEARD_S)
                    except Empty:
                        pass
                    else:
                        if isinstance(each, BaseException):
                            raise each
                        done.append(each)
                        self._learn(known, each)
                    if progress is not None:
                        progress(sum(self._read_bytes), total_bytes)
            finally:
                self._stopped.set()
        with writing(self._shelf.place):  # of those whose content another pack, or commit, holds
            left = [each.files[~self._own(known, each)] for each in done]
            self._seen.add(self._listing, np.concatenate(left), known, began_ns=self._began_ns)
        return done

    def _learn(self, known: Places, done: _Done) -> None:
        known.places[done.files] = done.places
        known.digests[done.files] = np.frombuffer(done.digests, np.uint8).reshape(-1, 32)
        if done.object is not None:
            known.objects[self._first_object + done.number] = done.object
        with writing(self._shelf.place):
            own = done.files[self._own(known, done)]
            self._seen.add(self._listing, own, known, began_ns=self._began_ns)

    def _own(self, known: Places, done: _Done) -> Array:
        own: Array = known.places[done.files] >> AT_BITS == self._first_object + done.number
        return own

    def _read_on(
        self,
        waiting: deque[tuple[int, list[int]]],
        ended: "SimpleQueue[_Done | BaseException]",
    ) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    number, files = waiting.popleft()
                except IndexError:
                    return
                with writing(self._shelf.place):
                    if self._listing.sizes[files[0]] >= PACKED_BELOW_BYTES:
                        done = self._large(number, files[0])
                    else:
                        done = self._pack(number, files)
                if done is not None:
                    ended.put(done)
        except BaseException as failure:
            ended.put(failure)

    def _pack(self, number: int, files: list[int]) -> _Done | None:
        buffer = self._buffer()
        read_into, sha256, stopped = self._source.read_into, hashlib.sha256, self._stopped.is_set
        setdefault, read_bytes = self._claims.setdefault, self._read_bytes
        chosen = np.asarray(files, np.int64)
        names, sizes = [self._listing.paths[file] for file in files], self._listing.sizes[chosen]
        object = (self._first_object + number) << AT_BITS
        digests: list[bytes] = []
        places: list[int] = []
        new: list[bytes] = []
        new_sizes: list[int] = []
        start = end = head_size(len(files))
        for name, size in zip(names, sizes.tolist(), strict=True):
            if stopped():
                return None
            if read_into(name, buffer[end : end + size + 1]) != size:
                raise changed(name)
            digest = sha256(buffer[end : end + size]).digest()
            place = setdefault(digest, object + end)
            digests.append(digest)
            places.append(place)
            read_bytes[number] += size
            if place == object + end:
                new.append(digest)
                new_sizes.append(size)
                end += size
        stored = None
        if new:
            head = buffer[:start] = encode_head(new_sizes, new, start)
            stored = Object(name_of_head(head), end)
            if not self._shelf.touch(stored.digest):
                with closing(NewBlob(self._shelf)) as blob:
                    blob.write_whole(buffer, end)
                    blob.keep(stored.digest)
        return _Done(number, chosen, b"".join(digests), places, stored)

    def _large(self, number: int, file: int) -> _Done | None:
        name, size, start = self._listing.paths[file], 0, head_size(1)
        sha256, place = hashlib.sha256(), ((self._first_object + number) << AT_BITS) + start
        with closing(NewBlob(self._shelf)) as blob:
            blob.write(bytes(start))
            for chunk in self._source.chunks(name):
                if self._stopped.is_set():
                    return None
                sha256.update(chunk)
                blob.write(chunk)
                size += len(chunk)
                self._read_bytes[number] = size
            if size != self._listing.sizes[file]:
                raise changed(name)
            digest, stored = sha256.digest(), None
            claim = self._claims.setdefault(digest, place)
            if claim == place:
                head = encode_head([size], [digest], start)
                stored = Object(name_of_head(head), start + size)
                if not self._shelf.touch(stored.digest):
                    blob.write_head(head)
                    blob.keep(stored.digest)
        return _Done(number, np.array([file]), digest, [claim], stored)

    def _buffer(self) -> memoryview:
        """Of this thread: room for a pack, its head, and the byte that shows that a file has grown.
        Its pages are taken when they are first written to: large ones, for writing past the
        system's cache looks each page up."""
        if not hasattr(self._buffers, "pack"):
            size = head_size(MAX_MEMBERS) + self._pack_bytes + PACKED_BELOW_BYTES
            pack = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with contextlib.suppress(AttributeError, OSError):  # where the system has none
                pack.madvise(mmap.MADV_HUGEPAGE)
            self._buffers.pack = memoryview(pack)
        buffer: memoryview = self._buffers.pack
        return buffer


def _works(files: Array, sizes: Array, most_bytes: int) -> Iterator[list[int]]:
    """Neighbours together, so that reading in order reads packs in order."""
    pack: list[int] = []
    pack_bytes = 0
    for file, size in zip(files.tolist(), sizes[files].tolist(), strict=True):
        if size >= PACKED_BELOW_BYTES:
            yield [file]
            continue
        if pack_bytes + size > most_bytes or len(pack) == MAX_MEMBERS:
            yield pack
            pack, pack_bytes = [], 0
        pack.append(file)
        pack_bytes += size
    if pack:
        yield pack


def _columns(listing: Listing, known: Places) -> dict[str, Array]:
    numbers, lies_in = used_objects(known.places)
    ends, paths = texts(listing.paths)
    return {
        **object_columns([known.objects[number] for number in numbers]),
        "path_end": ends,
        "path": paths,
        "size": listing.sizes.astype(np.uint64),
        "digest": known.digests,
        "object": lies_in,
        "at": (known.places & ((1 << AT_BITS) - 1)).astype(np.uint64),
    }


def _content(shelf: Shelf, manifest: Manifest, file: int, fetch: "Fetch | None") -> memoryview:
    """Mapped, for it may be a table that is larger than memory."""
    from leptonai.data.version import Version

    return Version(manifest, shelf, fetch=fetch).read_file(file)
