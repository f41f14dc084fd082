"""A session: one command, or a login shell, with or without a terminal, over one WebSocket.

It ends when its command does. Whoever leaves before hangs up, as on any terminal: what wants to go
on says so with nohup, tmux or the like.
"""

import asyncio
import contextlib
import shutil
import signal
from typing import Any

from leptonai.errors import InvalidRequest
from leptonai.pod.channel import Channel, read
from leptonai.pod.commands import Command, OnTerminal, Piped, Read, signal_group
from leptonai.pod.place import Place
from leptonai.spec.pods import (
    MAX_COMMAND_CHARS,
    STDIN,
    ExecControl,
    ExecEnd,
    ExecRequest,
)

CANNOT_RUN, NOT_FOUND = 126, 127  # as shells say it
LAST_WORDS_S = 0.5  # for output that others may still hold open when the command has ended
HANG_UP_S = 3.0  # from SIGHUP to the end of the pod


class Sessions:
    """Those of one pod."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._running: dict[int, asyncio.Task[int]] = {}  # by pid

    async def run(self, channel: Channel) -> None:
        """Serve one, from its first message to its last. Raises Gone."""
        try:
            command = await self._start(await channel.receive_first(ExecRequest))
        except InvalidRequest as error:
            await channel.send(ExecEnd(code=CANNOT_RUN, error=error.message))
            return
        except FileNotFoundError as missing:
            await channel.send(
                ExecEnd(code=NOT_FOUND, error=f"{missing.filename}: command not found")
            )
            return
        except (OSError, ValueError) as error:
            await channel.send(ExecEnd(code=CANNOT_RUN, error=f"it cannot be started: {error}"))
            return
        pid = command.process.pid
        ending = asyncio.create_task(command.process.wait())
        self._running[pid] = ending
        ending.add_done_callback(lambda _: self._running.pop(pid, None))
        try:
            code = await _converse(channel, command, ending)
        finally:
            command.close()
            if not ending.done():
                _hang_up(pid)
        await channel.send(ExecEnd(code=code if code >= 0 else 128 - code))

    async def close(self) -> None:
        """Hang up all of them."""
        for pid in self._running:
            _hang_up(pid)
        if self._running:
            await asyncio.wait([*self._running.values()], timeout=HANG_UP_S)

    async def _start(self, request: ExecRequest) -> Command:
        argv = request.command or [self._place.shell, "-l"]
        if any("\0" in word for word in (*argv, request.terminal)) or not argv[0]:
            raise InvalidRequest("the command cannot be one", hint="name a program")
        if sum(map(len, argv)) > MAX_COMMAND_CHARS:
            raise InvalidRequest("the command is too long", hint="put it into a file")
        home, env = self._place.home, self._place.environment
        if shutil.which(argv[0], path=env["PATH"]) is None:
            raise FileNotFoundError(2, "not found", argv[0][:200])
        if request.window is None:
            return await Piped.start(argv, home, env)
        return await OnTerminal.start(argv, home, env, request.window, request.terminal)


def _hang_up(pid: int) -> None:
    signal_group(pid, signal.SIGHUP)
    signal_group(pid, signal.SIGCONT)


async def _converse(channel: Channel, command: Command, ending: asyncio.Task[int]) -> int:
    """Carry bytes both ways until the command has ended and all it said is sent.

    Raises:
        Gone: the client has left.
    """
    hearing = asyncio.ensure_future(_hear(channel, command))
    gone = asyncio.ensure_future(channel.until_gone())
    speaking = [
        asyncio.create_task(_speak(channel, mark, output, ending))
        for mark, output in command.outputs.items()
    ]
    said = asyncio.gather(*speaking)
    try:
        await _first(said, hearing, gone)
        await _first(ending, hearing, gone)  # it may have closed its output, and go on
        return ending.result()
    finally:
        for task in (hearing, gone, said):
            task.cancel()
        await asyncio.gather(hearing, gone, said, return_exceptions=True)


async def _first(wanted: asyncio.Future[Any], *troubles: asyncio.Future[None]) -> None:
    """Until `wanted` is done; what else is done before raises."""
    await asyncio.wait((wanted, *troubles), return_when=asyncio.FIRST_COMPLETED)
    for done in (each for each in (wanted, *troubles) if each.done()):
        done.result()
        return


async def _hear(channel: Channel, command: Command) -> None:
    """Never returns: raises Gone."""
    while True:
        message = await channel.receive()
        if isinstance(message, bytes):
            if message[:1] == STDIN:
                await command.write(message[1:])
            continue
        with contextlib.suppress(InvalidRequest):  # of a newer client: nothing that we could do
            control = read(message, ExecControl)
            if control.window is not None:
                command.resize(control.window)
            if control.signal is not None:
                command.signal(signal.Signals[f"SIG{control.signal}"])
            if control.end_of_input:
                await command.end_input()


async def _speak(channel: Channel, mark: bytes, output: Read, ending: asyncio.Task[int]) -> None:
    """Send all of an output. Once the command has ended, what nobody writes to is at its end."""
    while True:
        reading = asyncio.ensure_future(output())
        try:
            await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await asyncio.wait({reading}, timeout=LAST_WORDS_S)
            if not reading.done():
                return
            data = reading.result()
        finally:
            reading.cancel()  # and has let go of its descriptor before that is another's
            await asyncio.gather(reading, return_exceptions=True)
        if not data:
            return
        await channel.send(mark + data)
