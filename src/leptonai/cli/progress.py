"""A line on the terminal that says how far a long step is, how fast, and how long it will take."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from leptonai.cli.output import say, span

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

SHOW_AFTER_S = 0.3  # what takes less is done before it could be read
SHOW_EVERY_S = 0.1
MIB = 1 << 20
GOES_ON = "what is done is kept: the same command goes on from there"


class Progress:
    """Told how many bytes are done, and of how many. Silent where stderr is no terminal, and for
    what takes no time. Where Ctrl-C ends the step, it says what comes of that."""

    def __init__(self, doing: str, *, interrupted: str = GOES_ON) -> None:
        self._doing = doing
        self._interrupted = interrupted
        self._began: float | None = None
        self._shown = 0.0
        self._terminal = sys.stderr.isatty()
        self._wrote = False
        self._bar: Bar | None = None

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
            self._began = self._shown = now
            return
        if not self._terminal or now - self._began < SHOW_AFTER_S:
            return
        if now - self._shown < SHOW_EVERY_S and done < total:
            return
        self._shown = now
        if not self._wrote:
            self._wrote, self._bar = True, _bar(self._doing)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
            return
        line = progress_line(self._doing, done, total, now - self._began)
        width = shutil.get_terminal_size().columns
        sys.stderr.write(f"\r\x1b[K{line[: width - 1]}")
        sys.stderr.flush()

    def end(self) -> None:
        """The line goes, for what comes next."""
        if self._bar is not None:
            self._bar.stop()
        elif self._wrote:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._began, self._wrote, self._bar = None, False, None


def progress_line(doing: str, done: int, total: int, elapsed_s: float) -> str:
    """`storing  42%  12.0 of 28.6 MiB  6.0 MiB/s  2s left`."""
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    share = f"{100 * done // total:3}%" if total else "    "
    left = f"  {span((total - done) / rate)} left" if rate and total else ""
    return (
        f"{doing} {share}  {done / MIB:.1f} of {total / MIB:.1f} MiB  {rate / MIB:.1f} MiB/s{left}"
    )


def _bar(doing: str) -> Bar | None:
    """A better one than our line, where `rich` is installed."""
    try:
        from rich import progress
        from rich.console import Console
    except ModuleNotFoundError:
        return None
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task(doing, total=None)
    bar.start()
    return bar
