"""A command as a session sees it: behind three pipes, or on a terminal of its own."""

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import termios
from asyncio.subprocess import PIPE, Process
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
    def __init__(self, process: Process) -> None:
        assert process.stdin and process.stdout and process.stderr
        self.process = process
        self._stdin = process.stdin
        out, err = process.stdout, process.stderr
        self.outputs: Mapping[bytes, Read] = {
            STDOUT: lambda: out.read(CHUNK_BYTES),
            STDERR: lambda: err.read(CHUNK_BYTES),
        }

    @classmethod
    async def start(cls, argv: list[str], directory: Path, env: Mapping[str, str]) -> "Piped":
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=CHUNK_BYTES,
            cwd=directory,
            env=env,
            start_new_session=True,
        )
        return cls(process)

    async def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it does not read any more, as it may
            self._stdin.write(data)
            await self._stdin.drain()

    async def end_input(self) -> None:
        self._stdin.close()

    def resize(self, window: Window) -> None:
        return None

    def signal(self, number: signal.Signals) -> None:
        signal_group(self.process.pid, number)

    def close(self) -> None:
        self._stdin.close()


class OnTerminal:
    def __init__(self, process: Process, terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        self.outputs: Mapping[bytes, Read] = {STDOUT: self._read}

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
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._terminal, view) :]
            except BlockingIOError:
                await _ready(self._terminal, to_write=True)
            except OSError:
                return  # it has hung up

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
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._terminal)
        loop.remove_writer(self._terminal)
        os.close(self._terminal)

    async def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._terminal, CHUNK_BYTES)
            except BlockingIOError:
                await _ready(self._terminal)
            except OSError:  # nobody has the other end open any more
                return b""


def signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _resize(terminal: int, window: Window) -> None:
    fcntl.ioctl(
        terminal, termios.TIOCSWINSZ, struct.pack("HHHH", window.rows, window.columns, 0, 0)
    )


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
