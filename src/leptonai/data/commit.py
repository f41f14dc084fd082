"""`commit`: a source becomes a version, on this machine's shelf.

Small files are packed together and large ones are objects of their own; both are named by their
digests. So what is there already is not written again, a commit that was interrupted goes on where
it was, two at once do not disturb each other, and a version is there when its manifest is: last.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from leptonai.blobs.manifest import OBJECTS
from leptonai.data.columns import Array, texts
from leptonai.data.kinds import Kind, describe, kind_of
from leptonai.data.manifest import Facts, Manifest
from leptonai.data.seen import Place, Seen, now_ns
from leptonai.data.shelf import Shelf, write_all, writing
from leptonai.data.source import Source, changed
from leptonai.data.walk import Listing
from leptonai.errors import NotFound

if TYPE_CHECKING:
    from leptonai.data.version import Fetch

PACK_BYTES = 16 << 20  # at most, of small files together
BUFFER_BYTES = 256 << 10  # of a pack before they are written: fits into a core's own cache
READERS_MORE = 1  # than the processor needs: one of them waits for the disk
PACKED_BELOW_BYTES = 1 << 20  # a larger file is an object of its own

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class Committed(NamedTuple):
    digest: str  # of the manifest
    manifest: Manifest
    read_bytes: int  # that were not known to be unchanged
    stored_bytes: int  # that were new
    stored_objects: int


@dataclass
class _Done:
    """What became of the files of one pack, or of one large file."""

    files: Sequence[int]
    digests: list[bytes] = field(default_factory=list)
    at: list[tuple[int, int]] = field(default_factory=list)  # number of the work, place in it
    object: str = ""  # digest; "" where nothing was new
    size: int = 0  # of the object


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
    unchanged, known = seen.match(listing, kept or shelf.touch)
    stored = _Storing(source, shelf, listing, seen, began_ns, known)
    done = stored.all(
        [file for file in range(len(listing.paths)) if file not in unchanged], progress
    )
    digests, places = _joined(listing, unchanged, done, known)
    columns = _columns(listing, digests, places)
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
    new = {each.object: each.size for each in done if each.object}
    digest = shelf.put(manifest.parts())
    with writing(shelf.place):
        seen.replace(listing, digests, places, began_ns=began_ns)
    read = sum(int(listing.sizes[file]) for each in done for file in each.files)
    return Committed(digest, manifest, read, sum(new.values()), len(new))


class _Storing:
    """Reads, hashes and packs, many files at once."""

    def __init__(
        self,
        source: Source,
        shelf: Shelf,
        listing: Listing,
        seen: Seen,
        began_ns: int,
        known: dict[bytes, Place],
    ) -> None:
        self._source = source
        self._shelf = shelf
        self._listing = listing
        self._seen = seen
        self._began_ns = began_ns
        self._known = known
        # Content → work and place of whoever came first. A dict, for `setdefault` is one step.
        self._claims: dict[bytes, tuple[int, int]] = {}
        self._stopped = threading.Event()
        self._buffers = threading.local()

    def all(self, files: Sequence[int], progress: Progress | None) -> list[_Done]:
        works = list(_works(files, self._listing.sizes))
        total = int(self._listing.sizes[np.asarray(files, np.int64)].sum())
        done: list[_Done] = [_Done(())] * len(works)
        finished_bytes = 0
        with ThreadPoolExecutor(self._source.readers + READERS_MORE, "lepton-commit") as readers:
            waiting: dict[Future[_Done], int] = {
                readers.submit(self._one, number, work): number for number, work in enumerate(works)
            }
            try:
                while waiting:
                    # With a time limit, for only between waits is Ctrl-C heard at once.
                    ready, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in ready:
                        number = waiting.pop(future)
                        each = done[number] = future.result()
                        self._remember(number, each)
                        finished_bytes += int(self._listing.sizes[list(each.files)].sum())
                    if progress is not None:
                        progress(finished_bytes, total)
            except BaseException:
                self._stopped.set()
                readers.shutdown(wait=True, cancel_futures=True)
                raise
        return done

    def _remember(self, number: int, done: _Done) -> None:
        own = [index for index, (work, _) in enumerate(done.at) if work == number]
        with writing(self._shelf.place):
            self._seen.add(
                self._listing,
                [done.files[index] for index in own],
                [done.digests[index] for index in own],
                [Place(done.object, done.size, done.at[index][1]) for index in own],
                began_ns=self._began_ns,
            )

    def _one(self, number: int, files: Sequence[int]) -> _Done:
        with writing(self._shelf.place):
            if len(files) == 1 and self._listing.sizes[files[0]] >= PACKED_BELOW_BYTES:
                return self._large(number, files[0])
            return self._pack(number, files)

    def _pack(self, number: int, files: Sequence[int]) -> _Done:
        if not hasattr(self._buffers, "pack"):
            self._buffers.pack = memoryview(bytearray(PACKED_BELOW_BYTES + BUFFER_BYTES))
        buffer: memoryview = self._buffers.pack
        read_into, sha256, known = self._source.read_into, hashlib.sha256, self._known
        setdefault, stopped = self._claims.setdefault, self._stopped.is_set
        chosen = np.asarray(files, np.int64)
        names, sizes = [self._listing.paths[file] for file in files], self._listing.sizes[chosen]
        done = _Done(files)
        digests, places = done.digests, done.at
        pack, start, end, new = _Writer(self._shelf), 0, 0, False
        try:
            # A piece is hashed with its pack and written while the processor still has it at hand.
            for name, size in zip(names, sizes.tolist(), strict=True):
                if end >= BUFFER_BYTES:
                    pack.write(buffer[:end])
                    start, end = start + end, 0
                    if stopped():
                        return done
                if read_into(name, buffer[end : end + size + 1]) != size:
                    raise changed(name)
                digest = sha256(buffer[end : end + size]).digest()
                digests.append(digest)
                if digest in known:
                    places.append((-1, 0))
                    continue
                mine = (number, start + end)
                claim = setdefault(digest, mine)
                places.append(claim)
                if claim == mine:
                    end, new = end + size, True
            if new:
                pack.write(buffer[:end])
                done.object, done.size = pack.keep(), start + end
        finally:
            pack.close()
        return done

    def _large(self, number: int, file: int) -> _Done:
        large, size = _Writer(self._shelf), 0
        try:
            for chunk in self._source.chunks(self._listing.paths[file]):
                if self._stopped.is_set():
                    return _Done((file,))
                large.write(chunk)
                size += len(chunk)
            if size != self._listing.sizes[file]:
                raise changed(self._listing.paths[file])
            digest = large.sha256.digest()
            done = _Done((file,), [digest], [(-1, 0)])
            if digest in self._known:
                return done
            done.at[0] = self._claims.setdefault(digest, (number, 0))
            if done.at[0] == (number, 0):
                done.object, done.size = large.keep(), size
        finally:
            large.close()
        return done


class _Writer:
    """An object that is being written; gone unless it is kept."""

    def __init__(self, shelf: Shelf) -> None:
        self.sha256 = hashlib.sha256()
        self._shelf = shelf
        self._partial: Path | None = None
        self._fd = -1

    def write(self, data: bytes | memoryview) -> None:
        if self._partial is None:
            self._partial = self._shelf.partial()
            self._fd = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self.sha256.update(data)
        write_all(self._fd, data)

    def keep(self) -> str:
        """The blob's digest. It is on the disk: also after a power cut."""
        digest = f"sha256:{self.sha256.hexdigest()}"
        if self._partial is None:
            return self._shelf.put([b""])
        if not self._shelf.touch(digest):
            os.fdatasync(self._fd)
            self._shelf.keep(self._partial, digest)
            self._partial = None
        return digest

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)


