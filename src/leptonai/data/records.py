"""What a loader reads: samples by number, wherever they lie."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Bytes: TypeAlias = bytes | memoryview


class Records(Protocol):
    """N samples, numbered from 0 in an order that never changes.

    Safe for many threads at once, and in a process that was forked or spawned from the one that
    made it (pickling keeps where the samples lie, not their bytes).
    """

    @property
    def digest(self) -> str:
        """Names these samples in this order: equal digests read equal bytes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels; () where labels are no classes, or there are none."""

    @property
    def labels(self) -> "NDArray[np.int64] | None":
        """[N]: the class of each sample by its place in `classes`; None without labels."""

    def __len__(self) -> int: ...

    def read(self, at: Sequence[int]) -> list[Bytes]:
        """The encoded bytes of these samples, in the order asked. Nothing is decoded.

        Raises:
            IndexError: there is no sample of such a number; nothing was read.
            InvalidRequest: a file has changed or gone since it was numbered.
        """
