"""`commit`: a source becomes a version, on this machine's shelf.

Files are put into packs: small ones together, each large one alone. A pack is named by the digests
of what it holds, so every byte is read once and hashed once. What is there already is not written
again, a commit that was interrupted goes on where it was, two at once do not disturb each other,
and a version is there when its manifest is: last.
"""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from leptonai.data.columns import Array, texts
from leptonai.data.kinds import Kind, describe, kind_of
from leptonai.data.manifest import Facts, Manifest
from leptonai.data.progress import Progress
from leptonai.data.seen import AT_BITS, Places, Seen, now_ns, object_columns, used_objects
from leptonai.data.shelf import Shelf, writing
from leptonai.data.source import Source
from leptonai.data.storing import Storing
from leptonai.data.walk import Listing
from leptonai.errors import NotFound

if TYPE_CHECKING:
    from leptonai.data.version import Fetch


class Committed(NamedTuple):
    digest: str  # of the manifest
    manifest: Manifest
    read_bytes: int  # that were not known to be unchanged
    stored_bytes: int  # that were new
    stored_objects: int


def commit(
    source: Source,
    shelf: Shelf,
    *,
    kind: Kind | None = None,
    lineage: dict[str, str] | None = None,
    kept: Callable[[str], bool] | None = None,
    fetch: "Fetch | None" = None,
    progress: Progress | None = None,
    reading: Progress | None = None,
) -> Committed:
    """Read what changed, store what is new, and say what the version is.

    Args:
        kind: what the data is; None to find out.
        lineage: what it was made from: role → reference.
        kept: whether an object is stored already, and is worth being referred to; asked about what
            earlier commits of this source stored. By default, whether the shelf has it.
        fetch: brings what is kept elsewhere, if it has to be looked into.
        progress: is told how much is stored.
        reading: of what is then looked into, tables and texts, how much was.

    Raises:
        NotFound: the source holds no files.
        InvalidRequest: something in it is not as its kind has to be; says the file and the row.
        StorageFull: no version was made; what was stored is there for the next try.
    """
    began_ns = now_ns()
    shelf.clear()
    journal = shelf.place / "seen" / hashlib.sha256(source.name.encode()).hexdigest()[:32]
    with writing(shelf.place):
        journal.parent.mkdir(parents=True, exist_ok=True)
    seen = Seen(journal)
    storing = Storing(
        source, shelf, seen, began_ns=began_ns, kept=kept or shelf.touch, progress=progress
    )
    listing, known, read_bytes, stored = storing.all()
    if not listing.paths:
        raise NotFound(f"{source.name} holds no files", hint="check the path")
    kind = kind or kind_of(listing)
    columns = _columns(listing, known)
    bare = Manifest(Facts(type=kind), columns)
    from leptonai.data.version import Version

    version = Version(bare, shelf, fetch=fetch)
    whole, began = int(listing.sizes.sum()), np.cumsum(listing.sizes) - listing.sizes

    def read(file: int) -> memoryview:
        """Mapped, for it may be a table that is larger than memory."""
        if reading is not None:
            reading(int(began[file]), whole)
        return version.read_file(file)

    described = describe(kind, listing, read)
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
    return Committed(digest, manifest, read_bytes, sum(stored.values()), len(stored))


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
