"""Where the points of runs are kept: the promise that the SQL and the memory store keep.

`leptonai.testing.points_contract` is the same promise as a test suite.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from leptonai.blobs.points import Batch
from leptonai.core.points import RunPoints

if TYPE_CHECKING:
    from leptonai.core.curves import Points

Method = Literal["minmax", "lttb"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which points of a curve, and how many at most."""

    from_step: int | None = None
    to_step: int | None = None
    most: int
    method: Method = "minmax"


class PointStore(Protocol):
    """What a call has written is on disk when it returns, whole or not at all."""

    async def open(self, workspace: str, run: str) -> None:
        """Let a run have points; again changes nothing."""
        ...

    async def append(self, workspace: str, run: str, batch: Batch, now_ms: int) -> bool:
        """Store a batch; False where it is stored already.

        Raises:
            NotFound: the run may have no points.
            TooLarge: it has too many.
            StorageFull, Unavailable: nothing was written.
        """
        ...

    async def known(self, workspace: str, runs: Sequence[str]) -> Mapping[str, RunPoints]:
        """By run, of those that were opened."""
        ...

    async def read(
        self, workspace: str, run: str, key: str, wanted: Wanted
    ) -> "tuple[Points, int]":
        """The curve of a key, reduced, and how many points there are of it."""
        ...

    async def forget(self, workspace: str, run: str) -> None:
        """Remove all points, and let it have no more."""
        ...
