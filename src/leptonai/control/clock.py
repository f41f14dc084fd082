"""The machine's time, made safe to subtract."""

import time


class SystemClock:
    """Wall time that never goes back: where the machine's clock is set back, it goes on from where
    it was, and where it is set forward, it follows."""

    def __init__(self) -> None:
        self._ahead_ns = time.time_ns() - time.monotonic_ns()  # of the monotonic clock

    def now_ms(self) -> int:
        monotonic_ns = time.monotonic_ns()
        self._ahead_ns = max(self._ahead_ns, time.time_ns() - monotonic_ns)
        return (monotonic_ns + self._ahead_ns) // 1_000_000
