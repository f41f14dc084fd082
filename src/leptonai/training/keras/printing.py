"""Keras's progress bar as lines of a log."""

import io
import time
from collections.abc import Callable
from typing import TextIO

from leptonai.training.keras.messages import UPDATE

UPDATE_EVERY_S = 0.5  # a bar that moves 20 times a second would fill the log


class BarAsLines(io.TextIOBase):
    """Takes what Keras writes to a terminal. A bar that is still moving becomes a line that begins
    with a carriage return: whoever shows the log may draw the next one over it."""

    def __init__(self, out: TextIO, now_s: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._now_s = now_s
        self._last_s = float("-inf")
        self._rest = ""

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            shown = line.rpartition("\r")[2].rstrip()
            if shown:
                self._out.write(f"{shown}\n")
        if "\r" in self._rest:
            bar, self._rest = self._rest.rpartition("\r")[2].rstrip(), ""
            if self._now_s() - self._last_s >= UPDATE_EVERY_S:
                self._last_s = self._now_s()
                self._out.write(f"{UPDATE}{bar}\n")
        return len(text)

    def flush(self) -> None:
        self._out.flush()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"
