"""What must hold for a process that is to be copied, and what a copy has of its own."""

import os
import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from leptonai.serving.photon import Photon


def why_not(photon: Photon) -> str:
    """Why this process, which has initialised the photon, may not be copied; "" if it may.

    A fork has the memory and the open files of its parent, and no thread but one.
    """
    if not photon.warm_start:
        return f"{type(photon).__name__} says warm_start = False"
    if type(photon).launch is not Photon.launch:
        return f"{type(photon).__name__} has a launch of its own"
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        return f"{threads - 1} threads run after init; start them in warm_up"
    if _has_children():
        return "processes run after init; start them in warm_up"
    for opened in _opened():
        if opened.startswith(("socket:", "pipe:", "anon_inode:[event")):
            return "connections or an event loop are open after init; open them in warm_up"
        if opened.startswith("/dev/nvidia"):
            return "a GPU is open after init, and what is on it cannot be copied"
    return ""


def renew() -> None:
    """Draw other random numbers than any other copy, and use the threads that this one may."""
    seed = int.from_bytes(os.urandom(8), "little")
    random.seed(seed)
    if drawing := sys.modules.get("numpy.random"):
        drawing.seed(seed % (1 << 32))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    count = int(threads) if threads.isdecimal() else 0
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(seed % (1 << 63))
        if count > 0:
            torch.set_num_threads(count)
    if count > 1 and (pools := sys.modules.get("threadpoolctl")):
        pools.threadpool_limits(count, user_api="blas")


class Reading:
    """Watches which variables that are withheld here are read, of the environment, meanwhile.

    Copies get them later, too late for whoever has read them before.

    Args:
        secrets: also read by what lies in `place` and looks at all variables. (Libraries do, when
            they are imported.)
        others: that each replica has its own of.
    """

    def __init__(self, place: Path, *, secrets: frozenset[str], others: frozenset[str]) -> None:
        self._place = f"{place}{os.sep}"
        self._secrets = secrets
        self._withheld = secrets | others
        self.found: set[str] = set()

    def __enter__(self) -> "Reading":
        reading = self
        self._class = type(os.environ)

        class Watched(self._class):  # type: ignore[misc, name-defined]
            def __getitem__(self, name: str) -> Any:
                reading.found |= {name} & reading._withheld
                return super().__getitem__(name)

            def __iter__(self) -> Iterator[str]:
                if reading._secrets and reading._is_theirs(sys._getframe(1)):
                    reading.found |= reading._secrets
                return iter(super().__iter__())

        # Its class, and not the object, which others hold.
        os.environ.__class__ = Watched
        return self

    def _is_theirs(self, frame: FrameType | None) -> bool:
        """Whether it was called by what lies there, and not by what that imports."""
        while frame is not None and "importlib._bootstrap" not in frame.f_code.co_filename:
            if frame.f_code.co_filename.startswith(self._place):
                return True
            frame = frame.f_back
        return False

    def __exit__(self, *_: object) -> None:
        os.environ.__class__ = self._class


def _opened() -> Iterator[str]:
    """What the open files are, but for the standard ones."""
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing is gone
            if int(fd.name) > 2:
                yield str(fd.readlink())


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
