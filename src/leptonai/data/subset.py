"""Some of the records of a data set."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leptonai.data.records import Bytes, Records

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Subset:
    """The records of these numbers, in this order, numbered anew."""

    def __init__(self, records: Records, numbers: "Sequence[int] | NDArray[np.int64]") -> None:
        import numpy as np

        self._records = records
        self._numbers = np.asarray(numbers, np.int64)
        labels = records.labels
        self._labels = None if labels is None else labels[self._numbers]
        identity = hashlib.sha256(records.digest.encode())
        identity.update(self._numbers.astype("<i8").tobytes())
        self._digest = f"sha256:{identity.hexdigest()}"

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def classes(self) -> tuple[str, ...]:
        return self._records.classes

    @property
    def labels(self) -> "NDArray[np.int64] | None":
        return self._labels

    def __len__(self) -> int:
        return len(self._numbers)

    def path_of(self, at: int) -> str:
        """Where the records have paths."""
        path: str = self._records.path_of(int(self._numbers[at]))  # type: ignore[attr-defined]
        return path

    def read(self, at: Sequence[int]) -> list[Bytes]:
        return self._records.read(self._numbers[list(at)].tolist())
