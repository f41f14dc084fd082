"""What a process runs that reads files into memory and hashes them there: see `readers.py`.

It is started as a file, without the packages that are installed, so that it is there in 15 ms: the
standard library is all that it has.

On its standard input comes, again and again: where in the memory to begin, how many files, how many
bytes their names take; their sizes; their names, each with a zero byte behind it. On its standard
output it says YES and the files' SHA-256, or NO where anything was not as it should have been.
"""

import hashlib
import mmap
import os
import signal
import struct
import sys
from collections.abc import Iterable

ASKED = struct.Struct("<QQQ")
YES, NO = b"+", b"-"
DIGEST_BYTES = 32


def read_members(
    folder: int, names: Iterable[bytes], sizes: Iterable[int], room: memoryview
) -> bytes:
    """Files, one behind the other, and the SHA-256 of each; nothing if one is not of its size."""
    digests = []
    start = 0
    for name, size in zip(names, sizes, strict=True):
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
        end = start + size
        try:
            if os.readv(fd, (room[start : end + 1],)) != size:  # a byte more: has it grown?
                return b""
        finally:
            os.close(fd)
        digests.append(hashlib.sha256(room[start:end]).digest())
        start = end
    return b"".join(digests)


def main(root: str, memory_fd: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this ends it
    memory = memoryview(mmap.mmap(int(memory_fd), 0))
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := asked.read(ASKED.size):
        start, count, names_bytes = ASKED.unpack(head)
        sizes = struct.unpack(f"<{count}Q", asked.read(8 * count))
        names = asked.read(names_bytes).split(b"\0")[:-1]
        try:
            digests = read_members(folder, names, sizes, memory[start:])
        except (OSError, ValueError):
            digests = b""
        answers.write(YES + digests if len(digests) == DIGEST_BYTES * count else NO)
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
