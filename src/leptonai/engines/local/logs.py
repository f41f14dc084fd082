"""The log of an attempt: one file that its processes append to, bounded from outside.

The oldest bytes are dropped by punching a hole: every offset keeps its meaning, and the processes
that write notice nothing. Where the file system has no holes, the file is copied to `log.old.BASE`
and emptied, where BASE is how many bytes came before it.
"""

import ctypes
import errno
import os
import re
import shutil
from array import array
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from leptonai.ports.engine import LogChunk, LogMarks
from leptonai.supervisor.folder import is_plain, open_plain

BLOCK_BYTES = 4_096  # holes are whole blocks
MAX_MARKS = 1 << 18  # 4 MiB; from then on a mark comes only every RARE_NS
RARE_NS = 60_000_000_000
LOOK_NS = 20_000_000  # not more often, however often somebody asks
LINE_BYTES = 65_536  # how far to look for the start of a line after dropped bytes
PUNCH_HOLE = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
MARK_BYTES = 16  # time and length, 8 bytes each, in the byte order of the machine

_OLD = re.compile(r"log\.old\.[0-9]{1,18}")


@dataclass(slots=True)
class Log:
    """The marks are an index of the file: each says when it was how long. They are only added to,
    so a line that was dated once has that date for ever, after a restart too."""

    path: Path  # of the file that is written
    punch: bool = True  # False once the file system refused
    marks: LogMarks = field(default_factory=LogMarks)
    base: int = 0  # bytes that came before what the file holds
    still_ns: int = 0  # when it was last seen not to have grown

    @classmethod
    def open(cls, path: Path) -> "Log":
        marks = _read_marks(_marks_path(path))
        # A log that was moved away had marks before: the usual start need not look for one.
        return cls(path, marks=marks, base=_base(path) if marks else 0)

    @property
    def size(self) -> int:
        """How much was ever written."""
        try:
            return self.base + self.path.lstat().st_size
        except OSError:
            return self.base

    def mark(self, now_ns: int, *, last: bool = False) -> None:
        """Remember how long it is now, if it grew. `last`: nothing was written after `now_ns`."""
        try:
            status = self.path.lstat()
        except OSError:
            return
        if not self.marks:
            self.base = _base(self.path)
        size = self.base + status.st_size
        grown = size - self.marks.end
        if grown <= 0:
            self.still_ns = now_ns
            return
        if not self.marks:
            self._add(_started_ns(self.path, status), 0)
        since_ns = self.marks.last_ns
        often_ns = LOOK_NS if len(self.marks) < MAX_MARKS else RARE_NS
        if not last and now_ns - since_ns < often_ns:
            return
        if since_ns < self.still_ns < min(status.st_mtime_ns, now_ns):
            # What it wrote now it did not write evenly since then.
            self._add(self.still_ns, self.marks.end)
            since_ns = self.still_ns
        # The file tells when it was last written to, to some milliseconds. Later, if each byte is
        # to have a nanosecond of its own, so that lines have.
        self._add(max(since_ns, min(max(status.st_mtime_ns, since_ns + grown), now_ns)), size)

    def _add(self, at_ns: int, offset: int) -> None:
        self.marks.at_ns.append(at_ns)
        self.marks.offsets.append(offset)
        with suppress(OSError):  # on a full disk the marks live in memory only
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with os.fdopen(open_plain(_marks_path(self.path), flags), "ab") as file:
                cut_short = file.tell() % MARK_BYTES
                if cut_short:  # by a crash
                    file.truncate(file.tell() - cut_short)
                file.write(array("Q", (at_ns, offset)).tobytes())

    def close(self, at_ns: int, keep_bytes: int) -> None:
        """Nothing more comes."""
        with suppress(OSError):
            self.trim(keep_bytes)
        # A log that no tick has seen gets its marks when somebody asks: few are ever asked for.
        if self.marks:
            self.mark(at_ns, last=True)

    def trim(self, keep_bytes: int) -> None:
        """Drop the oldest bytes beyond `keep_bytes`."""
        if not is_plain(self.path):
            return
        status = self.path.lstat()
        drop = (status.st_size - keep_bytes) // BLOCK_BYTES * BLOCK_BYTES
        if status.st_blocks * 512 <= keep_bytes or drop <= 0:
            return
        if self.punch:
            try:
                _punch_hole(self.path, drop)
                self._forget_marks(self.base + drop)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                self.punch = False
        if status.st_size > keep_bytes // 2:  # half for log.old, half for what comes
            self._rotate()

    def _forget_marks(self, kept: int) -> None:
        """Those of dropped bytes, when they are the most."""
        unneeded = bisect_right(self.marks.offsets, kept) - 1
        if len(self.marks) < MAX_MARKS // 2 or unneeded < len(self.marks) // 2:
            return
        del self.marks.at_ns[:unneeded]
        del self.marks.offsets[:unneeded]
        both = array("Q", bytes(MARK_BYTES * len(self.marks)))
        both[0::2], both[1::2] = self.marks.at_ns, self.marks.offsets
        draft = _marks_path(self.path).with_suffix(".draft")
        draft.write_bytes(both.tobytes())
        draft.replace(_marks_path(self.path))

    def _rotate(self) -> None:
        """What is written between the copy and the cut is lost: the price of such a file system."""
        draft = self.path.with_name("log.draft")
        shutil.copyfile(self.path, draft)
        for old in self.path.parent.glob("log.old.*"):
            old.unlink()
        # Its name says where it starts, so that one rename tells both.
        draft.rename(self.path.with_name(f"log.old.{self.base}"))
        os.truncate(self.path, 0)
        self.base = _base(self.path)


