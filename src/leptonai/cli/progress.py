"""A line on the terminal that says how far a long step is, how fast, and how long it will take."""

import sys
import time

from leptonai.cli.output import span

SHOW_EVERY_S = 0.1
MIB = 1 << 20


class Progress:
    """Told how many bytes are done, and of how many. Silent where stderr is no terminal, and for
    what takes no time."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._began = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._wrote = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._terminal and now - self._shown >= SHOW_EVERY_S:
            self._shown, self._wrote = now, True
            line = progress_line(self._doing, done, total, now - self._began)
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()

    def end(self) -> None:
        if self._wrote:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def progress_line(doing: str, done: int, total: int, elapsed_s: float) -> str:
    """`storing  42%  12.0 of 28.6 MiB  6.0 MiB/s  2s left`."""
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    share = f"{100 * done // total:3}%" if total else "    "
    left = f"  {span((total - done) / rate)} left" if rate and total else ""
    return (
        f"{doing} {share}  {done / MIB:.1f} of {total / MIB:.1f} MiB  {rate / MIB:.1f} MiB/s{left}"
    )
