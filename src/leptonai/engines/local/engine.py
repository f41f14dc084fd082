"""`LocalEngine`: the engine port for one machine, over `leptonai.supervisor`."""

import asyncio
import errno
import hashlib
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from leptonai.core.records import EndReason, Termination
from leptonai.engines.local import logs, mounts
from leptonai.engines.local.containers import Containers, NoRuntime, Runtime, find_runtime
from leptonai.engines.local.environment import base_environment, gpu_environment
from leptonai.engines.local.epoch import EpochFile
from leptonai.engines.local.gpus import GpuMeter
from leptonai.engines.local.launching import NAME, Host, check_name, launch_of
from leptonai.engines.local.machine import Gpus, describe, find_gpus
from leptonai.engines.local.rubbish import Rubbish
from leptonai.engines.local.templates import COPY_OF, Templates
from leptonai.errors import Conflict, InvalidRequest, LeptonError, StorageFull
from leptonai.home import replace_file
from leptonai.ports.clock import Clock
from leptonai.ports.engine import (
    Attempt,
    AttemptId,
    AttemptState,
    Ended,
    LogChunk,
    LogMarks,
    Machine,
    Observation,
    Running,
    Seen,
    Unreachable,
)
from leptonai.supervisor import Cgroups, Ending, Folder, Supervisor
from leptonai.supervisor.copying import Copying
from leptonai.supervisor.folder import MODE, is_plain

FetchTree = Callable[[str, Path], Awaitable[None]]  # lays out a tree's digest in an empty directory

DEFAULT_LOG_BYTES = 64 << 20  # kept of each attempt
LOG_TICK_S = 1.0  # between looks at the logs, while anything runs
MAX_READ_BYTES = 4 << 20  # of a log at once
MAX_FETCHES = 4  # trees laid out at once
FENCE_PATIENCE_S = 10.0

_log = logging.getLogger("leptonai.engines")


