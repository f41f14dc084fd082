"""The files that the platform's own processes write their output to: bounded, while they write.

A process writes to its stdout and stderr, whatever it is that writes: a logger, a library, a
traceback. So it is beneath these two that the file is exchanged for a fresh one, and no line is
lost.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

MAX_LOG_BYTES = 16 << 20  # of a file; what is written in LOOK_EVERY_S may come on top
OLDER_LOGS = 3  # files that are kept beside it: NAME.1 is the youngest
LOOK_EVERY_S = 30.0

STREAMS = (1, 2)  # stdout and stderr


def open_log(path: Path) -> BinaryIO:
    """For the output of a process that is to be started: bounded even if each one ends at once."""
    with suppress(FileNotFoundError):
        if path.stat().st_size >= MAX_LOG_BYTES:
            _put_aside(path)
    return path.open("ab")


async def keep_bounded(path: Path) -> None:
    """Exchange the file whenever it is full, for ever; without effect where this process writes to
    another one."""
    import asyncio  # the command line, which opens logs only, starts sooner without it

    is_ours = False
    with suppress(OSError):
        is_ours = os.path.samestat(path.stat(), os.fstat(STREAMS[-1]))
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if is_ours:
            with suppress(OSError):  # next time, then
                exchange_if_full(path)


def exchange_if_full(path: Path) -> None:
    """Have stdout and stderr, if they went to `path`, go to a fresh file there.

    Raises:
        OSError: they still go to the old one.
    """
    full = os.fstat(STREAMS[-1])
    if full.st_size < MAX_LOG_BYTES:
        return
    with suppress(FileNotFoundError):
        if os.path.samestat(path.stat(), full):  # else another process was faster: use its file
            _put_aside(path)
    fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        for stream in STREAMS:
            if os.path.samestat(os.fstat(stream), full):
                os.dup2(fresh, stream)
    finally:
        os.close(fresh)


def _put_aside(path: Path) -> None:
    """It becomes the youngest of the older ones, and the oldest of them goes."""
    names = [path, *(path.with_name(f"{path.name}.{number + 1}") for number in range(OLDER_LOGS))]
    for younger, older in zip(names[-2::-1], names[:0:-1], strict=True):
        with suppress(FileNotFoundError):
            younger.replace(older)
