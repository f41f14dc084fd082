"""`Cache`: a shelf of a limited size, for what lies in workspaces elsewhere.

What was used longest ago goes first, and never what a process has mapped, or holds otherwise: its
file is locked. Who makes a version keeps everything until it is stored in the workspace.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from leptonai.data.shelf import PARTIAL, Shelf, shelf_of
from leptonai.errors import InvalidRequest

LIMIT_VARIABLE = "LEPTON_CACHE_BYTES"
MOST_BYTES = 20 << 30  # unless said otherwise; and at most half of what the disk has left for it
LOOK_AFTER_SHARE = 64  # of the limit, fetched by one process, before it looks how full it is
SPARE_SHARE = 16  # of the limit, for what several processes fetch until one of them looks
ROOM_SHARE = 8  # of the limit, that is free when there was too much
MAPPED_SHARE = 2  # of the limit, that one reader has mapped
AHEAD_SHARE = 8  # of the limit, that is fetched before it is asked for
HOLDERS = ".making"  # locked by who makes a version


class Holding(NamedTuple):
    """What a cache holds."""

    place: str
    objects: int
    bytes: int
    limit_bytes: int


class Cache(Shelf):
    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._until_look_bytes = -1  # that may still be fetched before the next look
        self._ahead_bytes = 0
        self._mapped_bytes = 0

    @property
    def ahead_bytes(self) -> int:
        return min(super().ahead_bytes, self._ahead_bytes)

    @property
    def most_mapped_bytes(self) -> int:
        if not self._mapped_bytes:
            self._mapped_bytes = self.limit_bytes() // MAPPED_SHARE
        return self._mapped_bytes

    def limit_bytes(self) -> int:
        """Raises:
        InvalidRequest: the variable holds no amount.
        """
        if text := os.environ.get(LIMIT_VARIABLE):
            return _parsed(text)
        there = self.place
        while not there.exists():
            there = there.parent
        return min(MOST_BYTES, (shutil.disk_usage(there).free + self._size()) // 2)

    def holding(self) -> Holding:
        sizes = [each.size for each in self._entries()]
        return Holding(str(self.place), len(sizes), sum(sizes), self.limit_bytes())

    def used(self, digest: str) -> None:
        self.touch(digest)

    def make_room(self, size: int) -> None:
        self._until_look_bytes -= size
        if self._until_look_bytes < 0:
            self.trim()

    def trim(self, *, to_bytes: int | None = None) -> int:
        """Remove what was used longest ago until there is room again, or so much is left; returns
        how many bytes went."""
        limit = self.limit_bytes()
        self._until_look_bytes = limit // LOOK_AFTER_SHARE
        self._ahead_bytes = limit // AHEAD_SHARE
        self._mapped_bytes = limit // MAPPED_SHARE
        entries = self._entries()
        total = sum(each.size for each in entries) + self._arriving_bytes()
        if to_bytes is None:
            much = total > limit - limit // SPARE_SHARE
            to_bytes = limit - limit // ROOM_SHARE if much else total
        removed = 0
        with self._no_holder() as free:
            for entry in sorted(entries) if free else ():
                if total - removed <= to_bytes:
                    break
                if _removed(entry.path):
                    removed += entry.size
        return removed

    def empty(self) -> int:
        """Remove all that nobody uses; returns how many bytes that were."""
        removed = self.trim(to_bytes=0)
        for each in _scanned(self.place / PARTIAL):
            with contextlib.suppress(FileNotFoundError):
                size = each.stat().st_size
                removed += size if _removed(each.path) else 0
        return removed

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        self.place.mkdir(parents=True, exist_ok=True)
        with (self.place / HOLDERS).open("a") as holders:
            fcntl.flock(holders, fcntl.LOCK_SH)
            yield
        self.trim()

    @contextlib.contextmanager
    def _no_holder(self) -> Iterator[bool]:
        try:
            with (self.place / HOLDERS).open("a") as holders:
                fcntl.flock(holders, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield True
        except (BlockingIOError, FileNotFoundError):
            yield False

    def _size(self) -> int:
        return sum(each.size for each in self._entries())

    def _arriving_bytes(self) -> int:
        size = 0
        for each in _scanned(self.place / PARTIAL):
            with contextlib.suppress(FileNotFoundError):
                size += each.stat(follow_symlinks=False).st_size
        return size

    def _entries(self) -> "list[_Entry]":
        """All objects: some 2 µs each."""
        found = []
        for folder in _scanned(self.place / "sha256"):
            for each in _scanned(Path(folder.path)):
                with contextlib.suppress(FileNotFoundError):
                    status = each.stat(follow_symlinks=False)
                    found.append(_Entry(status.st_mtime_ns, each.path, status.st_size))
        return found


def cache_of_this_machine() -> Cache:
    found = shelf_of(None)
    assert isinstance(found, Cache)
    return found


class _Entry(NamedTuple):
    used_ns: int
    path: str
    size: int


def _scanned(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [*entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _removed(path: str | Path) -> bool:
    """Unless somebody has it mapped, or writes to it."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - of many, and PTH costs as much as all else
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)  # noqa: PTH108
    except OSError:  # in use, or gone already
        return False
    return True


def _parsed(text: str) -> int:
    from leptonai.spec.quantities import memory_mib

    if text.isascii() and text.isdigit() and len(text) < 20:
        return int(text)
    try:
        return memory_mib(text) << 20
    except InvalidRequest:
        raise InvalidRequest(
            f"{LIMIT_VARIABLE}={text!a} is no amount", hint="bytes, or for example 50GiB"
        ) from None
