"""The log of a job's first worker: on the screen as Keras would have drawn it, and as messages.

What is written before Keras begins, by the libraries that it loads, stays in the log.
"""

import re
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from leptonai.training.keras import messages
from leptonai.training.keras.messages import UPDATE, Message

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.replicas import Replica

LOOK_S = 0.2  # between two looks at a job that has not begun
TOLD_AFTER_S = 1.0  # what waits for longer is told why
MAX_LAST_LINES = 20  # that are kept to be told with a failure
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Screen:
    """A bar that moves is drawn in its place on a terminal or in a notebook; else it is shown when
    it is complete."""

    def __init__(self, verbose: int, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._verbose = verbose
        self._is_terminal = self._out.isatty()
        self._moves = self._is_terminal or "ipykernel" in sys.modules
        self._drawn = 0  # characters of the bar that stands on the line

    def show(self, line: str) -> None:
        if not self._verbose:
            return
        text = line if self._moves else _COLOURS.sub("", line)
        if not text.startswith(UPDATE):
            begin = UPDATE if self._drawn else ""
            self._write(f"{begin}{text.ljust(self._drawn)}\n")
            self._drawn = 0
        elif self._moves:
            self._write(UPDATE + text[1:].ljust(self._drawn))
            self._drawn = len(text) - 1

    def end(self) -> None:
        """What comes next begins on a line of its own."""
        if self._drawn:
            self._write("\n")
            self._drawn = 0

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


class Follower:
    """Goes through the log of worker 0 until the job has ended, over all its tries."""

    def __init__(self, client: "LeptonClient", job_id: str, screen: Screen) -> None:
        self._client = client
        self._job_id = job_id
        self._screen = screen
        self._has_begun = False
        self.last: deque[str] = deque(maxlen=MAX_LAST_LINES)

    def __iter__(self) -> Iterator[Message]:
        try:
            for line in self._lines():
                message = messages.read(line)
                if message is not None:
                    self._has_begun |= message.kind == "begin"
                    yield message
                    continue
                if self._has_begun:
                    self._screen.show(line)
                if not line.startswith(UPDATE):
                    self.last.append(line)
        finally:
            self._screen.end()

    def _lines(self) -> Iterator[str]:
        from leptonai.client.synchronous.jobs import FINISHED

        jobs = self._client.jobs
        seen: set[str] = set()
        began_s, told = time.monotonic(), ""
        while True:
            status = jobs.get(self._job_id).status
            over = status is not None and status.state in FINISHED
            found = self._client.jobs.replicas(self._job_id, all_rounds=True)
            fresh = [each for each in _first_workers(self._job_id, found) if each.id not in seen]
            for each in fresh:
                seen.add(each.id)
                self._has_begun = False
                yield from jobs.log(self._job_id, each.id)
            if fresh:
                continue
            if over:
                return
            if time.monotonic() - began_s > TOLD_AFTER_S and not seen:
                because = jobs.why(self._job_id).because
                if because and because != told:
                    self._screen.show(f"{self._job_id} waits: {because}")
                told = because
            time.sleep(LOOK_S)


def _first_workers(job_id: str, replicas: "Sequence[Replica]") -> list["Replica"]:
    """Those of worker 0 that have started, oldest first; a replica is called JOB-INDEX-XXXXX."""
    return [
        each
        for each in sorted(replicas, key=lambda each: each.metadata.created_at or 0)
        if each.id.removeprefix(job_id).startswith("-0-")
        and (each.status is None or each.status.state not in ("Waiting", "Placed"))
    ]