def _works(files: Sequence[int], sizes: Array) -> Iterator[list[int]]:
    """Neighbours together, so that reading in order reads packs in order."""
    pack: list[int] = []
    pack_bytes = 0
    for file, size in zip(files, sizes[np.asarray(files, np.int64)].tolist(), strict=True):
        if size >= PACKED_BELOW_BYTES:
            yield [file]
            continue
        if pack_bytes + size > PACK_BYTES:
            yield pack
            pack, pack_bytes = [], 0
        pack.append(file)
        pack_bytes += size
    if pack:
        yield pack


def _joined(
    listing: Listing,
    unchanged: dict[int, tuple[bytes, Place]],
    done: Sequence[_Done],
    known: dict[bytes, Place],
) -> tuple[list[bytes], list[Place]]:
    """Digest and place of every file."""
    digests = [b""] * len(listing.paths)
    places = [Place("", 0, 0)] * len(listing.paths)
    for file, (digest, place) in unchanged.items():
        digests[file], places[file] = digest, place
    for each in done:
        for file, digest, (work, at) in zip(each.files, each.digests, each.at, strict=True):
            digests[file] = digest
            places[file] = (
                known[digest] if work < 0 else Place(done[work].object, done[work].size, at)
            )
    return digests, places


def _columns(
    listing: Listing, digests: Sequence[bytes], places: Sequence[Place]
) -> dict[str, Array]:
    objects = {place.object: place.size for place in places}
    number_of = {object: number for number, object in enumerate(objects)}
    ends, paths = texts(listing.paths)
    names = "".join(object.removeprefix("sha256:") for object in objects)
    return {
        OBJECTS: np.frombuffer(bytes.fromhex(names), np.uint8).reshape(-1, 32),
        "object_size": np.array(list(objects.values()), np.uint64),
        "path_end": ends,
        "path": paths,
        "size": listing.sizes.astype(np.uint64),
        "digest": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        "object": np.array([number_of[place.object] for place in places], np.uint32),
        "at": np.array([place.at for place in places], np.uint64),
    }


def _content(shelf: Shelf, manifest: Manifest, file: int, fetch: "Fetch | None") -> bytes:
    """Of a small number of files: those that describe the others."""
    from leptonai.data.version import Version

    return bytes(Version(manifest, shelf, fetch=fetch).read_file(file))
