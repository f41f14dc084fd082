"""`LocalFolder`: a directory as records, without a commit."""

import hashlib
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leptonai.data.ranges import read_range
from leptonai.data.records import Bytes
from leptonai.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from leptonai.data.kinds import Kind
    from leptonai.data.manifest import Field


class LocalFolder:
    """The same samples, labels and order as the version that a commit of the directory makes. The
    files are read where they lie, so they must not change meanwhile."""

    def __init__(
        self,
        root: str | Path,
        *,
        kind: "Kind | None" = None,
        keep: Callable[[str], bool] | None = None,
    ) -> None:
        """
        Args:
            kind: what it is; found out if not given.
            keep: says of each path whether it counts; all do if not given.

        Raises:
            NotFound: nothing of that name, or an empty directory.
            InvalidRequest: it is not as its kind has to be; says the file and the row.
        """
        import numpy as np

        from leptonai.data.kinds import describe, kind_of
        from leptonai.data.source import LocalSource

        self.source = Path(root)
        found = LocalSource(root).list()
        files = len(found.paths)
        if keep is not None:
            found = found.only([n for n, path in enumerate(found.paths) if keep(path)])
        self.left_out = files - len(found.paths)  # files that do not count
        if not found.paths:
            raise NotFound(f"{root} holds no files", hint="check the path")
        path = Path(root)
        self._root = path if path.is_dir() else path.parent
        self._paths = found.paths
        self.type: str = kind or kind_of(found)
        described = describe(kind or kind_of(found), found, self._whole)
        self.schema: tuple[Field, ...] = described.schema
        self.splits = described.splits
        self.columns = described.columns
        self._classes = described.classes
        self._files = self.columns.get("row_file", np.arange(len(found.paths)))
        self._starts = self.columns.get("row_at", np.zeros(len(found.paths), np.int64))
        self._sizes = self.columns.get("row_size", found.sizes)
        identity = hashlib.sha256("\0".join(found.paths).encode())
        identity.update(found.sizes.tobytes() + found.stamps[:, 0].tobytes())
        self._digest = f"sha256:{identity.hexdigest()}"

    @property
    def digest(self) -> str:
        """Of names, sizes and times: files that were only touched count as others."""
        return self._digest

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @property
    def labels(self) -> "NDArray[np.int64] | None":
        label = self.columns.get("label")
        return None if label is None else label.astype("int64")

    def __len__(self) -> int:
        return len(self._files)

    def path_of(self, at: int) -> str:
        """The file that the sample is, or is a row of."""
        return self._paths[int(self._files[at])]

    def keys(self) -> "NDArray[np.uint64]":
        """[N]: a number drawn from each sample's path and place, for contents are not known."""
        import numpy as np

        from leptonai.data.split import mixed

        drawn = [hashlib.blake2b(path.encode(), digest_size=8).digest() for path in self._paths]
        of_file = np.frombuffer(b"".join(drawn), np.uint64)
        keys = of_file[self._files]
        keys ^= mixed(self._starts.astype(np.uint64, copy=False), 1)
        return mixed(keys, 0)

    def read(self, at: Sequence[int]) -> list[Bytes]:
        if at and not 0 <= min(at) <= max(at) < len(self):
            raise IndexError(f"samples are numbered from 0 to {len(self) - 1}")
        if at and self.type == "tabular" and not self._sizes.all():
            from leptonai.data.frames import read_numbered

            return read_numbered(self, at)
        return [
            self._read(self.path_of(one), int(self._starts[one]), int(self._sizes[one]))
            for one in at
        ]

    def read_part(self, file: int, start: int, size: int) -> bytes:
        """Some of a file's bytes."""
        return read_range(self._root / self._paths[file], start, size)

    def place_of(self, file: int) -> tuple[Path, int, int]:
        """Where a file lies: in which one of this machine, from where on, and how long it is."""
        path = self._root / self._paths[file]
        return path, 0, path.stat().st_size

    def _read(self, name: str, start: int, size: int) -> bytes:
        try:
            fd = os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise InvalidRequest(f"{name!a} has gone", hint="open the data again") from None
        try:
            # One byte more than a whole file should have, to see that it has grown.
            whole = "row_size" not in self.columns
            data = os.pread(fd, size + whole, start)
            while len(data) < size and (more := os.pread(fd, size - len(data), start + len(data))):
                data += more
        finally:
            os.close(fd)
        if len(data) != size:
            raise InvalidRequest(f"{name!a} has changed since", hint="open the data again")
        return data

    def _whole(self, file: int) -> Bytes:
        with (self._root / self._paths[file]).open("rb") as content:
            if os.fstat(content.fileno()).st_size == 0:
                return b""
            return memoryview(mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ))
