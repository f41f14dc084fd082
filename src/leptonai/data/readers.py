"""`Readers`: processes that read small files and hash them, into memory that is shared with them.

Threads would do, but for Python's lock: of a small file each call is so short that handing the lock
on takes as long as what is done meanwhile. So on several cores a file costs two thirds in
processes.
"""

import contextlib
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from queue import LifoQueue

from leptonai.data import reader
from leptonai.data.reader import ASKED, DIGEST_BYTES


class Memory:
    """Rooms of equal size that processes may share. Pages are taken when they are written to."""

    def __init__(self, rooms: int, room_bytes: int) -> None:
        """Raises:
        OSError: the system gives none.
        """
        self.room_bytes = -(-room_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.fd = os.memfd_create("lepton-commit")
        try:
            os.ftruncate(self.fd, rooms * self.room_bytes)
            self._map = mmap.mmap(self.fd, 0)
        except BaseException:
            os.close(self.fd)
            raise

    def room(self, at: int) -> memoryview:
        return memoryview(self._map)[at : at + self.room_bytes]

    def close(self) -> None:
        os.close(self.fd)


class Readers:
    """Used by many threads at once; each has a process for itself while this reads for it."""

    def __init__(self, root: Path, memory: Memory, count: int) -> None:
        """Processes that cannot be had are done without.

        Args:
            root: where the files lie.
        """
        self._idle: LifoQueue[subprocess.Popen[bytes] | None] = LifoQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        command = [sys.executable or "", "-I", "-S", reader.__file__, str(root), str(memory.fd)]
        for _ in range(count):
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[memory.fd],
                )
            except OSError:
                self._idle.put(None)
            else:
                self._idle.put(process)
                self._all.append(process)

    def read(self, paths: Sequence[str], sizes: Sequence[int], at: int) -> bytes:
        """Files into the memory from there on, one behind the other: their SHA-256, 32 bytes each.
        Nothing if anything was not as it should have been: who reads them anew sees what."""
        process = self._idle.get()
        if process is None:
            self._idle.put(None)
            return b""
        try:
            digests = _asked(process, paths, sizes, at)
        except (OSError, EOFError):  # it was killed
            self._idle.put(None)
            return b""
        self._idle.put(process)
        return digests

    def close(self) -> None:
        for process in self._all:
            process.kill()
        for process in self._all:
            with contextlib.suppress(OSError), process:  # waits, and closes the pipes
                pass


def _asked(
    process: "subprocess.Popen[bytes]", paths: Sequence[str], sizes: Sequence[int], at: int
) -> bytes:
    asked, answers = process.stdin, process.stdout
    assert asked is not None and answers is not None
    names = "".join(f"{path}\0" for path in paths).encode()
    asked.write(ASKED.pack(at, len(sizes), len(names)))
    asked.write(struct.pack(f"<{len(sizes)}Q", *sizes))
    asked.write(names)
    asked.flush()
    match answers.read(1):
        case reader.YES:
            digests = answers.read(DIGEST_BYTES * len(sizes))
        case reader.NO:
            return b""
        case _:
            digests = b""
    if len(digests) < DIGEST_BYTES * len(sizes):
        raise EOFError
    return digests
