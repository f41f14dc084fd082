"""A line on the terminal that says how far a long step is, how fast, and how long it will take."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType

from leptonai.cli.output import say, span

SHOW_AFTER_S = 0.3  # what takes less is done before it could be read
SHOW_EVERY_S = 0.1
MIB = 1 << 20
GOES_ON = "what is done is kept: the same command goes on from there"
BAR_CHARS = 24
PARTS = " ▏▎▍▌▋▊▉"  # of a character


class Progress:
    """Told how many bytes are done, and of how many. Silent where stderr is no terminal, and for
    what takes no time. Where Ctrl-C ends the step, it says what comes of that."""

    def __init__(self, doing: str = "", *, interrupted: str = GOES_ON) -> None:
        self._doing = doing
        self._interrupted = interrupted
        self._began: float | None = None
        self._first = 0  # bytes that were there when it began: no part of the rate
        self._shown = 0.0
        self._terminal = sys.stderr.isatty()
        self._wrote = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
        if isinstance(error, KeyboardInterrupt) and self._interrupted:
            say(f"interrupted; {self._interrupted}")

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began, self._first, self._shown = now, done, now
            return
        if not self._terminal or now - self._began < SHOW_AFTER_S:
            return
        if now - self._shown < SHOW_EVERY_S and (done < total or not total):
            return
        self._shown, self._wrote = now, True
        line = progress_line(self._doing, done, total, now - self._began, first=self._first)
        width = shutil.get_terminal_size().columns
        if share_bar := bar(done, total, getattr(sys.stderr, "encoding", "") or ""):
            with_bar = f"{self._doing} {share_bar}{line.removeprefix(self._doing)}"
            line = with_bar if len(with_bar) < width else line
        sys.stderr.write(f"\r\x1b[K{line[: width - 1]}")
        sys.stderr.flush()

    def step(self, doing: str, done: int, total: int) -> None:
        """The same, of steps that follow each other: each has a line, and a rate, of its own."""
        waiting = self._wrote
        if doing != self._doing:
            self.end()
            self._doing = doing
            if waiting:  # and looking: at once, for what is told next may take long to come
                self._wrote = True
                sys.stderr.write(f"{doing} …")
                sys.stderr.flush()
        self(done, total)

    def end(self) -> None:
        """The line goes, for what comes next."""
        if self._wrote:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._began, self._wrote = None, False


def progress_line(doing: str, done: int, total: int, elapsed_s: float, *, first: int = 0) -> str:
    """`storing  42%  12.0 of 28.6 MiB  6.0 MiB/s  2s left`; `storing  12.0 MiB  6.0 MiB/s` of what
    nobody knows the end of.

    Args:
        first: bytes that were done when it began.
    """
    rate = (done - first) / elapsed_s if elapsed_s > 0 else 0.0
    speed = f"{rate / MIB:.1f} MiB/s"
    if not total:
        return f"{doing}  {done / MIB:.1f} MiB  {speed}"
    left = f"  {span((total - done) / rate)} left" if rate > 0 else ""
    share = f"{100 * done // total:3}%"
    return f"{doing} {share}  {done / MIB:.1f} of {total / MIB:.1f} MiB  {speed}{left}"


def bar(done: int, total: int, encoding: str) -> str:
    """Nothing where it cannot be drawn."""
    if not total or not encoding.lower().startswith("utf"):
        return ""
    parts = len(PARTS) * BAR_CHARS * min(done, total) // total
    full, rest = divmod(parts, len(PARTS))
    drawn = "█" * full + (PARTS[rest] if rest else "")
    return f"{drawn:<{BAR_CHARS}}▏"
