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
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from leptonai.ports.engine import LogChunk, LogMark
from leptonai.supervisor.folder import is_plain, open_plain

BLOCK_BYTES = 4_096  # holes are whole blocks
MAX_MARKS = 2_048
MAX_MARKS_BYTES = 1 << 20  # far more than they take
LINE_BYTES = 65_536  # how far to look for the start of a line after dropped bytes
PUNCH_HOLE = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE

_MARK = struct.Struct("<QQ")
_OLD = re.compile(r"log\.old\.[0-9]{1,18}")


@dataclass(slots=True)
class Log:
    path: Path  # of the file that is written
    punch: bool = True  # False once the file system refused
    marks: list[LogMark] = field(default_factory=list)
    base: int = 0  # bytes that came before what the file holds

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

    def mark(self, at_ns: int) -> None:
        """Remember how long it is now, if it grew."""
        size = self.size
        if self.marks and self.marks[-1].offset == size:
            return
        if self.marks:
            at_ns = max(at_ns, self.marks[-1].at_ns)  # a log never goes back
        self.marks.append(LogMark(at_ns, size))
        with suppress(OSError):  # on a full disk the marks live in memory only
            if len(self.marks) > MAX_MARKS:
                self._thin()
            else:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                with os.fdopen(open_plain(_marks_path(self.path), flags), "ab") as file:
                    file.write(_MARK.pack(at_ns, size))

    def close(self, at_ns: int, keep_bytes: int) -> None:
        """Nothing more comes."""
        with suppress(OSError):
            self.trim(keep_bytes)
        # A log that no tick has seen needs no marks: the time of the file says it all.
        if self.marks:
            self.mark(at_ns)

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
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                self.punch = False
        if status.st_size > keep_bytes // 2:  # half for log.old, half for what comes
            self._rotate()

    def _thin(self) -> None:
        """Every second mark, and the last one: coarser and coarser, never cut off."""
        self.marks = [*self.marks[:-1:2], self.marks[-1]]
        draft = _marks_path(self.path).with_suffix(".draft")
        draft.write_bytes(b"".join(_MARK.pack(m.at_ns, m.offset) for m in self.marks))
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


def read_marks(path: Path) -> tuple[LogMark, ...]:
    """The marks so far, and one of what was written after the last of them."""
    try:
        status = path.lstat()
    except OSError:
        return ()
    marks = _read_marks(_marks_path(path))
    size = _base(path) + status.st_size
    last = marks[-1] if marks else LogMark(0, 0)
    if size > last.offset:
        marks.append(LogMark(max(status.st_mtime_ns, last.at_ns), size))
    return tuple(marks)


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


def _read_marks(path: Path) -> list[LogMark]:
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            raw = file.read(MAX_MARKS_BYTES)
    except OSError:
        return []
    whole = len(raw) // _MARK.size * _MARK.size  # a crash may have cut the last one short
    return [LogMark(at, offset) for at, offset in _MARK.iter_unpack(raw[:whole])]


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
