"""`Version`: the samples of a committed version, read out of packs on this machine."""

import mmap
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonai.data.columns import map_file
from leptonai.data.manifest import Field, Manifest
from leptonai.data.ranges import read_range
from leptonai.data.records import Bytes
from leptonai.data.shelf import Shelf
from leptonai.errors import NotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_MAPPED = 1024  # objects at once; the system allows a process some 65,000 mappings

Fetch = Callable[[str], None]  # puts an object of this digest upon the shelf


class Version:
    """Objects are mapped when first read, and the views that `read` returns look into them: nothing
    is copied. What is not on the shelf is fetched, where a `fetch` is given."""

    def __init__(
        self,
        manifest: Manifest,
        shelf: Shelf,
        *,
        manifest_digest: str = "",
        fetch: Fetch | None = None,
    ) -> None:
        self.manifest = manifest
        self._shelf = shelf
        self._manifest_digest = manifest_digest
        self._fetch = fetch
        self._mapped: OrderedDict[int, memoryview] = OrderedDict()

    @classmethod
    def open(cls, shelf: Shelf, digest: str, *, fetch: Fetch | None = None) -> "Version":
        """The version whose manifest has this digest.

        Raises:
            NotFound: its manifest is not here.
        """
        if fetch is not None and not shelf.has(digest):
            fetch(digest)
        manifest = Manifest.open(shelf.path(digest))
        return cls(manifest, shelf, manifest_digest=digest, fetch=fetch)

    @property
    def digest(self) -> str:
        return self.manifest.facts.content

    @property
    def type(self) -> str:
        return self.manifest.facts.type

    @property
    def schema(self) -> tuple[Field, ...]:
        return self.manifest.facts.schema

    @property
    def splits(self) -> tuple[str, ...]:
        """Names; `columns["split"]` says of each sample which is its."""
        return self.manifest.facts.splits

    @property
    def columns(self) -> "dict[str, NDArray[Any]]":
        return self.manifest.columns

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.facts.classes

    @property
    def labels(self) -> "NDArray[np.int64] | None":
        return self.manifest.labels

    def __len__(self) -> int:
        return len(self.manifest)

    def path_of(self, at: int) -> str:
        """The file that the sample is, or is a row of."""
        return self.manifest.path_of(self.manifest.file_of_sample(at))

    def keys(self) -> "NDArray[np.uint64]":
        """[N]: a number drawn from each sample's content."""
        return self.manifest.keys()

    def read(self, at: Sequence[int]) -> list[Bytes]:
        if len(at) and self._has_numbered_rows:
            from leptonai.data.frames import read_numbered

            return read_numbered(self, at)
        objects, starts, sizes = self.manifest.places(at)
        return [
            self._object(object)[start : start + size]
            for object, start, size in zip(
                objects.tolist(), starts.tolist(), sizes.tolist(), strict=True
            )
        ]

    def read_file(self, file: int) -> memoryview:
        """The bytes of a whole file, by its number among the files."""
        columns = self.manifest.columns
        start, size = int(columns["at"][file]), int(columns["size"][file])
        return self._object(int(columns["object"][file]))[start : start + size]

    def read_part(self, file: int, start: int, size: int) -> bytes:
        """Some of a file's bytes, without mapping it."""
        path, at, _ = self.place_of(file)
        return read_range(path, at + start, size)

    def place_of(self, file: int) -> tuple[Path, int, int]:
        """Where a file lies: in which one of this machine, from where on, and how long it is."""
        columns = self.manifest.columns
        digest = self.manifest.objects[int(columns["object"][file])]
        if self._fetch is not None and not self._shelf.has(digest):
            self._fetch(digest)
        return self._shelf.path(digest), int(columns["at"][file]), int(columns["size"][file])

    @cached_property
    def _has_numbered_rows(self) -> bool:
        sizes = self.columns.get("row_size")
        return self.type == "tabular" and sizes is not None and not sizes.all()

    def _object(self, number: int) -> memoryview:
        # Threads may map one twice, or drop what another has just read: views keep their mapping.
        view = self._mapped.get(number)
        if view is None:
            view = self._mapped[number] = self._map(number)
            while len(self._mapped) > MAX_MAPPED:
                self._mapped.popitem(last=False)
        return view

    def _map(self, number: int) -> memoryview:
        size = int(self.manifest.columns["object_size"][number])
        if size == 0:
            return memoryview(b"")
        digest = self.manifest.objects[number]
        if self._fetch is not None and not self._shelf.has(digest):
            self._fetch(digest)
        try:
            mapped: mmap.mmap = map_file(self._shelf.path(digest))
        except (FileNotFoundError, ValueError):
            raise NotFound(
                f"the object {digest} of this version is not on this machine",
                hint="get the dataset again: `leptonai dataset download`",
            ) from None
        if len(mapped) != size:
            raise NotFound(
                f"the object {digest} is damaged: {len(mapped)} bytes and not {size}",
                hint=f"remove {self._shelf.path(digest)}, then get the dataset again",
            )
        return memoryview(mapped)

    def __getstate__(self) -> dict[str, Any]:
        """Where it lies, not the bytes: the other process maps the same files."""
        assert self._manifest_digest, "a version without a manifest on the shelf"
        return {"shelf": self._shelf, "digest": self._manifest_digest, "fetch": self._fetch}

    def __setstate__(self, state: dict[str, Any]) -> None:
        opened = Version.open(state["shelf"], state["digest"], fetch=state["fetch"])
        self.__dict__.update(opened.__dict__)
