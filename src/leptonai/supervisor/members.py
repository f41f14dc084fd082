"""All that an attempt runs, wherever that is: in its control groups, else known by its mark, and in
a container.
"""

import asyncio
import signal
from typing import Protocol

from leptonai.supervisor import listeners, processes
from leptonai.supervisor.census import Census
from leptonai.supervisor.cgroups import Group
from leptonai.supervisor.folder import Folder

SIGNAL_ROUNDS = 20


class Outside(Protocol):
    """Reaches what an attempt runs that is not a process of ours: a container."""

    async def terminate(self, folder: Folder) -> bool:
        """Ask it to end; False if it does not run."""
        ...

    async def sweep(self, folder: Folder) -> None:
        """End it, and raise if that is not certain."""
        ...


class Members:
    def __init__(
        self, mark: str, folder: Folder, group: Group, census: Census, outside: Outside | None
    ) -> None:
        """
        Args:
            mark: what its processes are known by where there are no control groups.
        """
        self.mark = mark
        self.group = group
        self.wrapper_pid = 0  # 0: not known
        self._folder = folder
        self._census = census
        self._outside = outside

    async def signal(self, number: signal.Signals) -> None:
        """All of them, but for the wrapper."""
        if number == signal.SIGTERM and self._outside and self._folder.container_program:
            # Its processes of ours would hand it on, each of them, and a program that cleans up at
            # the first one must not get a second. So they are asked only while there is no program.
            if await self._outside.terminate(self._folder):
                return
            client = await asyncio.to_thread(processes.children, self.wrapper_pid)
            processes.signal_attempt(self.mark, client, number)
            return
        if self.group:
            self.group.send(number)
            return
        # Never the wrapper: it ends by itself after its command, and must live to record that.
        signalled = {self.wrapper_pid}
        # One may fork before the signal reaches it, or be in an exec.
        for _ in range(SIGNAL_ROUNDS):
            missed = set(await self._census.find(self.mark)) - signalled
            if not missed:
                return
            signalled |= processes.signal_attempt(self.mark, missed, number)

    async def sweep(self) -> bool:
        """Kill what is left, once its wrapper has ended; says whether there is nothing any more."""
        if self._outside is not None and self._folder.container_program:
            try:
                await self._outside.sweep(self._folder)
            except Exception:  # whatever it is: not certain, so once more
                return False
        if self.group:
            self.group.send(signal.SIGKILL)
            return self.group.remove()
        pids = await self._census.find(self.mark)
        processes.signal_attempt(self.mark, pids, signal.SIGKILL)
        return not pids

    async def listen_on(self, port: int) -> bool | None:
        """Whether one of them does; None where nobody can say. Costs a look at their descriptors
        and, without control groups, a pass over /proc."""
        if self._folder.container_program:
            return None  # what runs in it belongs to its runtime
        sockets = await asyncio.to_thread(listeners.sockets_on, port)
        if not sockets:
            return None if sockets is None else False
        if self.group:
            return await asyncio.to_thread(listeners.holds, self.group.members(), sockets)
        found = await self._census.find(self.mark)
        marked = [pid for pid in found if processes.belongs(pid, self.mark)]
        held = await asyncio.to_thread(listeners.holds, marked, sockets)
        if held is not False:
            return held
        # A program that writes its title over its environment shows no mark any more.
        below = await asyncio.to_thread(processes.descendants, self.wrapper_pid)
        return await asyncio.to_thread(listeners.holds, below, sockets)
