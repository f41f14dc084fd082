"""`LocalFolder`: the files of a directory as records, without a commit."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leptonai.data.records import Bytes
from leptonai.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LocalFolder:
    """Each file is a sample. Where every file lies in a folder of the top level, the folders are
    its classes."""

    def __init__(self, root: str | Path) -> None:
        """Raises:
        NotFound: no such directory, or an empty one.
        InvalidRequest: something in it is no data; says which.
        """
        import numpy as np

        from leptonai.data.walk import walk

        self._root = Path(root)
        found = walk(self._root)
        if not found.paths:
            raise NotFound(f"{root} holds no files", hint="check the path")
        self._paths, self._sizes = found.paths, found.sizes
        identity = hashlib.sha256("\0".join(found.paths).encode())
        identity.update(found.sizes.tobytes() + found.stamps[:, 0].tobytes())
        self._digest = f"sha256:{identity.hexdigest()}"
        folders = [path.partition("/")[0] if "/" in path else "" for path in self._paths]
        self._classes = () if "" in folders else tuple(sorted({*folders}))
        number_of = {name: number for number, name in enumerate(self._classes)}
        self._labels = (
            np.array([number_of[folder] for folder in folders], np.int64) if self._classes else None
        )

    @property
    def digest(self) -> str:
        """Of names, sizes and times: files that were only touched count as others."""
        return self._digest

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @property
    def labels(self) -> "NDArray[np.int64] | None":
        return self._labels

    def __len__(self) -> int:
        return len(self._paths)

    def path_of(self, at: int) -> str:
        return self._paths[at]

    def read(self, at: Sequence[int]) -> list[Bytes]:
        return [self._read(self._root / self._paths[one], int(self._sizes[one])) for one in at]

    def _read(self, path: Path, size: int) -> bytes:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise InvalidRequest(f"{path} has gone", hint="open the data again") from None
        try:
            data = os.read(fd, size + 1)
            while len(data) < size and (more := os.read(fd, size - len(data))):
                data += more
        finally:
            os.close(fd)
        if len(data) != size:
            raise InvalidRequest(f"{path} has changed since", hint="open the data again")
        return data
