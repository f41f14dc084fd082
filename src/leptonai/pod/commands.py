"""A command as a session sees it: behind three pipes, or on a terminal of its own."""

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import termios
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

from leptonai.spec.pods import CHUNK_BYTES, STDERR, STDOUT, Window

# The first terminal that the leader of a session opens is the one that controls it.
_ON_TERMINAL = 'exec 0<>"$1" 1>&0 2>&0; shift; exec "$@"'
_END_OF_INPUT = b"\x04"  # what a terminal's reader takes for it
Read = Callable[[], Awaitable[bytes]]  # b"" at the end


class Command(Protocol):
    process: Process
    outputs: Mapping[bytes, Read]  # by the mark of its stream

    async def write(self, data: bytes) -> None:
        """Waits while the command does not read."""
        ...

    async def end_input(self) -> None: ...
    def resize(self, window: Window) -> None: ...
    def signal(self, number: signal.Signals) -> None:
        """To what is in the foreground."""
        ...

    def close(self) -> None:
        """Nobody listens to it any more."""
        ...


class Piped:
    """Over pipes of our own: asyncio's keep a command that has ended from being seen so while a
    child of it holds one open."""

    def __init__(self, process: Process, stdin: int, stdout: int, stderr: int) -> None:
        self.process = process
        self._stdin: int | None = stdin
        self._to_read = (stdout, stderr)
        self.outputs: Mapping[bytes, Read] = {
            STDOUT: lambda: _read(stdout),
            STDERR: lambda: _read(stderr),
        }

    @classmethod
    async def start(cls, argv: list[str], directory: Path, env: Mapping[str, str]) -> "Piped":
        (theirs_in, ours_in), (ours_out, theirs_out), (ours_err, theirs_err) = (
            os.pipe() for _ in range(3)
        )
        ours = (ours_in, ours_out, ours_err)
        try:
            for fd in ours:
                os.set_blocking(fd, False)
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=theirs_in,
                stdout=theirs_out,
                stderr=theirs_err,
                cwd=directory,
                env=env,
                start_new_session=True,
            )
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in (theirs_in, theirs_out, theirs_err):
                os.close(fd)
        return cls(process, *ours)

    async def write(self, data: bytes) -> None:
        if self._stdin is not None:
            await _write(self._stdin, data)

    async def end_input(self) -> None:
        if self._stdin is not None:
            _close(self._stdin)
            self._stdin = None

    def resize(self, window: Window) -> None:
        return None

    def signal(self, number: signal.Signals) -> None:
        signal_group(self.process.pid, number)

    def close(self) -> None:
        for fd in self._to_read if self._stdin is None else (self._stdin, *self._to_read):
            _close(fd)


class OnTerminal:
    def __init__(self, process: Process, terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        self.outputs: Mapping[bytes, Read] = {STDOUT: lambda: _read(terminal)}

    @classmethod
    async def start(
        cls,
        argv: list[str],
        directory: Path,
        env: Mapping[str, str],
        window: Window,
        terminal_type: str,
    ) -> "OnTerminal":
        ours, theirs = pty.openpty()
        try:
            os.set_blocking(ours, False)
            _resize(ours, window)
            process = await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", _ON_TERMINAL, "sh", os.ttyname(theirs)),
                *argv,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                cwd=directory,
                env={**env, "TERM": terminal_type or "xterm-256color"},
                start_new_session=True,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return cls(process, ours)

    async def write(self, data: bytes) -> None:
        await _write(self._terminal, data)

    async def end_input(self) -> None:
        await self.write(_END_OF_INPUT)

    def resize(self, window: Window) -> None:
        with contextlib.suppress(OSError):
            _resize(self._terminal, window)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):
            signal_group(os.tcgetpgrp(self._terminal), number)

    def close(self) -> None:
        """Which hangs up, as the kernel does it."""
        _close(self._terminal)


def signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _resize(terminal: int, window: Window) -> None:
    fcntl.ioctl(
        terminal, termios.TIOCSWINSZ, struct.pack("HHHH", window.rows, window.columns, 0, 0)
    )


async def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            await _ready(fd)
        except OSError:  # of a terminal: nobody has the other end open any more
            return b""


async def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _ready(fd, to_write=True)
        except OSError:
            return  # nobody reads it any more, as they may


def _close(fd: int) -> None:
    loop = asyncio.get_running_loop()
    loop.remove_reader(fd)
    loop.remove_writer(fd)
    os.close(fd)


async def _ready(fd: int, *, to_write: bool = False) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add, remove = (
        (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
    )
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)