class LocalEngine:
    """Runs attempts as processes of this machine, each through the supervisor's wrapper.

    Everything it knows lies in `home/attempts`, so it may be killed at any instant: the next one
    adopts what runs and learns how the rest ended. One per home: take `Home.locked` first.
    """

    def __init__(
        self,
        home: Path,
        *,
        fetch_tree: FetchTree,
        clock: Clock,
        node: str = "local",
        group: str = "local",
        containers: Literal["off", "auto"] = "off",
        log_bytes: int = DEFAULT_LOG_BYTES,
        cgroups: Cgroups | None = None,
    ) -> None:
        """`open` it before use. `cgroups` are found where None is given."""
        home = home.absolute()
        self._node, self._group = node, group
        self._home = home
        self._live, self._done = home / "attempts" / "live", home / "attempts" / "done"
        self._kept = home / "attempts" / "kept"
        self._rubbish = Rubbish(home / "attempts" / "removed")
        self._fetch_tree = fetch_tree
        self._clock = clock
        self._log_bytes = log_bytes
        if cgroups is None:
            cgroups = Cgroups.detect(f"lepton-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}")
        self._cgroups = cgroups
        self._containers = Containers.of(home)
        self._wants_containers = containers == "auto"
        self._runtime: Runtime | None = None
        self._changed = asyncio.Event()
        self._changed.set()
        self._supervisor = Supervisor(
            self._live,
            cgroups,
            now_ms=clock.now_ms,
            on_change=self._on_change,
            outside=self._containers,
        )
        self._environment = dict(os.environ)
        self._base_environment = base_environment(os.environ)
        self._templates = Templates(
            home / "attempts" / "templates",
            attempts=self._live,
            rubbish=self._rubbish,
            lay_out=self._lay_out,
            now_ms=clock.now_ms,
            on_change=self._changed.set,
        )
        self._gpus = Gpus()
        self.mounts_volumes = False  # else they are links
        self._gpu_meter = GpuMeter()
        self._preparing: dict[AttemptId, asyncio.Task[None]] = {}
        self._watching: set[asyncio.Task[None]] = set()  # copies, until they are ready
        self._fetches = asyncio.Semaphore(MAX_FETCHES)
        self._logs: dict[AttemptId, logs.Log] = {}
        self._ticker: asyncio.TimerHandle | None = None

    @property
    def group(self) -> str:
        return self._group

    @property
    def runs_images(self) -> bool:
        return self._runtime is not None

    async def open(self) -> None:
        """Adopt what is there.

        Raises:
            OSError: the home is not readable and writable.
        """
        self._live.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._done.mkdir(exist_ok=True, mode=0o700)
        self._kept.mkdir(exist_ok=True, mode=0o700)
        self._rubbish.open()
        self._epoch = EpochFile(self._home / "attempts" / "epoch")
        self._id = _identity(self._home / "attempts" / "id")
        self._gpus, self.mounts_volumes = await asyncio.gather(
            asyncio.to_thread(find_gpus), mounts.possible(self._home / "attempts")
        )
        if self._wants_containers:
            runtime = await find_runtime()
            if isinstance(runtime, NoRuntime):
                _log.warning("images are ignored: %s; %s", runtime.because, runtime.hint)
            else:
                self._runtime = runtime
        await self._supervisor.adopt()
        await self._templates.open()

    def forget_epochs(self) -> None:
        """Let any epoch in. For whoever holds the home's lock, and so knows that no earlier control
        plane is left: a database that is new, or was restored, counts its epochs from less."""
        self._epoch.forget()

    async def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        tasks = [*self._preparing.values(), *self._watching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._templates.close()
        await self._rubbish.close()
        await self._supervisor.close()

    # --- what is there ---------------------------------------------------------------------------

    async def machines(self) -> tuple[Machine, ...]:
        return (
            describe(
                self._home,
                id=self._id,
                node=self._node,
                group=self._group,
                limits=self._cgroups.limits,
                gpus=self._gpus,
            ),
        )

    async def observe(self, node: str) -> Observation:
        if node != self._node:
            return Unreachable(self._clock.now_ms(), f"this engine runs {self._node} alone")
        self._changed.clear()
        states: dict[AttemptId, AttemptState] = {
            id: Running(since) for id, since in self._supervisor.running.items()
        }
        for id, ending in self._supervisor.ended.items():
            states[id] = Ended(_termination(id, ending))
        return Seen(self._clock.now_ms(), states, self._templates.states)

    async def listens(self, node: str, attempt: AttemptId, port: int) -> bool | None:
        return node == self._node and await self._supervisor.listens(attempt, port)

    async def changed(self) -> None:
        await self._changed.wait()

    # --- start and stop --------------------------------------------------------------------------

    async def start(self, attempt: Attempt, *, epoch: int) -> None:
        self._admit(attempt.node, attempt.id, epoch)
        if (
            self._supervisor.knows(attempt.id)
            or attempt.id in self._preparing
            or (self._done / attempt.id).exists()
        ):
            return
        template = None
        # What mounts for a volume becomes the command, which a copy has not.
        if attempt.warm is not None and not attempt.image and not attempt.volumes:
            template = self._templates.find(attempt.warm.key)
        if attempt.trees or attempt.volumes or template is not None:
            task = asyncio.create_task(self._prepare_and_launch(attempt, template))
            self._preparing[attempt.id] = task
            task.add_done_callback(lambda _: self._preparing.pop(attempt.id, None))
        else:
            self._launch(attempt, {})

    async def warm(self, attempt: Attempt, *, epoch: int) -> None:
        self._admit(attempt.node, attempt.id, epoch)
        if attempt.warm is not None:
            for name in (attempt.warm.key, *(tree.at for tree in attempt.trees)):
                check_name(name)
            no_gpus = gpu_environment((), machine_has_gpus=self._gpus.count > 0)
            self._templates.load(attempt, {**self._base_environment, **no_gpus})

    async def cool(self, node: str, key: str, *, epoch: int) -> None:
        self._admit(node, "", epoch)
        self._templates.cool(key)

    async def stop(self, node: str, attempt: AttemptId, *, grace_ms: int, epoch: int) -> None:
        self._admit(node, attempt, epoch)
        if (self._done / attempt).exists():
            return
        try:
            # Before the preparation is given up: whatever it still does meets the claim.
            self._supervisor.stop(attempt, grace_ms / 1000)
        except OSError as error:
            raise _storage_error(error) from error
        if task := self._preparing.get(attempt):
            task.cancel()

    async def fence(self, node: str, *, epoch: int) -> bool:
        self._admit(node, "", epoch)
        for task in list(self._preparing.values()):
            task.cancel()
        await asyncio.gather(*self._preparing.values(), return_exceptions=True)
        ended = await self._supervisor.end_everything(FENCE_PATIENCE_S)
        return await self._templates.end_all(FENCE_PATIENCE_S) and ended

    async def forget(self, node: str, attempt: AttemptId, *, epoch: int) -> None:
        self._admit(node, attempt, epoch)
        if attempt in self._supervisor.running:
            raise Conflict(
                f"attempt {attempt} still runs", hint="stop it, and forget it when it has ended"
            )
        live = self._live / attempt
        shutil.rmtree(live / mounts.FILES, ignore_errors=True)  # nobody needs its secrets any more
        with suppress(FileNotFoundError):
            # One rename: the attempt is remembered or forgotten, whenever the plug is pulled.
            try:
                live.rename(self._done / attempt)
            except PermissionError:  # its program has taken our right to move it away
                live.chmod(MODE)
                live.rename(self._done / attempt)
        if attempt in self._supervisor.ended:
            self._supervisor.forget(attempt)
            self._changed.set()
        self._logs.pop(attempt, None)
        self._templates.sweep()

    async def remove(self, node: str, attempt: AttemptId, *, epoch: int) -> None:
        self._admit(node, attempt, epoch)
        self._rubbish.add(self._done / attempt)

    async def drop(self, node: str, keeps: str, *, epoch: int) -> None:
        self._admit(node, keeps, epoch)
        self._rubbish.add(self._kept / keeps)

    # --- logs ------------------------------------------------------------------------------------

    async def read_log(
        self, node: str, attempt: AttemptId, *, offset: int, limit: int
    ) -> LogChunk | None:
        path = self._log_path(node, attempt)
        if path is None:
            return None
        return logs.read(path, offset=offset, limit=min(limit, MAX_READ_BYTES))

    async def gpu_use(self, node: str) -> Mapping[int, float]:
        if not self._gpus.count:
            return {}
        return await asyncio.to_thread(self._gpu_meter.use)

    async def log_marks(self, node: str, attempt: AttemptId) -> LogMarks:
        path = self._log_path(node, attempt)
        if path is None:
            return LogMarks()
        log = self._logs.get(attempt)
        if log is not None:
            log.mark(self._now_ns())
            return log.marks
        log = logs.Log.open(path)
        ending = self._supervisor.ended.get(attempt) or Folder(path.parent).read()
        if isinstance(ending, Ending):
            log.mark(_end_ns(ending), last=True)
        return log.marks

    # --- starting --------------------------------------------------------------------------------

    async def _prepare_and_launch(self, attempt: Attempt, template: Path | None) -> None:
        try:
            if template is not None and await self._copy(attempt, template):
                return
            trees = {tree.at: self._tree_path(attempt.id, tree.at) for tree in attempt.trees}
            async with self._fetches:
                for tree in attempt.trees:
                    await self._lay_out(trees[tree.at], tree.digest)
            found = await asyncio.to_thread(mounts.find, attempt.volumes)
        except LeptonError as error:
            self._refuse(attempt.id, error.message)
        except OSError as error:
            self._refuse(attempt.id, _reason(error))
        except Exception as error:  # a fault of whoever fetches must not leave it waiting for ever
            self._refuse(attempt.id, f"its files could not be laid out: {error}")
        else:
            self._launch(attempt, trees, found)

    async def _lay_out(self, target: Path, digest: str) -> None:
        if target.exists():
            return  # an earlier control plane got this far: the name appears only when complete
        draft = target.with_name(f"{target.name}.draft")
        await asyncio.to_thread(shutil.rmtree, draft, True)
        draft.mkdir(parents=True)
        await self._fetch_tree(digest, draft)
        draft.rename(target)

    async def _copy(self, attempt: Attempt, template: Path) -> bool:
        """Start it as a copy of a template; False if none has claimed it."""
        if _taken_port(attempt.ports):
            return False  # which is told by the usual way
        folder = self._supervisor.folder(attempt.id)
        folder.prepare()
        # Before there is a copy: what it reads is not to be removed.
        with suppress(FileExistsError):
            Path(folder.at(COPY_OF)).symlink_to(template.name)
        trees = self._templates.trees(template, attempt.trees)
        launch = launch_of(attempt, folder, trees, (), self._host)
        copying = await self._supervisor.start_copy(launch, str(template))
        if copying is not None:
            task = asyncio.create_task(self._watch_copy(attempt, template, copying))
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)
        return self._supervisor.knows(attempt.id)

    async def _watch_copy(self, attempt: Attempt, template: Path, copying: Copying) -> None:
        trouble = await copying.trouble()
        if trouble is not None and attempt.warm is not None:
            self._templates.note_copy(attempt.warm.key, template, trouble)

    def _launch(
        self, attempt: Attempt, trees: Mapping[str, Path], found: Sequence[mounts.Found] = ()
    ) -> None:
        if taken := _taken_port(attempt.ports):
            self._refuse(attempt.id, f"port {taken} is taken on {self._node}")
            return
        folder = self._supervisor.folder(attempt.id)
        try:
            launch = launch_of(attempt, folder, trees, found, self._host)
            self._supervisor.start(launch)
        except LeptonError as error:
            self._refuse(attempt.id, error.message)
        except OSError as error:
            self._refuse(attempt.id, _reason(error))
        except ValueError as error:  # a zero byte in the command or in a variable
            self._refuse(attempt.id, f"it cannot be run: {error}")

    @property
    def _host(self) -> Host:
        return Host(
            kept=self._kept,
            environment=self._environment,
            base=self._base_environment,
            has_gpus=self._gpus.count > 0,
            mounts_volumes=self.mounts_volumes,
            containers=self._containers,
            runtime=self._runtime,
        )

    def _refuse(self, id: AttemptId, message: str) -> None:
        self._supervisor.refuse(id, message)

    def _tree_path(self, id: AttemptId, at: str) -> Path:
        check_name(at)
        return self._live / id / "trees" / at

    def _admit(self, node: str, attempt: AttemptId, epoch: int) -> None:
        if node != self._node:
            raise InvalidRequest(
                f"node {node!r} is not of this engine", hint=f"it runs {self._node!r} alone"
            )
        if attempt and not NAME.fullmatch(attempt):
            raise InvalidRequest(f"{attempt!r} is no attempt's id", hint="use letters and digits")
        try:
            self._epoch.admit(epoch)
        except OSError as error:
            raise _storage_error(error) from error

    # --- watching --------------------------------------------------------------------------------

    def _on_change(self, id: AttemptId) -> None:
        self._changed.set()
        if id in self._supervisor.ended:
            if log := self._logs.pop(id, None):
                log.close(_end_ns(self._supervisor.ended[id]), self._log_bytes)
            else:  # what it wrote while nobody looked
                with suppress(OSError):
                    logs.Log.open(self._live / id / "log").trim(self._log_bytes)
        elif id not in self._logs:
            self._logs[id] = logs.Log.open(self._live / id / "log")
            if self._ticker is None:
                self._tick_later()

    def _tick_later(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(LOG_TICK_S, self._tick)

    def _tick(self) -> None:
        """Date and bound the logs of what runs; stops with the last of them."""
        self._ticker = None
        now_ns = self._now_ns()
        for log in self._logs.values():
            log.mark(now_ns)
            with suppress(OSError):  # next time, then
                log.trim(self._log_bytes)
        if self._logs:
            self._tick_later()

    def _now_ns(self) -> int:
        return self._clock.now_ms() * 1_000_000

    def _log_path(self, node: str, attempt: AttemptId) -> Path | None:
        if node != self._node or not NAME.fullmatch(attempt):
            return None
        for place in (self._live, self._done):
            path = place / attempt / "log"
            if is_plain(path):
                return path
        return None


def _identity(path: Path) -> str:
    """Of this home, for as long as it lasts and wherever it is moved to."""
    if not path.exists():
        replace_file(path, secrets.token_hex(8))
    return path.read_text()


def _end_ns(ending: Ending) -> int:
    """The whole last millisecond is its."""
    return (ending.finished_at_ms + 1) * 1_000_000 - 1


def _termination(id: AttemptId, ending: Ending) -> Termination:
    _, _, number = id.rpartition(".")
    return Termination(
        reason=EndReason(ending.outcome.value),
        attempt=int(number) if number.isdigit() else 0,
        exit_code=ending.code,
        message=ending.message,
        started_at_ms=ending.started_at_ms,
        finished_at_ms=ending.finished_at_ms,
    )


def _taken_port(ports: tuple[int, ...]) -> int | None:
    """The first port that somebody listens on."""
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do: what is only left over from closed connections does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                return port
    return None


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    if error.errno == errno.E2BIG:
        return "its command and environment are longer than the system allows"
    return f"it cannot be started: {error.strerror or error}" + (
        f" ({error.filename})" if error.filename else ""
    )


def _storage_error(error: OSError) -> LeptonError:
    return StorageFull(
        f"the engine cannot write: {error.strerror or error}",
        hint="free space in the directory of the platform's state",
    )
