"""`Manifest`: what one version of a dataset holds, and where its bytes lie.

A file of columns (`leptonai.blobs.columns`), itself a blob, which is mapped and never read as a
whole: a version of a million files opens in a millisecond.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import field
from numpy.typing import NDArray

from leptonai.blobs.columns import facts_as
from leptonai.blobs.manifest import OBJECTS
from leptonai.data.columns import Array, decode, encode, map_file, text_at
from leptonai.errors import InvalidRequest, NotFound

FILE_COLUMNS = ("path_end", "path", "size", "digest", "object", "at")
ROW_COLUMNS = ("row_file", "row_at", "row_size")
SAMPLE_COLUMNS = ("label", "split")
BOX_COLUMNS = ("box_end", "box", "box_label")
OBJECT_COLUMNS = (OBJECTS, "object_size")
# What a version *is*; the rest says where it lies.
CONTENT_COLUMNS = (
    "path_end", "path", "size", "digest", *ROW_COLUMNS, *SAMPLE_COLUMNS, *BOX_COLUMNS,
)  # fmt: skip


class Field(msgspec.Struct, frozen=True):
    """A column of a table, or a part of a sample."""

    name: str
    type: str  # "integer", "number", "boolean", "text", "time", "image", "class", "boxes", "bytes"


class Facts(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    type: str  # of `leptonai.data.kinds`
    schema: tuple[Field, ...] = ()
    classes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()  # names; a sample's is a number among them, and the last is none
    content: str = ""  # the digest of what it is, wherever it lies
    header: bool = False  # the first line of its tables names their columns
    lineage: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Files in the order of their paths' bytes; samples in the order of the files."""

    facts: Facts
    columns: dict[str, Array]

    @classmethod
    def of(cls, facts: Facts, columns: dict[str, Array]) -> "Manifest":
        """With the digest of its content."""
        identity = hashlib.sha256()
        bare = msgspec.structs.replace(facts, content="", lineage={})
        identity.update(msgspec.json.encode(bare))
        for name in CONTENT_COLUMNS:
            if name in columns:
                identity.update(f"\n{name}\n".encode())
                identity.update(np.ascontiguousarray(columns[name]).reshape(-1).view(np.uint8).data)
        content = f"sha256:{identity.hexdigest()}"
        return cls(msgspec.structs.replace(facts, content=content), columns)

    @classmethod
    def open(cls, path: Path) -> "Manifest":
        """Raises:
        NotFound: there is no such file.
        InvalidRequest: it is no manifest, or one that contradicts itself.
        """
        try:
            data = map_file(path)
        except (FileNotFoundError, ValueError):
            raise NotFound(f"there is no manifest at {path}", hint="fetch it again") from None
        head, columns = decode(data)
        manifest = cls(facts_as(head, Facts), columns)
        manifest._check()
        return manifest

    def parts(self) -> list[bytes | memoryview]:
        """The file, piece by piece. The objects come first, for who wants no more."""
        first = {name: self.columns[name] for name in OBJECT_COLUMNS}
        return encode(self.facts, first | self.columns)

    # --- files -----------------------------------------------------------------------------------

    @property
    def file_count(self) -> int:
        return len(self.columns["size"])

    @property
    def size_bytes(self) -> int:
        """Of all files, each as often as it is there."""
        return int(self.columns["size"].sum())

    def path_of(self, file: int) -> str:
        return text_at(self.columns["path_end"], self.columns["path"], file)

    def file_of(self, path: str) -> int:
        """Raises:
        NotFound: there is no such file.
        """
        low, high, wanted = 0, self.file_count, path.encode()
        while low < high:
            middle = (low + high) // 2
            if self.path_of(middle).encode() < wanted:
                low = middle + 1
            else:
                high = middle
        if low == self.file_count or self.path_of(low) != path:
            raise NotFound(f"the dataset has no file {path!a}", hint="see its preview")
        return low

    def paths(self) -> list[str]:
        """All of them: 0.2 µs each."""
        data, start, found = self.columns["path"].tobytes(), 0, []
        for end in self.columns["path_end"].tolist():
            found.append(data[start:end].decode())
            start = end
        return found

    @cached_property
    def objects(self) -> tuple[str, ...]:
        """Digests."""
        digests = self.columns[OBJECTS].tobytes().hex()
        return tuple(f"sha256:{digests[at : at + 64]}" for at in range(0, len(digests), 64))

    # --- samples ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.columns["row_file"]) if "row_file" in self.columns else self.file_count

    def file_of_sample(self, sample: int) -> int:
        return int(self.columns["row_file"][sample]) if "row_file" in self.columns else sample

    def places(self, at: Sequence[int]) -> tuple[Array, Array, Array]:
        """Of these samples: the object, where they begin in it, and their sizes.

        Raises:
            IndexError: there is no sample of such a number.
        """
        wanted = np.asarray(at, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"samples are numbered from 0 to {len(self) - 1}")
        columns = self.columns
        if "row_file" not in columns:
            return columns["object"][wanted], columns["at"][wanted], columns["size"][wanted]
        files = columns["row_file"][wanted]
        starts = columns["at"][files] + columns["row_at"][wanted]
        return columns["object"][files], starts, columns["row_size"][wanted]

    @property
    def labels(self) -> NDArray[np.int64] | None:
        label = self.columns.get("label")
        return None if label is None else label.astype(np.int64)

    def keys(self) -> NDArray[np.uint64]:
        """[N]: a number drawn from each sample's content: equal samples have equal ones, and of a
        file's rows each has its own."""
        digests: NDArray[Any] = self.columns["digest"]
        first: NDArray[np.uint64] = np.ascontiguousarray(digests[:, :8]).view(np.uint64).reshape(-1)
        if "row_file" not in self.columns:
            return first
        rows = self.columns["row_at"].astype(np.uint64)
        with np.errstate(over="ignore"):
            mixed: NDArray[np.uint64] = first[self.columns["row_file"]] ^ (
                rows * np.uint64(0x9E3779B97F4A7C15)
            )
        return mixed

    def _check(self) -> None:
        """What is used as a place must be one."""
        columns = self.columns
        if {*FILE_COLUMNS, *OBJECT_COLUMNS} - {*columns}:
            raise _contradiction("columns are missing")
        files, objects = self.file_count, len(columns[OBJECTS])
        if any(len(columns[name]) != files for name in FILE_COLUMNS if name != "path"):
            raise _contradiction("its columns are of unequal lengths")
        if columns["digest"].shape != (files, 32) or columns[OBJECTS].shape != (objects, 32):
            raise _contradiction("its digests have another length")
        if len(columns["object_size"]) != objects:
            raise _contradiction("its objects have no sizes")
        if files:
            ends = columns["path_end"]
            if int(ends[-1]) != len(columns["path"]) or bool(
                (np.diff(ends.view(np.int64)) < 1).any()
            ):
                raise _contradiction("its paths overlap")
            if int(columns["object"].max()) >= objects:
                raise _contradiction("a file lies in no object")
            room = columns["object_size"][columns["object"]]
            if bool((columns["at"] > room).any() or (columns["size"] > room - columns["at"]).any()):
                raise _contradiction("a file ends outside of its object")
        self._check_samples(files)

    def _check_samples(self, files: int) -> None:
        columns = self.columns
        rows = [columns[name] for name in ROW_COLUMNS if name in columns]
        if rows and (len(rows) != len(ROW_COLUMNS) or len({len(row) for row in rows}) != 1):
            raise _contradiction("its rows are incomplete")
        if rows and len(rows[0]):
            row_file, row_at, row_size = rows
            if int(row_file.max()) >= files:
                raise _contradiction("a row lies in no file")
            row_at = np.where(row_size > 0, row_at, 0)  # else it is a number, not a place
            room = columns["size"][row_file]
            if bool((row_at > room).any() or (row_size > room - row_at).any()):
                raise _contradiction("a row ends outside of its file")
        for name in SAMPLE_COLUMNS:
            if name in columns and len(columns[name]) != len(self):
                raise _contradiction(f"not every sample has its {name}")


def _contradiction(what: str) -> InvalidRequest:
    return InvalidRequest(f"the manifest contradicts itself: {what}", hint="fetch it again")
