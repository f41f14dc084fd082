"""Objects between the workspace and this machine, several at once.

They are named by their content, so what is there is not sent again, and a transfer that was
interrupted goes on where it was: an upload with the object it was at, a download within it.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from leptonai.client import LeptonClient
from leptonai.client.messages import Told
from leptonai.data.progress import Progress
from leptonai.data.shelf import Shelf
from leptonai.data.version import MAX_AHEAD
from leptonai.errors import LeptonError

if TYPE_CHECKING:
    from leptonai.client.connection import Connection

T = TypeVar("T")
AT_ONCE = 8
HEARD_EVERY_S = 0.2  # Ctrl-C, while others work


def upload(
    at: LeptonClient,
    shelf: Shelf,
    sizes: Sequence[tuple[str, int]],
    progress: Progress | None = None,
) -> bool:
    """Have all these objects in the workspace; False if one has gone from there and from here.

    Args:
        sizes: each digest with its size in bytes.
    """
    tally = Tally(sum(size for _, size in sizes), progress)
    gone: list[str] = []

    def one(item: tuple[str, int]) -> None:
        digest, size = item
        told = tally.object()
        if not gone and not at.blobs.has(digest):
            try:
                with shelf.held(digest) as path:
                    at.blobs.put(digest, path, told=told)
            except FileNotFoundError:
                gone.append(digest)
        told(size)

    _for_each(one, sizes, tally)
    return not gone


def _for_each(work: Callable[[T], None], items: Iterable[T], tally: "Tally") -> None:
    """In no order, `AT_ONCE`. The first error ends it, and so does Ctrl-C."""
    waiting, taking = iter(items), threading.Lock()
    failures: list[BaseException] = []

    def loop() -> None:
        try:
            while not tally.stopped:
                with taking:
                    item = next(waiting, None)
                if item is None:
                    return
                work(item)
        except BaseException as failure:
            failures.append(failure)
            tally.stopped = True

    with ThreadPoolExecutor(AT_ONCE, "lepton-transfer") as pool:
        loops = [pool.submit(loop) for _ in range(AT_ONCE)]
        try:
            while wait(loops, timeout=HEARD_EVERY_S).not_done:
                pass
        except BaseException:
            tally.stopped = True
            raise
    if failures:
        raise failures[0]


class Stopped(Exception):
    """Nobody waits for this any more."""


class Tally:
    """Adds up what several transfers have done."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()
        self.stopped = False  # where this is set, the transfers end at their next step

    def object(self) -> Told:
        """Is to be told how many bytes of one object are done. What is sent again counts once."""
        most = 0

        def told(done: int) -> None:
            nonlocal most
            if self.stopped:
                raise Stopped
            with self._lock:
                self._done += max(0, done - most)
                most = max(most, done)
                if self._progress is not None:
                    self._progress(self._done, self._total)

        return told


@dataclass
class Fetcher:
    """Brings objects from the workspace: what is asked for, and by threads beside what is likely to
    be next. Each process has a client and threads of its own, once it needs them."""

    connection: "Connection"
    shelf: Shelf
    arrived: Progress | None = None  # is told of an object that is waited for
    _beside: "_Beside | None" = field(default=None, repr=False)

    def __call__(self, digest: str, then: Sequence[str] = ()) -> None:
        if self._beside is None or self._beside.pid != os.getpid():
            self._beside = _Beside(self.connection, self.shelf)
        self._beside.ask_for(then)
        self._beside.client.blobs.fetch(digest, self.shelf, progress=self.arrived)

    def __getstate__(self) -> dict[str, Any]:
        return {"connection": self.connection, "shelf": self.shelf, "_beside": None}


class _Beside:
    """A client, and threads that fetch what nobody waits for yet."""

    def __init__(self, connection: "Connection", shelf: Shelf) -> None:
        self.pid = os.getpid()
        self.client = LeptonClient(url=connection.url, token=connection.token)
        self._shelf = shelf
        self._wanted: queue.Queue[str] = queue.Queue(MAX_AHEAD)
        self._asked: set[str] = set()
        self._threads: list[threading.Thread] = []

    def ask_for(self, digests: Sequence[str]) -> None:
        for digest in digests:
            if digest in self._asked:
                continue
            self._asked.add(digest)
            try:
                self._wanted.put_nowait(digest)
            except queue.Full:
                self._asked.discard(digest)
                return
            if len(self._threads) < AT_ONCE - 1:
                # Daemons: an object that nobody waits for does not keep a program from ending.
                thread = threading.Thread(target=self._loop, name="lepton-ahead", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _loop(self) -> None:
        while True:
            digest = self._wanted.get()
            # Who needs it fetches it then, and is told what is wrong.
            with contextlib.suppress(LeptonError, OSError):
                self.client.blobs.fetch(digest, self._shelf)
            self._asked.discard(digest)
