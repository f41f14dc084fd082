"""Time, as the platform is told it."""

from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since 1970; never smaller than an earlier answer of the same process."""
        ...
