"""Where the counts of endpoints' requests are kept, a column a day: see `core.counts`.

`leptonai.testing.counts_contract` is the same promise as a test suite.
"""

from collections.abc import Callable, Mapping
from typing import Protocol


class CountStore(Protocol):
    """What a call has written is on disk when it returns, whole or not at all."""

    async def change(
        self, workspace: str, endpoint: str, day: int, to: Callable[[bytes], bytes]
    ) -> None:
        """Replace a day's column by what `to` makes of it; b"" is none. Nobody else changes it
        meanwhile. `to` is pure, and may be called in another thread.

        Raises:
            StorageFull, Unavailable: nothing was written.
        """
        ...

    async def read(self, workspace: str, endpoint: str, from_day: int) -> Mapping[int, bytes]:
        """The columns from a day on, by day."""
        ...

    async def forget_before(self, day: int) -> None:
        """Remove what is older, of every endpoint, whether there still is one or not."""
        ...