def read(path: Path, *, offset: int, limit: int) -> LogChunk | None:
    """Output from `offset` on, or from the first kept line after it; None where there is none."""
    try:
        fd = open_plain(path)
    except OSError:
        return None
    try:
        old = _old(path)
        if old is not None and (chunk := _read_old(old, offset, limit)) is not None:
            return chunk
        base = _base(path)
        while True:
            kept = _first_kept(fd)
            start = max(0, offset - base)
            if start < kept:
                start = _next_line(fd, kept)
            data = os.pread(fd, limit, start)
            # More may have been dropped meanwhile, and a hole reads as zeros.
            if start >= _first_kept(fd):
                return LogChunk(base + start, data)
    finally:
        os.close(fd)


def _read_old(old: Path, offset: int, limit: int) -> LogChunk | None:
    """From the part that was moved away, where the offset lies in it or before it."""
    base = int(old.suffix[1:])
    with os.fdopen(open_plain(old), "rb") as file:
        start = offset - base
        if start < 0:
            start = _next_line(file.fileno(), 0)
        data = os.pread(file.fileno(), limit, start)
    return LogChunk(base + start, data) if data else None


def _first_kept(fd: int) -> int:
    """Where the data begins after the hole."""
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError:
        return 0  # an empty file, or a file system that has no holes


def _next_line(fd: int, start: int) -> int:
    """The hole ends anywhere in a line; its rest is dropped too."""
    newline = os.pread(fd, LINE_BYTES, start).find(b"\n")
    return start + newline + 1 if newline >= 0 else start


def _base(path: Path) -> int:
    """How many bytes came before what the file holds now."""
    old = _old(path)
    return int(old.suffix[1:]) + old.lstat().st_size if old else 0


def _old(path: Path) -> Path | None:
    found = sorted(path.parent.glob("log.old.*"))
    return next((old for old in found if _OLD.fullmatch(old.name) and is_plain(old)), None)


def _marks_path(path: Path) -> Path:
    return path.with_name("log.marks")


def _read_marks(path: Path) -> LogMarks:
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            raw = file.read(4 * MAX_MARKS * MARK_BYTES)  # more than it ever is
    except OSError:
        return LogMarks()
    both = array("Q")
    both.frombytes(raw[: len(raw) // MARK_BYTES * MARK_BYTES])  # a crash may have cut one short
    return LogMarks(both[0::2], both[1::2])


def _started_ns(path: Path, status: os.stat_result) -> int:
    """When the attempt was claimed, just before it could write."""
    try:
        claimed_ns = path.with_name("claim").lstat().st_mtime_ns
    except OSError:
        return status.st_mtime_ns
    return min(claimed_ns, status.st_mtime_ns)


def _punch_hole(path: Path, length: int) -> None:
    fd = open_plain(path, os.O_WRONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        fallocate = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
        fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        if fallocate(fd, PUNCH_HOLE, 0, length) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)
