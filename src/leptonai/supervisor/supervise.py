"""Attempts as they happen: started through the wrapper, watched by pidfd, stopped and swept.

Nothing here polls while an attempt runs. What is kept in memory is a copy of what the folders and
the kernel say, and `adopt` makes it afresh.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from leptonai.supervisor import processes
from leptonai.supervisor.census import Census
from leptonai.supervisor.cgroups import Cgroups, Group
from leptonai.supervisor.copying import Copying, ask
from leptonai.supervisor.folder import Claimed, Ending, Folder, Outcome, place_of
from leptonai.supervisor.launch import Launch, start_wrapper
from leptonai.supervisor.members import Members, Outside
from leptonai.supervisor.template import Request

SETTLING_PATIENCE_S = 2.0  # of an adoption
TIDY_TRIES, TIDY_PAUSE_S = 20, 0.005
# How long a wrapper may outlive its killed command before it is woken, in case it was suspended,
# and before it is killed too, which loses the exit status: a busy machine is no reason for that.
WAKE_WRAPPER_S, KILL_WRAPPER_S = 1.0, 60.0
FIRST_RETRY_S, LAST_RETRY_S = 0.001, 1.0  # between kills of processes that do not end at once


@dataclass(slots=True, kw_only=True, eq=False)
class _Watch:
    """An attempt that has been started and of which something may still run."""

    id: str
    folder: Folder
    members: Members
    started_at_ms: int
    pidfd: int | None = None  # of its wrapper, until that has ended
    terminated: bool = False  # SIGTERM was sent
    kill_at: float | None = None  # by the loop's clock
    kill_timer: asyncio.TimerHandle | None = None
    killing: bool = False
    settling: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """The attempts below one directory, which must have no other supervisor.

    Use it inside one event loop. `running` and `ended` tell of every attempt that is not forgotten;
    an attempt is in at most one of them.
    """

    def __init__(
        self,
        directory: Path,
        cgroups: Cgroups,
        *,
        now_ms: Callable[[], int],
        on_change: Callable[[str], None],
        outside: Outside | None = None,
    ) -> None:
        self._directory = directory
        self._cgroups = cgroups
        self._now_ms = now_ms
        self._on_change = on_change
        self._outside = outside
        self._watches: dict[str, _Watch] = {}
        self.ended: dict[str, Ending] = {}
        self._census = Census()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> Mapping[str, int]:
        """Since when, in milliseconds since 1970."""
        return {watch.id: watch.started_at_ms for watch in self._watches.values()}

    def knows(self, id: str) -> bool:
        return id in self._watches or id in self.ended

    def folder(self, id: str) -> Folder:
        return Folder(self._directory / id)

    async def listens(self, id: str, port: int) -> bool | None:
        """Whether a process of this attempt listens there; None where nobody can say."""
        watch = self._watches.get(id)
        return watch is not None and await watch.members.listen_on(port)

    def mark(self, id: str) -> str:
        """What its processes are known by where there are no control groups. Others on this machine
        may have an attempt with this id: a copy of the directory does."""
        return f"{self._place}/{id}"

    @cached_property
    def _place(self) -> str:
        self._directory.mkdir(parents=True, exist_ok=True)
        return place_of(self._directory)

    # --- starting --------------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Take over every attempt in the directory, and end what nobody remembers.

        Returns when those that have ended are known as such, or after `SETTLING_PATIENCE_S`.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        groups = self._cgroups.existing()
        unclaimed = []
        for name in self._names():
            group = groups.pop(name, None)
            self._consider(name, group)
            if not self.knows(name):
                unclaimed.append(self._seek_wrapper(self._unseen(name, group)))
        await asyncio.gather(*unclaimed)
        for name, group in groups.items():
            # Its folder was removed, or never made: no one will ask for it again.
            self._spawn(self._clear(name, group))
        settling = [watch for watch in self._watches.values() if watch.settling]
        await self._wait_for_ends(settling, SETTLING_PATIENCE_S)

    def start(self, launch: Launch) -> None:
        """Run it, unless it was started or stopped before. Costs about a millisecond.

        Raises:
            OSError, ValueError: it cannot be run; nothing of it runs. `refuse` makes that final.
        """
        if self.knows(launch.id):
            return
        prepared = self._prepare(launch)
        if prepared is None:
            return
        folder, group = prepared
        try:
            pid = start_wrapper(launch, folder, group, self.mark(launch.id))
        except (OSError, ValueError):
            group.remove()
            raise
        watch = self._unseen(launch.id, group)
        watch.members.wrapper_pid = pid
        # Nobody else reaps our children, so this pid is still that of the wrapper.
        self._watch(watch, os.pidfd_open(pid))

    async def start_copy(self, launch: Launch, template: str) -> Copying | None:
        """Run it as a copy of the template of this folder, unless it was started or stopped before.
        None: no copy has claimed it, and `start` may.

        Raises:
            OSError: as `start`.
        """
        prepared = self._prepare(launch)
        if prepared is None:
            return None
        folder, group = prepared
        os.close(folder.open_log())  # what cannot be made is known before there is a claim
        request = Request(
            folder=str(folder.path),
            identity=folder.identity(group.paths),
            mark=self.mark(launch.id),
            directory=launch.directory_of(folder),
            cgroups=group.paths,
            command=launch.command,
            env=launch.environment(self.mark(launch.id)),
        )
        copying = await ask(template, request)
        if copying is not None:
            self._consider(launch.id, group)
        return copying

    def _prepare(self, launch: Launch) -> tuple[Folder, Group] | None:
        """What a start needs; None if there has been one."""
        folder = self.folder(launch.id)
        if folder.read() is not None:
            self._consider(launch.id, None)
            return None
        folder.prepare(work=not launch.directory)
        return folder, self._cgroups.create(launch.id, launch.limits)

    def refuse(self, id: str, message: str) -> None:
        """It could not be started and never will be."""
        if self.knows(id):
            return
        folder = self.folder(id)
        ending = Ending(outcome=Outcome.NOT_STARTED, message=message, finished_at_ms=self._now_ms())
        try:
            if not folder.claim(f"unstarted {message}"):
                self._consider(id, None)
                return
        except OSError:
            pass  # a full disk is a likely reason to be here; then only memory knows
        self._end(id, ending)

    # --- stopping --------------------------------------------------------------------------------

    def stop(self, id: str, grace_s: float) -> None:
        """SIGTERM to all of it now, SIGKILL after the grace. Asked again, the earlier end counts.

        Raises:
            OSError: the disk is full, and it had not started.
        """
        if id in self.ended:
            return
        if id not in self._watches:
            self._stop_unstarted(id)
        watch = self._watches.get(id)
        if watch is None or isinstance(watch.folder.read(), Ending):
            return  # it ended by itself before: that stays true
        # First the mark, then the signals: the command's process, on its way through the wrapper,
        # enters its cgroup first and looks for the mark then. So one of the two reaches it.
        watch.folder.want_stop()
        if watch.folder.read() is None:
            with suppress(OSError):  # then the mark alone must do
                watch.folder.claim("stopped ")  # the wrapper comes too late and just exits
        if not watch.terminated:
            watch.terminated = True
            self._spawn(self._terminate(watch))
        loop = asyncio.get_running_loop()
        kill_at = loop.time() + grace_s
        if watch.kill_at is None or kill_at < watch.kill_at:
            if watch.kill_timer is not None:
                watch.kill_timer.cancel()
            watch.kill_at = kill_at
            watch.kill_timer = loop.call_at(kill_at, self._kill, watch)

    def forget(self, id: str) -> None:
        self.ended.pop(id, None)

    async def end_everything(self, patience_s: float) -> bool:
        """Kill all that runs; says whether nothing is left."""
        for name in self._names():
            # One that was prepared and not claimed may have a wrapper on its way.
            if not self.knows(name):
                self._consider(name, None)
            try:
                self.stop(name, 0.0)
            except OSError:
                return False
        await self._wait_for_ends(list(self._watches.values()), patience_s)
        return not self._watches

    async def close(self) -> None:
        """Let go. What runs keeps running."""
        loop = asyncio.get_running_loop()
        for watch in self._watches.values():
            if watch.pidfd is not None:
                loop.remove_reader(watch.pidfd)
                os.close(watch.pidfd)
                watch.pidfd = None
            if watch.kill_timer is not None:
                watch.kill_timer.cancel()
        self._census.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._watches.clear()
        for _ in range(TIDY_TRIES):
            if self._cgroups.tidy():
                break
            await asyncio.sleep(TIDY_PAUSE_S)

    # --- what happens to it ----------------------------------------------------------------------

    def _consider(self, id: str, group: Group | None) -> None:
        """Find out how an attempt is that this process does not watch."""
        folder = self.folder(id)
        state = folder.read()
        if isinstance(state, Claimed) and state.wrapper and not state.wrapper.alive:
            # It may have ended between the two looks; its record, if any, was made before its end.
            state = folder.read()
        if state is None:
            # Not started, as far as anyone may say: a wrapper claims before it enters the group.
            if group is not None and group.members():
                self._spawn(self._clear(id, group))  # it took its claim away
            return
        # One that is watched already keeps what was asked of it.
        watch = self._watches.setdefault(id, self._unseen(id, group))
        if watch.pidfd is not None:
            return  # a wrapper that came too late ends at once, and that end asks again
        if isinstance(state, Ending):
            watch.members.group = watch.members.group or Group(folder.cgroups())
            watch.started_at_ms = state.started_at_ms or state.finished_at_ms
            self._settle(watch)
            return
        watch.started_at_ms = state.started_at_ms
        if state.wrapper is None:
            self._spawn(self._seek_wrapper(watch))
            return
        watch.members.group = Group(state.cgroups) or watch.members.group
        watch.members.wrapper_pid = state.wrapper.pid
        try:
            pidfd = os.pidfd_open(state.wrapper.pid)
        except OSError:
            self._settle(watch)
            return
        # Asked after the pidfd was opened: if it is alive now, then it is the one behind the pidfd.
        if state.wrapper.alive:
            self._watch(watch, pidfd)
        else:
            os.close(pidfd)
            self._settle(watch)

    def _names(self) -> list[str]:
        """Of all folders; a program may have put other things beside its own."""
        with os.scandir(self._directory) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def _unseen(self, id: str, group: Group | None) -> _Watch:
        folder = self.folder(id)
        return _Watch(
            id=id,
            folder=folder,
            members=Members(self.mark(id), folder, group or Group(()), self._census, self._outside),
            started_at_ms=self._now_ms(),
        )

    async def _seek_wrapper(self, watch: _Watch) -> None:
        """Nothing is claimed, or the claim is empty: a wrapper may be on its way to write it, may
        have died there, or may never have been."""
        while True:
            pids = await self._census.find(watch.members.mark)
            # Read after that: while the claim is not written, what was found has forked nothing.
            state = watch.folder.read()
            if isinstance(state, Ending) or (isinstance(state, Claimed) and state.wrapper):
                self._consider(watch.id, watch.members.group)
                return
            if not pids:
                if state is not None:
                    self._watches[watch.id] = watch
                    self._settle(watch)
                return
            for pid in pids:
                with suppress(ProcessLookupError):
                    pidfd = os.pidfd_open(pid)
                    if processes.belongs(pid, watch.members.mark):
                        watch.members.wrapper_pid = pid
                        self._watch(watch, pidfd)
                        return
                    os.close(pidfd)
            await asyncio.sleep(FIRST_RETRY_S)

    def _watch(self, watch: _Watch, pidfd: int) -> None:
        watch.pidfd = pidfd
        self._watches[watch.id] = watch
        asyncio.get_running_loop().add_reader(pidfd, self._wrapper_ended, watch)
        self._on_change(watch.id)

    def _wrapper_ended(self, watch: _Watch) -> None:
        assert watch.pidfd is not None
        asyncio.get_running_loop().remove_reader(watch.pidfd)
        code = _reap(watch.pidfd)
        os.close(watch.pidfd)
        watch.pidfd = None
        state = watch.folder.read()
        if state is None and os.path.exists(watch.folder.at("status")):
            # It never got to its first act, so nothing ran.
            with suppress(OSError):
                if not watch.folder.claim(f"unstarted the shell that starts it ended with {code}"):
                    state = watch.folder.read()  # another start has claimed it since
        if isinstance(state, Claimed) and (
            state.wrapper is None or state.wrapper.pid != watch.members.wrapper_pid
        ):
            # Another start was faster, and its wrapper is the one to watch.
            self._consider(watch.id, watch.members.group)
            return
        self._settle(watch)

    def _settle(self, watch: _Watch) -> None:
        """Its wrapper has ended: make sure that nothing is left of it, then tell how it ended."""
        if watch.settling:
            return
        watch.settling = True
        outside = bool(watch.folder.container_program)
        self._keep_oom(watch)
        # The usual end costs an rmdir: the kernel refuses it while a member lives.
        if watch.members.group and not outside and watch.members.group.remove():
            self._conclude(watch)
        else:
            self._spawn(self._sweep(watch))

    async def _sweep(self, watch: _Watch) -> None:
        """Kill what the command left behind, until there is nothing."""
        delay = FIRST_RETRY_S
        while not await watch.members.sweep():
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY_S)
        self._conclude(watch)

    def _conclude(self, watch: _Watch) -> None:
        state = watch.folder.read()
        if not isinstance(state, Ending):
            watch.folder.record_lost()
            state = watch.folder.read()
        if not isinstance(state, Ending):  # somebody took the folder away
            state = Ending(
                outcome=Outcome.LOST,
                message="it is gone, and its folder too",
                started_at_ms=watch.started_at_ms,
                finished_at_ms=self._now_ms(),
            )
        if watch.kill_timer is not None:
            watch.kill_timer.cancel()
        self._watches.pop(watch.id, None)
        watch.ended.set()
        self._end(watch.id, state)

    def _end(self, id: str, ending: Ending) -> None:
        self.ended[id] = ending
        self._on_change(id)

    def _keep_oom(self, watch: _Watch) -> None:
        state = watch.folder.read()
        if isinstance(state, Ending) and state.code and watch.members.group.oom_killed():
            watch.folder.record_oom(state.code)

    def _stop_unstarted(self, id: str) -> None:
        folder = self.folder(id)
        folder.want_stop()
        if folder.claim("stopped "):
            self._end(
                id,
                Ending(
                    outcome=Outcome.STOPPED,
                    message="stopped before it started",
                    finished_at_ms=self._now_ms(),
                ),
            )
        else:
            self._consider(id, None)

    async def _terminate(self, watch: _Watch) -> None:
        await watch.members.signal(signal.SIGTERM)
        # Who is suspended hears of no signal but this one and SIGKILL.
        await watch.members.signal(signal.SIGCONT)
        if watch.pidfd is not None:
            processes.send(watch.pidfd, signal.SIGCONT)

    def _kill(self, watch: _Watch) -> None:
        if not watch.killing and watch.id in self._watches:
            watch.killing = True
            self._spawn(self._kill_until_ended(watch))

    async def _kill_until_ended(self, watch: _Watch) -> None:
        """Again and again, for the command may still be on its way into its cgroup."""
        loop = asyncio.get_running_loop()
        killed_at = loop.time()
        delay = FIRST_RETRY_S
        while not watch.ended.is_set():
            await watch.members.signal(signal.SIGKILL)
            late_s = loop.time() - killed_at
            if late_s > WAKE_WRAPPER_S and watch.pidfd is not None:
                # Its command is dead and it does not say so.
                late = late_s > KILL_WRAPPER_S
                processes.send(watch.pidfd, signal.SIGKILL if late else signal.SIGCONT)
            with suppress(TimeoutError):
                await asyncio.wait_for(watch.ended.wait(), delay)
            delay = min(2 * delay, LAST_RETRY_S)

    async def _clear(self, name: str, group: Group) -> None:
        delay = FIRST_RETRY_S
        while group.send(signal.SIGKILL) or not group.remove():
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY_S)

    async def _wait_for_ends(self, watches: list[_Watch], patience_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                for watch in watches:
                    await watch.ended.wait()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _reap(pidfd: int) -> int | None:
    """The exit status of an ended child, which goes away with this; None if it is not our child."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None  # adopted: its parent, or init, reaps it
    return result.si_status if result else None
