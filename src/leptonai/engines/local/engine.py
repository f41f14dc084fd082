"""`LocalEngine`: the engine port for one machine, over `leptonai.supervisor`."""

import asyncio
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from leptonai.core.records import EndReason, Termination
from leptonai.engines.local import mounts
from leptonai.engines.local.attempt_logs import AttemptLogs
from leptonai.engines.local.containers import Containers, NoRuntime, Runtime, find_runtime
from leptonai.engines.local.environment import base_environment, gpu_environment
from leptonai.engines.local.epoch import EpochFile
from leptonai.engines.local.gpus import GpuMeter
from leptonai.engines.local.launching import NAME, Host, check_name
from leptonai.engines.local.machine import Gpus, describe, find_gpus
from leptonai.engines.local.rubbish import Rubbish
from leptonai.engines.local.starting import FetchTree, Starting, lay_out
from leptonai.engines.local.templates import Templates
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
from leptonai.supervisor import Cgroups, Ending, Supervisor
from leptonai.supervisor.folder import MODE

DEFAULT_LOG_BYTES = 64 << 20  # kept of each attempt
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
        self._logs = AttemptLogs(self._live, self._done, keep_bytes=log_bytes, now_ms=clock.now_ms)
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
        self._base_environment = base_environment(os.environ)
        self._templates = Templates(
            home / "attempts" / "templates",
            attempts=self._live,
            rubbish=self._rubbish,
            lay_out=lambda target, digest: lay_out(target, digest, fetch_tree),
            now_ms=clock.now_ms,
            on_change=self._changed.set,
        )
        self._gpus = Gpus()
        self.mounts_volumes = False  # else they are links
        self._gpu_meter = GpuMeter()

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
        host = Host(
            kept=self._kept,
            environment=dict(os.environ),
            base=self._base_environment,
            has_gpus=self._gpus.count > 0,
            mounts_volumes=self.mounts_volumes,
            containers=self._containers,
            runtime=self._runtime,
        )
        self._starting = Starting(self._supervisor, self._templates, self._fetch_tree, host)
        await self._supervisor.adopt()
        await self._templates.open()

    def forget_epochs(self) -> None:
        """Let any epoch in. For whoever holds the home's lock, and so knows that no earlier control
        plane is left: a database that is new, or was restored, counts its epochs from less."""
        self._epoch.forget()

    async def close(self) -> None:
        self._logs.close()
        await self._starting.close()
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
            or attempt.id in self._starting
            or (self._done / attempt.id).exists()
        ):
            return
        self._starting.start(attempt)

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
        self._starting.give_up(attempt)

    async def fence(self, node: str, *, epoch: int) -> bool:
        self._admit(node, "", epoch)
        await self._starting.give_up_all()
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
        self._logs.forget(attempt)
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
        if not self._has(node, attempt):
            return None
        return self._logs.read(attempt, offset=offset, limit=limit)

    async def gpu_use(self, node: str) -> Mapping[int, float]:
        if not self._gpus.count:
            return {}
        return await asyncio.to_thread(self._gpu_meter.use)

    async def log_marks(self, node: str, attempt: AttemptId) -> LogMarks:
        if not self._has(node, attempt):
            return LogMarks()
        return self._logs.marks(attempt, self._supervisor.ended.get(attempt))

    def _has(self, node: str, attempt: AttemptId) -> bool:
        """Whether it may be one of ours."""
        return node == self._node and NAME.fullmatch(attempt) is not None

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

    def _on_change(self, id: AttemptId) -> None:
        self._changed.set()
        if ending := self._supervisor.ended.get(id):
            self._logs.ended(id, ending)
        else:
            self._logs.began(id)


def _identity(path: Path) -> str:
    """Of this home, for as long as it lasts and wherever it is moved to."""
    if not path.exists():
        replace_file(path, secrets.token_hex(8))
    return path.read_text()


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


def _storage_error(error: OSError) -> LeptonError:
    return StorageFull(
        f"the engine cannot write: {error.strerror or error}",
        hint="free space in the directory of the platform's state",
    )
